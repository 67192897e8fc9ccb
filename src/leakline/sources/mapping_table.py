"""All mappings of all processes, by name: every smaps of the machine.

The lines of smaps blocks stand in the same order in every block of a kernel: the stride is learned from the first file and checked
on every block; a file that differs is parsed line by line.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from leakline.errors import ParseError
from leakline.model.accounting import Coverage, Group
from leakline.model.names import readable
from leakline.sources.maps import parse_smaps
from leakline.sources.parsing import text
from leakline.sources.process_files import parse_stat

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 1 << 16
_KEYS = (b"Size:", b"Rss:", b"Pss:", b"Private_Clean:", b"Private_Dirty:", b"Swap:", b"SwapPss:", b"Private_Hugetlb:")
_NAME_COLUMN = 73  # fs/proc/task_mmu.c, show_vma_header_prefix(): names begin there, unless the inode is very long
ANONYMOUS = "[anon]"


class _Amounts(dict[bytes, int]):
    """Bytes of a line `Key:   123 kB`; the same lines come again and again."""

    def __missing__(self, line: bytes) -> int:
        try:
            value = self[line] = int(line[line.index(b":") + 1 : -3]) << 10
        except ValueError as error:
            raise ParseError(f"smaps: {line[:60]!r} is no amount") from error
        return value


class _Sum:
    __slots__ = ("amounts", "processes")

    def __init__(self) -> None:
        self.amounts = [0] * len(_KEYS)
        self.processes = 0


class MappingTableReader:
    """Sums over the mappings of each name.

    Args:
        root: a /proc.

    """

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root)
        self._sums: dict[bytes, _Sum] = {}
        self._amounts = _Amounts()
        self._stride = 0
        self._places: tuple[int, ...] = ()

    def read(self) -> tuple[list[Group], Coverage]:
        """One pass."""
        seen = readable_ones = vanished = kernel_threads = zombies = 0
        for name in os.listdir(self._root):
            if not name.isdigit():
                continue
            seen += 1
            try:
                data = _read(f"{self._root}/{name}/smaps")
            except PermissionError:
                continue
            except OSError:
                vanished += 1
                continue
            if not data:
                try:
                    stat = parse_stat(_read(f"{self._root}/{name}/stat"))
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
                data = _read(f"{self._root}/{tid}/smaps")
            except OSError:
                continue
            if data:
                return data
        return b""

    def _add(self, data: bytes) -> None:
        lines = data.split(b"\n")
        lines.pop()
        if not self._stride:
            self._learn(lines)
        if not self._fits(lines):
            self._add_slowly(data)
            return
        stride, amounts = self._stride, self._amounts
        columns = [[amounts[line] for line in lines[place::stride]] for place in self._places]
        met: set[bytes] = set()
        for head, *values in zip(lines[::stride], *columns, strict=True):
            name = _name(head)
            found = self._sums.get(name)
            if found is None:
                found = self._sums[name] = _Sum()
            if name not in met:
                met.add(name)
                found.processes += 1
            if name != b"[vsyscall]":
                found.amounts = [a + b for a, b in zip(found.amounts, values, strict=True)]

    def _learn(self, lines: list[bytes]) -> None:
        end = next((i for i, line in enumerate(lines) if line.startswith(b"VmFlags:")), None)
        if end is None:
            return
        block = lines[: end + 1]
        places = [next((i for i, line in enumerate(block) if line.startswith(key)), None) for key in _KEYS]
        if all(place is not None for place in places):
            self._stride = end + 1
            self._places = tuple(place for place in places if place is not None)

    def _fits(self, lines: list[bytes]) -> bool:
        stride = self._stride
        if not stride or len(lines) % stride:
            return False
        ends = lines[stride - 1 :: stride]
        if not all(line.startswith(b"VmFlags:") for line in ends):
            return False
        return all(all(line.startswith(key) for line in lines[p::stride]) for p, key in zip(self._places, _KEYS, strict=True))

    def _add_slowly(self, data: bytes) -> None:
        met: set[bytes] = set()
        for entry in parse_smaps(data):
            name = os.fsencode(entry.vma.path or "")
            found = self._sums.setdefault(name, _Sum())
            if name not in met:
                met.add(name)
                found.processes += 1
            u = entry.usage
            values = (entry.vma.size, u.rss, u.pss, u.private_clean, u.private_dirty, u.swap, u.swap_pss or 0, 0)
            found.amounts = [a + b for a, b in zip(found.amounts, values, strict=True)]


def _name(head: bytes) -> bytes:
    if len(head) < _NAME_COLUMN:
        return b""
    if head[_NAME_COLUMN - 2 : _NAME_COLUMN] == b"  ":
        return head[_NAME_COLUMN:].replace(rb"\012", b"\n")
    fields = head.split(None, 5)
    return fields[5].replace(rb"\012", b"\n") if len(fields) > 5 else b""


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, _CHUNK):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts)


def _group(name: bytes, found: _Sum) -> Group:
    size, rss, pss, clean, dirty, swap, swap_pss, huge = found.amounts
    return Group(
        name=readable(text(name)) or ANONYMOUS,
        count=found.processes,
        unreadable=0,
        vss=size,
        rss=rss,
        pss=pss,
        uss=clean + dirty + huge,
        swap=swap,
        swap_pss=swap_pss,
    )
