"""The mappings of a process as they are at each moment: followed by the kernel's events, which tell of everything but munmap."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from leakline.analysis.vma_kind import describe_mappings
from leakline.model.faults import FaultVma, Neighbour
from leakline.model.memory import MemoryUsage
from leakline.model.names import readable
from leakline.model.ranges import subtract
from leakline.model.vma import Vma, VmaUsage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NOTHING = MemoryUsage(**dict.fromkeys(MemoryUsage.__struct_fields__, 0))
_MOST_PAST = 4096


class AddressSpace:
    """The mappings of one process.

    Args:
        vmas: as they are at the beginning.

    """

    def __init__(self, vmas: Iterable[Vma] = ()) -> None:
        self._vmas = sorted(vmas, key=lambda vma: vma.start)
        self._starts = [vma.start for vma in self._vmas]
        self._past: list[Vma] = []
        self._described: dict[int, FaultVma] = {}

    @property
    def vmas(self) -> tuple[Vma, ...]:
        """All that are known, in order of address."""
        return tuple(self._vmas)

    def copy(self) -> AddressSpace:
        """That of a child."""
        return AddressSpace(self._vmas)

    def at(self, address: int) -> Vma | None:
        """The mapping that holds an address."""
        index = bisect.bisect_right(self._starts, address) - 1
        return self._vmas[index] if index >= 0 and address in self._vmas[index] else None

    def add(self, vma: Vma) -> None:
        """A mapping that is new, or has new bounds or permissions; what it covers is gone."""
        kept = []
        low = max(0, bisect.bisect_right(self._starts, vma.start) - 1)
        high = bisect.bisect_left(self._starts, vma.end)
        for old in self._vmas[low:high]:
            if old.end <= vma.start:
                kept.append(old)
                continue
            if _identity(old) != _identity(vma):
                self._remember(old)
            if old.start < vma.start:
                kept.append(_cut(old, old.start, vma.start))
            if old.end > vma.end:
                kept.append(_cut(old, vma.end, old.end))
        for near in self._vmas[max(0, low - 2) : high + 2]:  # what a mapping is hangs on its neighbours
            self._described.pop(near.start, None)
        placed = sorted([*kept, vma], key=lambda v: v.start)
        self._vmas[low:high] = placed
        self._starts[low:high] = [v.start for v in placed]

    def replace(self, vmas: Iterable[Vma]) -> None:
        """The mappings as /proc/PID/maps has them now: what is not among them any more was unmapped."""
        before = self._vmas
        self._vmas = sorted(vmas, key=lambda vma: vma.start)
        self._starts = [vma.start for vma in self._vmas]
        self._described.clear()
        same = [(vma, _identity(vma)) for vma in self._vmas]
        for old in before:
            identity = _identity(old)
            still = [(vma.start, vma.end) for vma, its in same if its == identity and vma.start < old.end and vma.end > old.start]
            for start, end in subtract([(old.start, old.end)], still):
                self._remember(_cut(old, start, end))

    def _remember(self, vma: Vma) -> None:
        self._past.append(vma)
        if len(self._past) > 2 * _MOST_PAST:
            del self._past[:_MOST_PAST]

    def was_at(self, address: int) -> FaultVma | None:
        """What was mapped at an address before, last, where nothing is now."""
        vma = next((vma for vma in reversed(self._past) if address in vma), None)
        return None if vma is None else _described([vma], vma)

    def describe(self, vma: Vma, stack_pointer: int | None = None) -> FaultVma:
        """What a mapping is."""
        found = self._described.get(vma.start)
        if found is None or found.end != vma.end:
            index = bisect.bisect_left(self._starts, vma.start)
            window = self._vmas[max(0, index - 2) : index + 2]
            if vma.inode:
                program = (v for v in self._vmas if v.perms[2] == "x" and (v.device, v.inode) == (vma.device, vma.inode))
                window = sorted({v.start: v for v in (*window, *program)}.values(), key=lambda v: v.start)
            found = self._described[vma.start] = _described(window, vma)
        if found.kind == "anon" and stack_pointer is not None and stack_pointer in vma:
            return _with_kind(found)
        return found

    def neighbours(self, address: int) -> tuple[Neighbour, ...]:
        """The mappings before and behind an address."""
        index = bisect.bisect_right(self._starts, address)
        found = []
        if index > 0 and address not in self._vmas[index - 1]:
            below = self._vmas[index - 1]
            found.append(Neighbour(side="below", distance=address - below.end, vma=self.describe(below)))
        if index < len(self._vmas):
            above = self._vmas[index]
            found.append(Neighbour(side="above", distance=above.start - address, vma=self.describe(above)))
        return tuple(found)


def _identity(vma: Vma) -> tuple[object, ...]:
    return vma.perms, vma.inode, vma.device, vma.path


def _cut(vma: Vma, start: int, end: int) -> Vma:
    offset = vma.offset + start - vma.start if vma.is_file else vma.offset
    return Vma(start, end, vma.perms, offset, vma.device, vma.inode, vma.path)


def _described(window: Sequence[Vma], vma: Vma) -> FaultVma:
    rows = describe_mappings([VmaUsage(v, _NOTHING) for v in window], {})
    row = next(row for row in rows if row.start == vma.start)
    path = None if vma.path is None else readable(vma.path)
    return FaultVma(start=vma.start, end=vma.end, perms=vma.perms, kind=row.kind, path=path)


def _with_kind(vma: FaultVma) -> FaultVma:
    return FaultVma(start=vma.start, end=vma.end, perms=vma.perms, kind="thread stack", path=vma.path)
