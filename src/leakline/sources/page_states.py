"""Which pages of a process are there, and whose they are (/proc/PID/pagemap, Documentation/admin-guide/mm/pagemap.rst)."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from leakline.model.faults import ABSENT, FILE, SHARED, SWAPPED, WRITTEN
from leakline.sources.procfs import translated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from leakline.model.vma import Vma

_PAGE = 4096
_STEP = 1 << 30
_LARGEST = 8 << 30
_PRESENT, _SWAPPED, _FILE, _EXCLUSIVE = 63, 62, 61, 56
HUGE = 2 << 20
# ioctl PAGEMAP_SCAN, Linux 6.7 (include/uapi/linux/fs.h).
_PAGEMAP_SCAN = 0xC0606610
_IS_PRESENT, _IS_HUGE = 1 << 3, 1 << 6
_SCAN = struct.Struct("=12Q")


def page_states(root: Path, pid: int, vmas: Iterable[Vma]) -> Iterator[tuple[int, bytes]]:
    """The states of the pages of these mappings, as (start, a byte for each page); very large mappings are left out.

    Raises:
        PermissionNeeded: it takes the right to trace the process.
        TargetGone: it has ended.

    """
    import numpy as np

    with translated(pid, "read pagemap"):
        file = os.open(root / str(pid) / "pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for vma in vmas:
                if vma.size > _LARGEST:
                    continue
                for start in range(vma.start, vma.end, _STEP):
                    wanted = (min(vma.end, start + _STEP) - start) // _PAGE * 8
                    entries = np.frombuffer(os.pread(file, wanted, start // _PAGE * 8), "<u8")
                    bit = (entries[:, None] >> np.array([_PRESENT, _SWAPPED, _FILE, _EXCLUSIVE], "<u8")) & np.uint64(1)
                    present, swapped, of_file, exclusive = (column.astype(bool) for column in bit.T)
                    states = np.full(len(entries), ABSENT, np.uint8)
                    states[present] = np.where(of_file, FILE, np.where(exclusive, WRITTEN, SHARED))[present]
                    states[swapped] = SWAPPED
                    yield start, states.tobytes()
        finally:
            os.close(file)


class HugePages:
    """Tells which parts of a process are mapped by transparent huge pages.

    Raises:
        PermissionNeeded: it takes the right to trace the process.
        TargetGone: it has ended.

    """

    def __init__(self, root: Path, pid: int) -> None:
        with translated(pid, "read pagemap"):
            self._file: int | None = os.open(root / str(pid) / "pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def at(self, address: int) -> bool | None:
        """Whether a huge page is mapped there; None where the kernel cannot say (before 6.7), or there is nothing any more."""
        if self._file is None:
            return None
        start = address // HUGE * HUGE
        regions = ctypes.create_string_buffer(24)
        head = _SCAN.size, 0, start, start + HUGE, 0, ctypes.addressof(regions), 1, 0
        arguments = bytearray(_SCAN.pack(*head, 0, _IS_PRESENT, 0, _IS_PRESENT | _IS_HUGE))
        found: bool | None = None
        with suppress(OSError):
            count = int(fcntl.ioctl(self._file, _PAGEMAP_SCAN, arguments))
            if count:
                found = bool(struct.unpack_from("=3Q", regions.raw)[2] & _IS_HUGE)
        return found


def huge_pages_wanted() -> bool:
    """Whether this machine makes transparent huge pages at all."""
    try:
        with open("/sys/kernel/mm/transparent_hugepage/enabled") as file:
            return "[never]" not in file.read()
    except OSError:
        return False


def numa_balancing() -> bool:
    """Whether the kernel moves pages between memory nodes."""
    with suppress(OSError), open("/proc/sys/kernel/numa_balancing") as file:
        return file.read().strip() != "0"
    return False
