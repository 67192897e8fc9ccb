"""The mappings of one process: what each is, what it holds, and what changed."""

from typing import Annotated, Literal

import msgspec

from leakline.model import columns

VmaKind = Literal[
    "text",
    "rodata",
    "data",
    "bss",
    "heap",
    "malloc arena",
    "mmapped malloc chunk",
    "thread stack",
    "stack",
    "vdso",
    "vvar",
    "vsyscall",
    "file",
    "shmem",
    "memfd",
    "sysv",
    "hugetlb",
    "guard",
    "reserved",
    "jit",
    "anon",
]


class VmaMemory(msgspec.Struct, frozen=True, gc=False):
    """One mapping, what it is, and what it holds."""

    start: Annotated[int, columns.address("first address")]
    end: Annotated[int, columns.address("the address behind it")]
    perms: Annotated[str, columns.text("r w x, and p (private) or s (shared)")]
    kind: Annotated[VmaKind, columns.text("what it is")]
    tid: Annotated[int | None, columns.count("the thread whose stack it is")]
    path: Annotated[str | None, columns.text("file or name")]
    offset: Annotated[int, columns.count("of its first byte in the file")]
    size: Annotated[int, columns.in_bytes("address space")]
    rss: Annotated[int, columns.in_bytes("resident")]
    pss: Annotated[int, columns.in_bytes("resident, shared pages divided")]
    uss: Annotated[int, columns.in_bytes("private pages")]
    dirty: Annotated[int, columns.in_bytes("written, private or shared")]
    anonymous: Annotated[int, columns.in_bytes("resident pages that are no file's")]
    swap: Annotated[int, columns.in_bytes("in swap")]
    swap_pss: Annotated[int | None, columns.in_bytes("in swap, shared pages divided")]
    thp: Annotated[int | None, columns.in_bytes("in transparent huge pages")]
    locked: Annotated[int | None, columns.in_bytes("locked in memory")]
    hugetlb: Annotated[int | None, columns.in_bytes("in hugetlb pages, which RSS and PSS leave out")]
    lazy_free: Annotated[int | None, columns.in_bytes("marked MADV_FREE: still resident, the kernel may take it at any time")]
    ksm: Annotated[int | None, columns.in_bytes("merged by KSM (Linux 6.8)")]
    flags: Annotated[tuple[str, ...], columns.text("the kernel's VmFlags in words, as far as they are out of the ordinary")]


class VmaTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over mappings."""

    name: Annotated[str, columns.text("what they have in common")]
    count: Annotated[int, columns.count("mappings")]
    size: Annotated[int, columns.in_bytes("address space")]
    rss: Annotated[int, columns.in_bytes("resident")]
    pss: Annotated[int, columns.in_bytes("resident, shared pages divided")]
    uss: Annotated[int, columns.in_bytes("private pages")]
    dirty: Annotated[int, columns.in_bytes("written")]
    swap: Annotated[int, columns.in_bytes("in swap")]


class VmaTable(msgspec.Struct, frozen=True, kw_only=True):
    """`leakline maps --json`; `groups` instead of `vmas` with --by."""

    schema: Literal["leakline.maps/1"] = "leakline.maps/1"
    pid: int
    command: str
    vmas: tuple[VmaMemory, ...] | None
    groups: tuple[VmaTotals, ...] | None
    totals: VmaTotals
    max_map_count: int | None
    """vm.max_map_count: a process may not have more mappings."""


class VmaChange(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one mapping, or of all that have something in common, between two looks."""

    change: Annotated[Literal["new", "gone", "changed"], columns.text("what happened")]
    start: Annotated[int | None, columns.address("first address; none for a group")]
    end: Annotated[int | None, columns.address("the address behind it")]
    perms: Annotated[str | None, columns.text("r w x, and p (private) or s (shared)")]
    name: Annotated[str, columns.text("file, name or kind; or what the group has in common")]
    count: Annotated[int, columns.count("mappings more or less")]
    size: Annotated[int, columns.change("address space")]
    rss: Annotated[int, columns.change("resident")]
    pss: Annotated[int, columns.change("resident, shared pages divided")]
    uss: Annotated[int, columns.change("private pages")]
    anonymous: Annotated[int, columns.change("resident pages that are no file's")]
    swap: Annotated[int, columns.change("in swap")]


class VmaDiff(msgspec.Struct, frozen=True, kw_only=True):
    """`leakline maps --diff --json`: only what changed."""

    schema: Literal["leakline.maps-diff/1"] = "leakline.maps-diff/1"
    pid: int
    command: str
    before_pid: int
    """The process of the earlier look."""
    changes: tuple[VmaChange, ...]
    totals: VmaChange
