"""A process at one moment: its memory, its registers, and what the kernel keeps for it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from leakline.model.vma import Vma
from leakline.native.heap import MemoryCopy
from leakline.sources.allocators.glibc import GlibcVersion
from leakline.sources.ptrace import ThreadState


def libc_code(vmas: Iterable[Vma], libc: tuple[tuple[int, int], int]) -> list[Vma]:
    """The executable mappings of the libc with that device and inode."""
    return [vma for vma in vmas if (vma.device, vma.inode) == libc and "x" in vma.perms]


class HeapImage(msgspec.Struct, frozen=True, kw_only=True):
    """What a search for lost blocks needs, from a live process or from a file."""

    pid: int
    vmas: tuple[Vma, ...]
    copy: MemoryCopy
    """The pages that the program wrote."""
    threads: tuple[ThreadState, ...]
    held: tuple[int, ...]
    """Pointers that the kernel keeps for the process (epoll, POSIX timers)."""
    unread: int
    """Bytes of memory that could not be looked at."""
    unread_because: str = "could not be read"
    libc: tuple[tuple[int, int], int]
    """Device and inode of the libc among the mappings."""
    version: GlibcVersion
    time_ns: int
    """CLOCK_MONOTONIC, when it was complete."""
    stopped_ns: int
    """How long the threads stood still for it."""
    ran_on: bool = False
    """Whether it was copied while they ran on: what belongs together may not fit together."""

    @property
    def allocator(self) -> str:
        """As recognised, such as `glibc 2.36`."""
        return f"glibc {self.version}"

    @property
    def libc_code(self) -> list[Vma]:
        """The executable mappings of its libc."""
        return libc_code(self.vmas, self.libc)

    def is_libc(self, vma: Vma) -> bool:
        """Whether the mapping is of its libc."""
        return (vma.device, vma.inode) == self.libc
