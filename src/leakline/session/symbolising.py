"""Frames for what a recorder saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from leakline.errors import LeaklineError
from leakline.symbols.resolver import Resolver
from leakline.symbols.unwinding import joined, unwind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    try:
        resolver = resolver_for(procfs, pid)
    except LeaklineError as error:
        say(f"no symbols: {error.message}")
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
    frames = resolver.frames({address for allocation in completed for address in allocation.stack})
    for problem in resolver.problems:
        say(f"symbols: {problem}")
    return tuple(completed), frames
