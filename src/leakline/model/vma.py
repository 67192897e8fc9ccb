"""Mappings of an address space."""

from __future__ import annotations

import msgspec

from leakline.model.memory import MemoryUsage


class Vma(msgspec.Struct, frozen=True, gc=False):
    """One mapping, as in /proc/PID/maps: [start, end)."""

    start: int
    end: int
    perms: str
    """Four letters: r w x, and p (private) or s (shared)."""
    offset: int
    device: tuple[int, int]
    """Major and minor number of the mapped file's device; (0, 0) for none."""
    inode: int
    path: str | None
    """The mapped file, or a name such as [heap]; undecodable bytes as surrogates, the kernel's escapes undone.

    None for a mapping without a name.
    """

    @property
    def size(self) -> int:
        """Bytes of address space."""
        return self.end - self.start

    @property
    def is_file(self) -> bool:
        """Whether a file lies behind it (shmem counts: it has an inode)."""
        return self.inode != 0

    @property
    def is_shared(self) -> bool:
        """Whether writes go to the file or to the other mappers."""
        return self.perms[3] == "s"

    def __contains__(self, address: object) -> bool:
        """Whether the address lies in it."""
        return isinstance(address, int) and self.start <= address < self.end


class VmaUsage(msgspec.Struct, frozen=True, gc=False):
    """A mapping and what it holds, as in /proc/PID/smaps."""

    vma: Vma
    usage: MemoryUsage
    thp: int | None = None
    """Bytes in transparent huge pages."""
    locked: int | None = None
    hugetlb: int | None = None
    """Bytes in hugetlb pages, which Rss and Pss leave out (Linux 4.4)."""
    private_hugetlb: int | None = None
    ksm: int | None = None
    """Bytes merged by KSM (Linux 6.8)."""
    flags: tuple[str, ...] = ()
    """The two letters of VmFlags (Linux 3.8)."""
