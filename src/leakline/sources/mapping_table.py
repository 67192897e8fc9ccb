"""All mappings of all processes, by name: every smaps of the machine."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from operator import add
from typing import TYPE_CHECKING

from leakline.errors import NotPossible, ParseError
from leakline.model.accounting import Coverage, Group
from leakline.model.names import readable
from leakline.native.smaps import SmapsSums
from leakline.sources.maps import SmapsAmounts, SmapsReader, path_of
from leakline.sources.parsing import read_whole
from leakline.sources.process_files import parse_stat

if TYPE_CHECKING:
    from collections.abc import Callable

    from leakline.sources.machine import Machine

ANONYMOUS = "[anon]"


_Sums = tuple[int, ...]
"""Processes, size, rss, pss, uss, swap and swap_pss."""


class _Counted:
    """The mappings of one name, counted in Python."""

    __slots__ = ("amounts", "processes", "size")

    def __init__(self) -> None:
        self.amounts: dict[SmapsAmounts, int] = {}
        self.size = self.processes = 0

    def add(self, amounts: SmapsAmounts, size: int) -> None:
        """Count one mapping; the same amounts come again and again, and are multiplied at the end."""
        self.amounts[amounts] = self.amounts.get(amounts, 0) + 1
        self.size += size

    def sums(self) -> _Sums:
        """All of them."""

        def total(amount: Callable[[SmapsAmounts], int | None]) -> int:
            return sum((amount(amounts) or 0) * times for amounts, times in self.amounts.items())

        return (
            self.processes,
            self.size,
            total(lambda a: a.usage.rss),
            total(lambda a: a.usage.pss),
            total(lambda a: a.usage.uss + (a.private_hugetlb or 0)),
            total(lambda a: a.usage.swap),
            total(lambda a: a.usage.swap_pss),
        )


class MappingCounter:
    """Sums over the mappings of each name, in any number of smaps files."""

    def __init__(self) -> None:
        self._counted: dict[str, _Counted] = {}
        self._reader = SmapsReader()

    def add(self, data: bytes) -> None:
        """Count those of one file.

        Raises:
            ParseError: it is cut short, or of another form.

        """
        met: set[str] = set()
        for vma, amounts, _ in self._reader.mappings([data]):
            name = vma.path or ""
            found = self._counted.get(name)
            if found is None:
                found = self._counted[name] = _Counted()
            if name not in met:
                met.add(name)
                found.processes += 1
            if name != "[vsyscall]":
                found.add(amounts, vma.size)

    def by_name(self) -> dict[str, _Sums]:
        """The sums of each name; "" for those without."""
        return {name: found.sums() for name, found in self._counted.items()}


def _counting_in_c() -> AbstractContextManager[SmapsSums | None]:
    try:
        return SmapsSums()
    except NotPossible:
        return nullcontext()


class MappingTableReader:
    """Sums over the mappings of each name.

    Args:
        machine: whose.

    """

    def __init__(self, machine: Machine) -> None:
        self._root = os.fspath(machine.proc)
        self._live = machine.live
        self._counter = MappingCounter()

    def read(self) -> tuple[list[Group], Coverage]:
        """One pass.

        Raises:
            ParseError: a file is cut short, or of another form.

        """
        with _counting_in_c() as in_c:
            coverage = self._read(in_c)
            sums = {} if in_c is None else {path_of(name): found for name, found in in_c.by_name().items()}
        for name, found in self._counter.by_name().items():
            sums[name] = tuple(map(add, sums[name], found)) if name in sums else found
        return [_group(name, found) for name, found in sums.items()], coverage

    def _read(self, in_c: SmapsSums | None) -> Coverage:
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
            if in_c is None or not in_c.add(data):
                self._counter.add(data)
        return Coverage(
            seen=seen - kernel_threads,
            readable=readable_ones,
            vanished=vanished,
            kernel_threads=kernel_threads,
            zombies=zombies,
        )

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


def _group(name: str, sums: _Sums) -> Group:
    processes, size, rss, pss, uss, swap, swap_pss = sums
    return Group(
        name=readable(name) or ANONYMOUS,
        count=processes,
        unreadable=0,
        vss=size,
        rss=rss,
        pss=pss,
        uss=uss,
        swap=swap,
        swap_pss=swap_pss,
    )
