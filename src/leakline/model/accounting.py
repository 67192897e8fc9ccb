"""Where processes' memory is: each process, groups of them, or the mappings of one name over all.

The fields' notes are the one list from which columns, JSON keys and help come.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from leakline.model import columns


class ProcessMemory(msgspec.Struct, frozen=True, gc=False):
    """What one process holds. None is unknown: it may not be read, or this kernel does not tell."""

    pid: Annotated[int, columns.count("process id")]
    ppid: Annotated[int | None, columns.count("parent's process id")]
    user: Annotated[str | None, columns.text("owner")]
    command: Annotated[str, columns.text("the kernel's short name of the program")]
    cmdline: Annotated[str | None, columns.text("the command line")]
    vss: Annotated[int | None, columns.in_bytes("virtual size: all mappings but [vsyscall]")]
    rss: Annotated[int | None, columns.in_bytes("resident: private and shared pages")]
    pss: Annotated[int | None, columns.in_bytes("resident, each shared page divided by the number of processes that map it")]
    uss: Annotated[int | None, columns.in_bytes("private pages only, hugetlb too: what would come back if it ended")]
    swap: Annotated[int | None, columns.in_bytes("in swap")]
    swap_pss: Annotated[int | None, columns.in_bytes("in swap, shared pages divided; 0 for shmem in swap")]
    pss_anon: Annotated[int | None, columns.in_bytes("PSS of anonymous memory (Linux 5.9)")]
    pss_file: Annotated[int | None, columns.in_bytes("PSS of files (Linux 5.9)")]
    pss_shmem: Annotated[int | None, columns.in_bytes("PSS of shared memory (Linux 5.9)")]
    lazy_free: Annotated[int | None, columns.in_bytes("marked MADV_FREE: still resident, the kernel may take it at any time")]
    thp: Annotated[int | None, columns.in_bytes("in transparent huge pages")]
    hugetlb: Annotated[int | None, columns.in_bytes("in hugetlb pages, which RSS and PSS leave out")]
    locked: Annotated[int | None, columns.in_bytes("locked in memory")]
    ksm: Annotated[int | None, columns.in_bytes("merged by KSM (Linux 6.8)")]
    threads: Annotated[int | None, columns.count("threads")]
    start_ticks: Annotated[int | None, columns.count("start after boot, in clock ticks")]
    started: Annotated[float | None, columns.time("when it started")] = None
    page_tables: Annotated[int | None, columns.in_bytes("page tables (--columns only)")] = None
    vmas: Annotated[int | None, columns.count("mappings; vm.max_map_count limits them (--columns only)")] = None
    cgroup: Annotated[str | None, columns.text("control group (--columns only)")] = None
    container: Annotated[str | None, columns.text("container id, from the control group (--columns only)")] = None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over processes, or over the mappings of one name."""

    name: Annotated[str, columns.text("what they have in common")]
    count: Annotated[int, columns.count("processes")]
    unreadable: Annotated[int, columns.count("processes whose PSS and USS are unknown, and not in the sums")]
    vss: Annotated[int | None, columns.in_bytes("virtual size")]
    rss: Annotated[int | None, columns.in_bytes("resident")]
    pss: Annotated[int | None, columns.in_bytes("resident, shared pages divided")]
    uss: Annotated[int | None, columns.in_bytes("private pages")]
    swap: Annotated[int | None, columns.in_bytes("in swap")]
    swap_pss: Annotated[int | None, columns.in_bytes("in swap, shared pages divided")]


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

    @property
    def unreadable(self) -> int:
        """Those that live, and whose memory may not be read."""
        return self.seen - self.readable - self.vanished - self.zombies


class ProcessTable(msgspec.Struct, frozen=True, kw_only=True):
    """`leakline ps --json`."""

    schema: Literal["leakline.ps/1"] = "leakline.ps/1"
    processes: tuple[ProcessMemory, ...]
    totals: Group
    coverage: Coverage
    max_map_count: int | None = None
    """vm.max_map_count: a process may not have more mappings."""
    pss_is_estimate: bool | None = None
    """Whether this kernel only estimates PSS and USS of large folios (CONFIG_NO_PAGE_MAPCOUNT, Linux 6.15); None where unknown."""


class GroupTable(msgspec.Struct, frozen=True, kw_only=True):
    """`leakline ps --by user --json`, and other groups."""

    schema: Literal["leakline.ps/1"] = "leakline.ps/1"
    by: str
    groups: tuple[Group, ...]
    totals: Group
    coverage: Coverage
