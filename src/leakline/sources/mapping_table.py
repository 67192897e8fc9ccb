"""All mappings of all processes, by name: every smaps of the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from leakline.errors import ParseError
from leakline.model.accounting import Coverage, Group
from leakline.model.names import readable
from leakline.sources.maps import SmapsAmounts, SmapsReader
from leakline.sources.parsing import read_whole
from leakline.sources.process_files import parse_stat

if TYPE_CHECKING:
    from collections.abc import Callable

    from leakline.sources.machine import Machine

ANONYMOUS = "[anon]"


class _Sum:
    __slots__ = ("amounts", "processes", "size")

    def __init__(self) -> None:
        self.amounts: dict[SmapsAmounts, int] = {}
        self.size = self.processes = 0

    def add(self, amounts: SmapsAmounts, size: int) -> None:
        """Count one mapping; the same amounts come again and again, and are multiplied at the end."""
        self.amounts[amounts] = self.amounts.get(amounts, 0) + 1
        self.size += size


class MappingTableReader:
    """Sums over the mappings of each name.

    Args:
        machine: whose.

    """

    def __init__(self, machine: Machine) -> None:
        self._root = os.fspath(machine.proc)
        self._live = machine.live
        self._sums: dict[str, _Sum] = {}
        self._reader = SmapsReader()

    def read(self) -> tuple[list[Group], Coverage]:
        """One pass."""
        seen = readable_ones = vanished = kernel_threads = zombies = 0
        for name in os.listdir(self._root):
            if not name.isdigit():
                continue
            seen += 1
            try:
                data = read_whole(f"{self._root}/{name}/smaps")
            except PermissionError:
                continue
            except OSError:
                # A capture lacks what could not be read when it was taken.
                vanished += self._live
                continue
            if not data:
                try:
                    stat = parse_stat(read_whole(f"{self._root}/{name}/stat"))
                    data = self._of_another_thread(name) if stat.is_zombie and stat.threads > 1 else b""
                except (OSError, ParseError):
                    vanished += 1
                    continue
                if not data:
                    kernel_threads += stat.is_kernel_thread
                    zombies += not stat.is_kernel_thread
                    continue
            readable_ones += 1
            self._add(data)
        coverage = Coverage(
            seen=seen - kernel_threads,
            readable=readable_ones,
            vanished=vanished,
            kernel_threads=kernel_threads,
            zombies=zombies,
        )
        return [_group(name, found) for name, found in self._sums.items()], coverage

    def _of_another_thread(self, name: str) -> bytes:
        """The mappings of a process whose first thread has ended."""
        for tid in os.listdir(f"{self._root}/{name}/task"):
            try:
                data = read_whole(f"{self._root}/{name}/task/{tid}/smaps")
            except OSError:
                continue
            if data:
                return data
        return b""

    def _add(self, data: bytes) -> None:
        met: set[str] = set()
        for vma, amounts, _ in self._reader.mappings([data]):
            name = vma.path or ""
            found = self._sums.get(name)
            if found is None:
                found = self._sums[name] = _Sum()
            if name not in met:
                met.add(name)
                found.processes += 1
            if name != "[vsyscall]":
                found.add(amounts, vma.size)


def _group(name: str, found: _Sum) -> Group:
    def total(amount: Callable[[SmapsAmounts], int | None]) -> int:
        return sum((amount(amounts) or 0) * times for amounts, times in found.amounts.items())

    return Group(
        name=readable(name) or ANONYMOUS,
        count=found.processes,
        unreadable=0,
        vss=found.size,
        rss=total(lambda a: a.usage.rss),
        pss=total(lambda a: a.usage.pss),
        uss=total(lambda a: a.usage.uss + (a.private_hugetlb or 0)),
        swap=total(lambda a: a.usage.swap),
        swap_pss=total(lambda a: a.usage.swap_pss),
    )
