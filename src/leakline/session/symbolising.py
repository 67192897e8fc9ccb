"""Frames for what a recorder saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from leakline.errors import LeaklineError
from leakline.model.heap import AllocationSite
from leakline.symbols.resolver import Resolver
from leakline.symbols.unwinding import joined, unwind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from leakline.model.heap import Census
    from leakline.model.stack import Frame
    from leakline.model.trace import Allocation
    from leakline.model.vma import Vma
    from leakline.sources.procfs import ProcFs


def resolver_for(procfs: ProcFs, pid: int, vmas: Sequence[Vma] | None = None) -> Resolver:
    """A resolver over what the process maps now, or mapped when `vmas` were read."""
    root = bytes(procfs.root / str(pid) / "root")
    return Resolver(procfs.maps(pid) if vmas is None else vmas, lambda vma: procfs.mapped_file(pid, vma), root)


def with_stacks(
    procfs: ProcFs, pid: int, allocations: Sequence[Allocation], say: Callable[[str], None]
) -> tuple[tuple[Allocation, ...], dict[int, tuple[Frame, ...]]]:
    """The allocations with as much of their stacks as can be told, and the frames of every return address in them."""
    if not allocations:
        return (), {}
    resolver = _resolver(procfs, pid, say)
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
    resolver = _resolver(procfs, pid, say) if stacks else None
    if resolver is None:
        return census
    found = _frames(resolver, {address for stack in stacks.values() for address in stack}, say)
    places: dict[Frame, int] = {}
    sites = tuple(
        AllocationSite(number, tuple(places.setdefault(frame, len(places)) for address in stack for frame in found[address]))
        for number, stack in sorted(stacks.items())
    )
    return msgspec.structs.replace(census, sites=sites, frames=tuple(places))


def _resolver(procfs: ProcFs, pid: int, say: Callable[[str], None]) -> Resolver | None:
    try:
        return resolver_for(procfs, pid)
    except LeaklineError as error:
        say(f"no symbols: {error.message}")
        return None


def _frames(resolver: Resolver, addresses: set[int], say: Callable[[str], None]) -> dict[int, tuple[Frame, ...]]:
    frames = resolver.frames(addresses)
    for problem in resolver.problems:
        say(f"symbols: {problem}")
    return frames
