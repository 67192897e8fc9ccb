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
