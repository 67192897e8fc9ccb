"""Frames for what a recorder saw."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import msgspec

from leakline.errors import LeaklineError, ParseError
from leakline.formats.elf import Elf
from leakline.model.heap import AllocationSite
from leakline.model.names import readable
from leakline.sources.agent import UNLOADED_CODE, find_agent
from leakline.symbols.resolver import Resolver
from leakline.symbols.unwinding import joined, unwind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from leakline.model.heap import Census
    from leakline.model.stack import Frame
    from leakline.model.trace import Allocation
    from leakline.model.vma import Vma
    from leakline.sources.agent import UnloadedModule
    from leakline.sources.procfs import ProcFs


def resolver_for(procfs: ProcFs, pid: int, vmas: Sequence[Vma] | None = None, unloaded: Sequence[UnloadedModule] = ()) -> Resolver:
    """A resolver over what the process maps now, or mapped when `vmas` were read; and over what it has unloaded."""
    root = bytes(procfs.root / str(pid) / "root")
    gone = {module.vma.start: module for module in unloaded}

    def open_as(vma: Vma) -> bytes | None:
        return procfs.mapped_file(pid, vma) if vma.start not in gone else _file_of(procfs, pid, gone[vma.start])

    mapped = procfs.maps(pid) if vmas is None else vmas
    return Resolver([*mapped, *(module.vma for module in unloaded)], open_as, root)


def _file_of(procfs: ProcFs, pid: int, module: UnloadedModule) -> bytes | None:
    """The file of a module that is no longer loaded; None where it is gone too, or is another one by now."""
    if module.vma.path is None:
        return None
    folder, path = os.fsencode(procfs.root / str(pid)), os.fsencode(module.vma.path)
    candidate = folder + b"/root" + path if path.startswith(b"/") else folder + b"/cwd/" + path
    try:
        if not stat.S_ISREG(os.stat(candidate).st_mode):
            return None
        with Elf.open(candidate, module.vma.path) as elf:
            return candidate if elf.build_id == module.build_id else None
    except (OSError, ParseError):
        return None


def with_stacks(
    procfs: ProcFs, pid: int, allocations: Sequence[Allocation], say: Callable[[str], None]
) -> tuple[tuple[Allocation, ...], dict[int, tuple[Frame, ...]]]:
    """The allocations with as much of their stacks as can be told, and the frames of every return address in them."""
    if not allocations:
        return (), {}
    resolver = _resolver(procfs, pid, {address for allocation in allocations for address in allocation.stack}, say)
    if resolver is None:
        return tuple(allocations), {}
    completed = []
    unwound: dict[int, tuple[int, ...]] = {}  # a copied top serves many allocations
    for allocation in allocations:
        if allocation.top is None:
            completed.append(allocation)
            continue
        exact = unwound.get(id(allocation.top))
        if exact is None:
            exact = unwound[id(allocation.top)] = unwind(allocation.top, resolver.frame_rule, resolver.frame_row)
        stack = joined(exact, allocation.stack)
        completed.append(msgspec.structs.replace(allocation, stack=stack, exact=max(len(exact), 1), top=None))
    return tuple(completed), _frames(resolver, {address for allocation in completed for address in allocation.stack}, say)


def with_sites(
    procfs: ProcFs, pid: int, census: Census, stacks: Mapping[int, tuple[int, ...]], say: Callable[[str], None]
) -> Census:
    """The census with its sites: the frames of each stack.

    Args:
        procfs: where the process is.
        pid: which.
        census: of it.
        stacks: return addresses by the number of the site.
        say: hears what cannot be told.

    """
    addresses = {address for stack in stacks.values() for address in stack}
    resolver = _resolver(procfs, pid, addresses, say) if stacks else None
    if resolver is None:
        return census
    found = _frames(resolver, addresses, say)
    places: dict[Frame, int] = {}
    sites = tuple(
        AllocationSite(number, tuple(places.setdefault(frame, len(places)) for address in stack for frame in found[address]))
        for number, stack in sorted(stacks.items())
    )
    return msgspec.structs.replace(census, sites=sites, frames=tuple(places))


def _resolver(procfs: ProcFs, pid: int, addresses: set[int], say: Callable[[str], None]) -> Resolver | None:
    try:
        vmas = procfs.maps(pid)
        agent = find_agent(procfs, pid, vmas) if max(addresses, default=0) >= UNLOADED_CODE else None
        unloaded = () if agent is None else agent.unloaded()
        for module in unloaded:
            if module.build_id is None and module.vma.path and any(address in module.vma for address in addresses):
                say(f"symbols: {readable(module.vma.path)} was unloaded, and has no build-id: its file may be another one by now")
        return resolver_for(procfs, pid, vmas, unloaded)
    except LeaklineError as error:
        say(f"no symbols: {error.message}")
        return None


def _frames(resolver: Resolver, addresses: set[int], say: Callable[[str], None]) -> dict[int, tuple[Frame, ...]]:
    frames = resolver.frames(addresses)
    for problem in resolver.problems:
        say(f"symbols: {problem}")
    return frames
