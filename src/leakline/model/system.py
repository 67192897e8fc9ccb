"""Where the machine's memory is."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from leakline.model import columns
from leakline.model.accounting import Coverage


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """One owner of a part of MemTotal."""

    name: Annotated[str, columns.text("who")]
    bytes: Annotated[int, columns.in_bytes("how much")]
    note: Annotated[str, columns.text("what that is")]


class Pressure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of /proc/pressure/memory: the share of time, in percent, that tasks waited for memory."""

    kind: Literal["some", "full"]
    """Some of them, or all."""
    avg10: float
    avg60: float
    avg300: float
    total_us: int


class HugePool(msgspec.Struct, frozen=True, kw_only=True):
    """The reserved huge pages of one size (/sys/kernel/mm/hugepages)."""

    page_size: int
    pages: int
    free: int
    reserved: int
    """Promised to mappings, and still free."""
    surplus: int


class SwapArea(msgspec.Struct, frozen=True, kw_only=True):
    """One line of /proc/swaps."""

    name: str
    kind: str
    """partition, or file."""
    size: int
    used: int
    priority: int
    held: int | None
    """For zram: the memory that holds what is swapped (mem_used_total)."""


class Zswap(msgspec.Struct, frozen=True, kw_only=True):
    """Swapped pages that are kept compressed in memory (Linux 5.19)."""

    enabled: bool | None
    pool: int
    """The memory that they take."""
    stored: int
    """Their size before."""


class CgroupMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What one control group is charged, with all below it."""

    path: Annotated[str, columns.text("the group")]
    version: Annotated[int, columns.count("1 or 2")]
    usage: Annotated[int, columns.in_bytes("charged")]
    limit: Annotated[int | None, columns.in_bytes("at most; none set: -")]
    swap: Annotated[int | None, columns.in_bytes("in swap")]
    anon: Annotated[int | None, columns.in_bytes("anonymous")]
    file: Annotated[int | None, columns.in_bytes("page cache, shared memory too")]
    shmem: Annotated[int | None, columns.in_bytes("shared memory")]
    kernel: Annotated[int | None, columns.in_bytes("kernel memory")]
    unmapped: Annotated[int | None, columns.in_bytes("page cache and shared memory that no process maps")]
    unexplained: Annotated[
        int | None, columns.in_bytes("charged, but none of these: parts of huge pages that were freed, network buffers")
    ]
    high_events: Annotated[int | None, columns.count("times that it was slowed down at memory.high")]
    max_events: Annotated[int | None, columns.count("times that it hit its limit")]
    oom_kills: Annotated[int | None, columns.count("processes killed for lack of memory")]
    processes: Annotated[int | None, columns.count("processes in it or below it")]


class ShmemFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file in memory, and who keeps it there."""

    bytes: Annotated[int, columns.in_bytes("in memory or in swap")]
    kind: Annotated[Literal["memfd", "tmpfs", "deleted", "sysv", "anonymous"], columns.text("what it is")]
    name: Annotated[str, columns.text("its name")]
    mapped_by: Annotated[tuple[int, ...], columns.text("processes that map it")]
    held_by: Annotated[tuple[str, ...], columns.text("who else keeps it: PID/fd/N, or the file system")]


class NumaNode(msgspec.Struct, frozen=True, kw_only=True):
    """One NUMA node (/sys/devices/system/node)."""

    node: Annotated[int, columns.count("its number")]
    total: Annotated[int, columns.in_bytes("memory")]
    free: Annotated[int, columns.in_bytes("unused")]
    anonymous: Annotated[int | None, columns.in_bytes("processes' own memory")]
    file: Annotated[int | None, columns.in_bytes("page cache")]
    shmem: Annotated[int | None, columns.in_bytes("shared memory")]
    slab: Annotated[int | None, columns.in_bytes("the kernel's objects")]
    page_tables: Annotated[int | None, columns.in_bytes("page tables")]
    huge_pages: Annotated[int | None, columns.count("reserved huge pages of the usual size")]


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """One zone of a node (/proc/zoneinfo)."""

    node: Annotated[int, columns.count("its node")]
    zone: Annotated[str, columns.text("its name")]
    managed: Annotated[int, columns.in_bytes("memory that it gives out")]
    free: Annotated[int, columns.in_bytes("unused")]
    per_cpu: Annotated[int, columns.in_bytes("on the CPUs' own free lists")]
    min: Annotated[int, columns.in_bytes("below: only for the kernel's urgent needs")]
    low: Annotated[int, columns.in_bytes("below: kswapd begins")]
    high: Annotated[int, columns.in_bytes("above: kswapd rests")]


class ProcessSums(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the processes that could be read, beside what the kernel counts as all processes'."""

    pss: int | None
    pss_anon: int | None
    pss_file_and_shmem: int | None
    anon_pages: int | None
    """AnonPages: what pss_anon adds up to if everything was read."""
    mapped: int | None
    """Mapped: the same for files and shared memory."""
    coverage: Coverage


class SystemTable(msgspec.Struct, frozen=True, kw_only=True):
    """`leakline system --json`. The owners add up to mem_total."""

    schema: Literal["leakline.system/1"] = "leakline.system/1"
    mem_total: int
    mem_free: int
    mem_available: int | None
    owners: tuple[Owner, ...]
    swap_total: int
    swap_free: int
    swap_areas: tuple[SwapArea, ...]
    zswap: Zswap | None
    """None where the kernel does not tell."""
    hugetlb: tuple[HugePool, ...]
    commit_limit: int | None
    committed: int | None
    pressure: tuple[Pressure, ...]
    """Empty where the kernel does not tell (CONFIG_PSI)."""
    processes: ProcessSums | None = None
    """None without --processes."""
    cgroups: tuple[CgroupMemory, ...] | None = None
    shmem_files: tuple[ShmemFile, ...] | None = None
    numa: tuple[NumaNode, ...] | None = None
    zones: tuple[Zone, ...] | None = None
