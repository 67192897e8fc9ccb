"""What a mapping is: told by its name, its file, its neighbours and its flags.

Sources: fs/proc/task_mmu.c for names and VmFlags (Documentation/filesystems/proc.rst); glibc's malloc/arena.c for arenas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leakline.model.accounting import VmaKind, VmaMemory
from leakline.model.names import readable
from leakline.model.vma import VmaUsage

_ARENA_ALIGNMENT = 64 << 20
_LARGEST_GUARD = 1 << 20
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
    programs = {(u.vma.device, u.vma.inode) for u in usages if "x" in u.vma.perms and u.vma.is_file}
    found: list[VmaMemory] = []
    for index, usage in enumerate(usages):
        tid = next((tid for tid, pointer in stack_pointers.items() if pointer in usage.vma), None)
        before = found[-1] if found and found[-1].end == usage.vma.start else None
        after = usages[index + 1] if index + 1 < len(usages) and usages[index + 1].vma.start == usage.vma.end else None
        kind = _kind(usage, before, after, tid, in_program=(usage.vma.device, usage.vma.inode) in programs)
        found.append(_described(usage, kind, tid if kind == "thread stack" else None))
    return found


def _kind(usage: VmaUsage, before: VmaMemory | None, after: VmaUsage | None, tid: int | None, *, in_program: bool) -> VmaKind:
    vma = usage.vma
    path = vma.path or ""
    if path in _SPECIAL:
        return _SPECIAL[path]
    if "ht" in usage.flags or path.startswith("/anon_hugepage"):
        return "hugetlb"
    if path.startswith("/memfd:"):
        return "memfd"
    if path.startswith("/SYSV"):
        return "sysv"
    if vma.is_shared and path.startswith(("/dev/zero", "/dev/shm/")):  # noqa: S108
        return "shmem"
    if vma.is_file:
        if not in_program:
            return "file"
        return "text" if "x" in vma.perms else "data" if "w" in vma.perms else "rodata"
    return _anonymous_kind(usage, before, after, tid)


def _anonymous_kind(usage: VmaUsage, before: VmaMemory | None, after: VmaUsage | None, tid: int | None) -> VmaKind:
    vma = usage.vma
    if tid is not None:
        return "thread stack"
    if vma.perms.startswith("---"):
        return "guard" if vma.size <= _LARGEST_GUARD else "reserved"
    if "JIT" in (vma.path or "") or ("x" in vma.perms and "w" in vma.perms):
        return "jit"
    if before is not None and before.kind == "data" and "w" in vma.perms:
        return "bss"
    if vma.path is not None and vma.path.startswith("[anon: glibc: malloc"):
        return "malloc arena" if vma.start % _ARENA_ALIGNMENT == 0 else "mmapped chunk"
    # A thread's arena begins at a multiple of 64 MiB, and what it has not used yet is reserved up to the next one.
    reserved = after is not None and after.vma.perms.startswith("---") and after.vma.end % _ARENA_ALIGNMENT == 0
    if vma.start % _ARENA_ALIGNMENT == 0 and "w" in vma.perms and reserved:
        return "malloc arena"
    return "anon"


def _described(usage: VmaUsage, kind: VmaKind, tid: int | None) -> VmaMemory:
    vma, u = usage.vma, usage.usage
    return VmaMemory(
        start=vma.start,
        end=vma.end,
        perms=vma.perms,
        kind=kind,
        tid=tid,
        path=None if vma.path is None else readable(vma.path),
        offset=vma.offset,
        size=vma.size,
        rss=u.rss,
        pss=u.pss,
        uss=u.uss,
        dirty=u.private_dirty + u.shared_dirty,
        anonymous=u.anonymous,
        swap=u.swap,
        swap_pss=u.swap_pss,
        thp=usage.thp,
        locked=usage.locked,
        flags=tuple(_FLAGS[flag] for flag in usage.flags if flag in _FLAGS),
    )
