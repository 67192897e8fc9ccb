"""Frames for what a recorder saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.errors import LeaklineError
from leakline.symbols.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from leakline.model.stack import Frame
    from leakline.model.trace import Allocation
    from leakline.sources.procfs import ProcFs


def resolver_for(procfs: ProcFs, pid: int) -> Resolver:
    """A resolver over what the process maps now."""
    root = bytes(procfs.root / str(pid) / "root")
    return Resolver(procfs.maps(pid), lambda vma: procfs.mapped_file(pid, vma), root)


def frames_of(
    procfs: ProcFs, pid: int, allocations: Iterable[Allocation], say: Callable[[str], None]
) -> dict[int, tuple[Frame, ...]]:
    """The frames of every return address in the allocations' stacks."""
    addresses = {address for allocation in allocations for address in allocation.stack}
    if not addresses:
        return {}
    try:
        resolver = resolver_for(procfs, pid)
    except LeaklineError as error:
        say(f"no symbols: {error.message}")
        return {}
    frames = resolver.frames(addresses)
    for problem in resolver.problems:
        say(f"symbols: {problem}")
    return frames
