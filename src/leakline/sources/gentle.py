"""What a process holds, read so that it does not notice: no lock on its address space is held for longer than a small step.

smaps_rollup walks all page tables under one lock, which stalls the target's mmap and page faults for about 10 ms per GiB.
Sources: PROCMAP_QUERY (Linux 6.11) and PAGEMAP_SCAN (Linux 6.7), include/uapi/linux/fs.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from leakline.errors import NotPossible

_PROCMAP_QUERY = 0xC0686611
_COVERING_OR_NEXT = 0x10
_QUERY = struct.Struct("=9Q4I2Q")
_PAGEMAP_SCAN = 0xC0606610
_PRESENT, _SWAPPED, _ZERO_PAGE, _HUGE = 1 << 3, 1 << 4, 1 << 5, 1 << 6
_SCAN = struct.Struct("=12Q")
_REGIONS = 1024
_STEP = 64 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


class GentleMapping(NamedTuple):
    """One mapping, in bytes. Shared memory in swap is not seen: page tables do not tell it."""

    start: int
    end: int
    rss: int
    swap: int
    thp: int


def gentle_mappings(folder: int, thread: str = "") -> Iterator[GentleMapping]:
    """The mappings of a process and what each holds; hugetlb counts as nothing, as it does in RSS.

    Args:
        folder: descriptor of /proc/PID.
        thread: `task/TID/` to ask one of its threads instead.

    Raises:
        OSError: ProcessLookupError where there is no memory behind it, PermissionError where it may not be read.
        NotPossible: this kernel has no such calls.

    """
    maps = os.open(f"{thread}maps", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        pagemap = os.open(f"{thread}pagemap", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
        try:
            yield from _mappings(maps, pagemap)
        finally:
            os.close(pagemap)
    finally:
        os.close(maps)


def _mappings(maps: int, pagemap: int) -> Iterator[GentleMapping]:
    regions = ctypes.create_string_buffer(24 * _REGIONS)
    at = 0
    while True:
        query = bytearray(_QUERY.pack(_QUERY.size, _COVERING_OR_NEXT, at, *[0] * 12))
        try:
            _ioctl(maps, _PROCMAP_QUERY, query)
        except FileNotFoundError:
            return  # no mapping there or behind
        _, _, _, start, end, _, page_size, *_ = _QUERY.unpack(query)
        if end <= at or start >= 1 << 63:  # [vsyscall] is the kernel's
            return
        rss, swap, thp = (0, 0, 0) if page_size > _PAGE else _held(pagemap, start, end, regions)
        yield GentleMapping(start, end, rss, swap, thp)
        at = end


def _held(pagemap: int, start: int, end: int, regions: ctypes.Array[ctypes.c_char]) -> tuple[int, int, int]:
    rss = swap = thp = 0
    while start < end:
        # At most so many pages a call: what is not there costs nothing.
        head = _SCAN.size, 0, start, end, 0, ctypes.addressof(regions), _REGIONS, _STEP // _PAGE
        arguments = bytearray(_SCAN.pack(*head, _ZERO_PAGE, _ZERO_PAGE, _PRESENT | _SWAPPED, _PRESENT | _SWAPPED | _HUGE))
        count = _ioctl(pagemap, _PAGEMAP_SCAN, arguments)
        for first, last, categories in struct.iter_unpack("=3Q", regions.raw[: 24 * count]):
            if categories & _SWAPPED:
                swap += last - first
            elif categories & _PRESENT:
                rss += last - first
                thp += last - first if categories & _HUGE else 0
        reached = _SCAN.unpack(arguments)[4]
        if reached <= start:
            break
        start = reached
    return rss, swap, thp


def _ioctl(file: int, request: int, arguments: bytearray) -> int:
    try:
        return int(fcntl.ioctl(file, request, arguments))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            raise NotPossible(
                "this kernel cannot be asked gently", hint="PROCMAP_QUERY takes Linux 6.11: leave --gentle out."
            ) from error
        raise
