"""What a mapping is: told by its name, its file, its neighbours and its flags.

Sources: fs/proc/task_mmu.c for names and VmFlags (Documentation/filesystems/proc.rst); glibc's malloc/arena.c for arenas.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from leakline.model.mappings import VmaKind, VmaMemory
from leakline.model.names import readable
from leakline.model.vma import Vma, VmaUsage

_ARENA_ALIGNMENT = 64 << 20
_LARGEST_GUARD = 1 << 20
_MMAP_THRESHOLD = 128 << 10
_PLAIN = ("rw-p", "r--p")
_HEADER = struct.Struct("=QQ")
_SPECIAL: dict[str, VmaKind] = {
    "[heap]": "heap",
    "[stack]": "stack",
    "[vdso]": "vdso",
    "[vvar]": "vvar",
    "[vvar_vclock]": "vvar",
    "[vsyscall]": "vsyscall",
}
_FLAGS = {
    "sh": "shared",
    "gd": "grows down",
    "pf": "raw pages",
    "lo": "locked",
    "io": "device",
    "sr": "sequential reads",
    "rr": "random reads",
    "dc": "not copied on fork",
    "wf": "wiped on fork",
    "de": "may not grow",
    "nr": "no swap reserved",
    "ht": "hugetlb",
    "sf": "synchronous faults",
    "dd": "not dumped",
    "sd": "soft dirty",
    "mm": "mixed",
    "hg": "huge pages wanted",
    "nh": "no huge pages",
    "mg": "KSM",
    "um": "userfaultfd, missing",
    "uw": "userfaultfd, write-protected",
    "ss": "shadow stack",
    "sl": "sealed",
}


def describe_mappings(usages: Sequence[VmaUsage], stack_pointers: Mapping[int, int]) -> list[VmaMemory]:
    """Each mapping with its kind.

    Args:
        usages: all mappings of a process, in order of address.
        stack_pointers: thread id -> stack pointer, as far as they are known.

    """
    programs = {(u.vma.device, u.vma.inode) for u in usages if u.vma.inode and u.vma.perms[2] == "x"}
    starts = [usage.vma.start for usage in usages]
    threads: dict[int, int] = {}
    for tid, pointer in stack_pointers.items():
        at = bisect_right(starts, pointer) - 1
        if at >= 0 and pointer < usages[at].vma.end:
            threads.setdefault(at, tid)
    found: list[VmaMemory] = []
    last = len(usages) - 1
    before: VmaMemory | None = None
    for index, usage in enumerate(usages):
        vma = usage.vma
        owner: int | None = None
        if vma.inode or vma.path in _SPECIAL or "ht" in usage.flags:
            kind = _named_kind(usage, in_program=(vma.device, vma.inode) in programs)
        else:
            owner = threads.get(index)
            kind = "anon"
            # Most of thousands are plain: none of their neighbours makes them anything else.
            if (
                owner is not None
                or vma.path
                or vma.perms not in _PLAIN
                or before is None
                or before.kind == "data"
                or not vma.start % _ARENA_ALIGNMENT
            ):
                neighbour = before if before is not None and before.end == vma.start else None
                after = usages[index + 1] if index < last and starts[index + 1] == vma.end else None
                kind = _anonymous_kind(usage, neighbour, after, owner)
        before = _described(vma, usage, kind, owner if kind == "thread stack" else None)
        found.append(before)
    return found


def may_hold_chunks(rows: Sequence[VmaMemory]) -> list[VmaMemory]:
    """Mappings that could begin with a mmapped chunk of malloc: private, anonymous, nameless, and of M_MMAP_THRESHOLD at least."""
    return [row for row in rows if row.size >= _MMAP_THRESHOLD and row.kind == "anon" and row.perms == "rw-p" and row.path is None]


def with_chunks(rows: Sequence[VmaMemory], headers: Mapping[int, bytes]) -> list[VmaMemory]:
    """The rows, those as `mmapped malloc chunk` at whose start the header of one was read."""
    if not any(is_mmapped_chunk(header, 1 << 47) for header in headers.values()):
        return list(rows)
    return [
        msgspec.structs.replace(row, kind="mmapped malloc chunk")
        if row.start in headers and is_mmapped_chunk(headers[row.start], row.size)
        else row
        for row in rows
    ]


def is_mmapped_chunk(header: bytes, room: int) -> bool:
    """Whether 16 bytes at the start of a mapping of this room are the header of a mmapped chunk: IS_MMAPPED alone, whole pages.

    Source: glibc's malloc/malloc.c, sysmalloc_mmap().
    """
    if len(header) != 16:
        return False
    before, size = _HEADER.unpack(header)
    return bool(size & 7 == 2 and before == 0 and 0 < size - 2 <= room and (size - 2) % 4096 == 0)


def _named_kind(usage: VmaUsage, *, in_program: bool) -> VmaKind:
    vma = usage.vma
    path = vma.path or ""
    if path in _SPECIAL and not vma.inode:
        return _SPECIAL[path]
    if "ht" in usage.flags or path.startswith("/anon_hugepage"):
        return "hugetlb"
    if path.startswith("/memfd:"):
        return "memfd"
    if path.startswith("/SYSV"):
        return "sysv"
    if path.startswith(("/dev/zero", "/dev/shm/")) and vma.is_shared:  # noqa: S108
        return "shmem"
    if not in_program:
        return "file"
    return "text" if "x" in vma.perms else "data" if "w" in vma.perms else "rodata"


def _anonymous_kind(usage: VmaUsage, before: VmaMemory | None, after: VmaUsage | None, tid: int | None) -> VmaKind:
    vma = usage.vma
    perms, path = vma.perms, vma.path
    if tid is not None:
        return "thread stack"
    if perms.startswith("---"):
        return "guard" if vma.size <= _LARGEST_GUARD else "reserved"
    if (path is not None and "JIT" in path) or perms[1:3] == "wx":
        return "jit"
    writable = perms[1] == "w"
    if before is not None and before.kind == "data" and writable:
        return "bss"
    if path is not None and path.startswith("[anon: glibc: malloc"):
        return "malloc arena" if vma.start % _ARENA_ALIGNMENT == 0 else "mmapped malloc chunk"
    # A thread's arena begins at a multiple of 64 MiB, and what it has not used yet is reserved up to the next one.
    if writable and vma.start % _ARENA_ALIGNMENT == 0 and after is not None:
        reserved = after.vma.perms.startswith("---") and after.vma.end % _ARENA_ALIGNMENT == 0
        return "malloc arena" if reserved else "anon"
    return "anon"


def _described(vma: Vma, usage: VmaUsage, kind: VmaKind, tid: int | None) -> VmaMemory:
    u, path, start, end = usage.usage, vma.path, vma.start, vma.end
    if path is not None and not path.isascii():
        path = readable(path)
    # By position: by name a record of so many fields takes ten times as long to make, and there are thousands.
    return VmaMemory(
        start,
        end,
        vma.perms,
        kind,
        tid,
        path,
        vma.offset,
        end - start,
        u.rss,
        u.pss,
        u.private_clean + u.private_dirty + (usage.private_hugetlb or 0),
        u.private_dirty + u.shared_dirty,
        u.anonymous,
        u.swap,
        u.swap_pss,
        usage.thp,
        usage.locked,
        usage.hugetlb,
        u.lazy_free,
        usage.ksm,
        _words(usage.flags),
    )


@lru_cache(maxsize=512)
def _words(flags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_FLAGS[flag] for flag in flags if flag in _FLAGS)
