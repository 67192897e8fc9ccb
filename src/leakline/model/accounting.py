"""Where memory is: processes, groups of them, mappings, the whole machine.

The fields' notes are the one list from which columns, JSON keys and help come.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec


def _bytes(note: str) -> msgspec.Meta:
    return msgspec.Meta(description=note, extra={"unit": "bytes"})


def _count(note: str) -> msgspec.Meta:
    return msgspec.Meta(description=note, extra={"unit": "count"})


def _text(note: str) -> msgspec.Meta:
    return msgspec.Meta(description=note, extra={"unit": "text"})


class ProcessMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What one process holds. None is unknown: it may not be read, or this kernel does not tell."""

    pid: Annotated[int, _count("process id")]
    ppid: Annotated[int | None, _count("parent's process id")]
    user: Annotated[str | None, _text("owner")]
    command: Annotated[str, _text("the kernel's short name of the program")]
    cmdline: Annotated[str | None, _text("the command line")]
    vss: Annotated[int | None, _bytes("virtual size: all mappings but [vsyscall]")]
    rss: Annotated[int | None, _bytes("resident: private and shared pages")]
    pss: Annotated[int | None, _bytes("resident, each shared page divided by the number of processes that map it")]
    uss: Annotated[int | None, _bytes("private pages only, hugetlb too: what would come back if it ended")]
    swap: Annotated[int | None, _bytes("in swap")]
    swap_pss: Annotated[int | None, _bytes("in swap, shared pages divided; 0 for shmem in swap")]
    pss_anon: Annotated[int | None, _bytes("PSS of anonymous memory (Linux 5.9)")]
    pss_file: Annotated[int | None, _bytes("PSS of files (Linux 5.9)")]
    pss_shmem: Annotated[int | None, _bytes("PSS of shared memory (Linux 5.9)")]
    lazy_free: Annotated[int | None, _bytes("marked MADV_FREE: still resident, the kernel may take it at any time")]
    thp: Annotated[int | None, _bytes("in transparent huge pages")]
    hugetlb: Annotated[int | None, _bytes("in hugetlb pages, which RSS and PSS leave out")]
    locked: Annotated[int | None, _bytes("locked in memory")]
    ksm: Annotated[int | None, _bytes("merged by KSM (Linux 6.8)")]
    threads: Annotated[int | None, _count("threads")]
    start_ticks: Annotated[int | None, _count("start after boot, in clock ticks")]
    page_tables: Annotated[int | None, _bytes("page tables (--columns only)")] = None
    vmas: Annotated[int | None, _count("mappings; vm.max_map_count limits them (--columns only)")] = None
    cgroup: Annotated[str | None, _text("control group (--columns only)")] = None
    container: Annotated[str | None, _text("container id, from the control group (--columns only)")] = None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over processes, or over the mappings of one name."""

    name: Annotated[str, _text("what they have in common")]
    count: Annotated[int, _count("processes")]
    unreadable: Annotated[int, _count("processes whose PSS and USS are unknown, and not in the sums")]
    vss: Annotated[int | None, _bytes("virtual size")]
    rss: Annotated[int | None, _bytes("resident")]
    pss: Annotated[int | None, _bytes("resident, shared pages divided")]
    uss: Annotated[int | None, _bytes("private pages")]
    swap: Annotated[int | None, _bytes("in swap")]
    swap_pss: Annotated[int | None, _bytes("in swap, shared pages divided")]


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the machine a table shows."""

    seen: int
    """Processes that /proc lists, kernel threads left out."""
    readable: int
    """Those whose PSS and USS could be read."""
    vanished: int
    """Those that ended while they were read."""
    kernel_threads: int
    zombies: int
    """Those that have ended, with no thread left."""


class ProcessTable(msgspec.Struct, frozen=True, kw_only=True):
    """`leakline ps --json`."""

    schema: Literal["leakline.ps/1"] = "leakline.ps/1"
    processes: tuple[ProcessMemory, ...]
    totals: Group
    coverage: Coverage


class GroupTable(msgspec.Struct, frozen=True, kw_only=True):
    """`leakline ps --by user --json`, and other groups."""

    schema: Literal["leakline.ps/1"] = "leakline.ps/1"
    by: str
    groups: tuple[Group, ...]
    totals: Group
    coverage: Coverage


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """One owner of a part of MemTotal."""

    name: Annotated[str, _text("who")]
    bytes: Annotated[int, _bytes("how much")]
    note: Annotated[str, _text("what that is")]


class Pressure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of /proc/pressure/memory: the share of time, in percent, that tasks waited for memory."""

    kind: Literal["some", "full"]
    """Some of them, or all."""
    avg10: float
    avg60: float
    avg300: float
    total_us: int


class SystemTable(msgspec.Struct, frozen=True, kw_only=True):
    """`leakline system --json`. The owners add up to mem_total."""

    schema: Literal["leakline.system/1"] = "leakline.system/1"
    mem_total: int
    mem_free: int
    mem_available: int | None
    owners: tuple[Owner, ...]
    swap_total: int
    swap_free: int
    zswapped: int | None
    """Swapped pages that zswap keeps compressed in memory; their size before."""
    commit_limit: int | None
    committed: int | None
    pressure: tuple[Pressure, ...]
    """Empty where the kernel does not tell (CONFIG_PSI)."""
    processes_pss: int | None
    """Sum of PSS over the processes that could be read; None without --processes."""
    coverage: Coverage | None


VmaKind = Literal[
    "text",
    "rodata",
    "data",
    "bss",
    "heap",
    "malloc arena",
    "mmapped chunk",
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


class VmaMemory(msgspec.Struct, frozen=True, kw_only=True):
    """One mapping, what it is, and what it holds."""

    start: Annotated[int, msgspec.Meta(description="first address", extra={"unit": "address"})]
    end: Annotated[int, msgspec.Meta(description="the address behind it", extra={"unit": "address"})]
    perms: Annotated[str, _text("r w x, and p (private) or s (shared)")]
    kind: Annotated[VmaKind, _text("what it is")]
    tid: Annotated[int | None, _count("the thread whose stack it is")]
    path: Annotated[str | None, _text("file or name")]
    offset: Annotated[int, _count("of its first byte in the file")]
    size: Annotated[int, _bytes("address space")]
    rss: Annotated[int, _bytes("resident")]
    pss: Annotated[int, _bytes("resident, shared pages divided")]
    uss: Annotated[int, _bytes("private pages")]
    dirty: Annotated[int, _bytes("written, private or shared")]
    anonymous: Annotated[int, _bytes("resident pages that are no file's")]
    swap: Annotated[int, _bytes("in swap")]
    swap_pss: Annotated[int | None, _bytes("in swap, shared pages divided")]
    thp: Annotated[int | None, _bytes("in transparent huge pages")]
    locked: Annotated[int | None, _bytes("locked in memory")]
    flags: Annotated[tuple[str, ...], _text("the kernel's VmFlags in words, as far as they are out of the ordinary")]


class VmaTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over mappings."""

    name: Annotated[str, _text("what they have in common")]
    count: Annotated[int, _count("mappings")]
    size: Annotated[int, _bytes("address space")]
    rss: Annotated[int, _bytes("resident")]
    pss: Annotated[int, _bytes("resident, shared pages divided")]
    uss: Annotated[int, _bytes("private pages")]
    dirty: Annotated[int, _bytes("written")]
    swap: Annotated[int, _bytes("in swap")]


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
