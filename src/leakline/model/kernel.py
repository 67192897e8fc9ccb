"""The kernel's own memory: its counters over time, who makes them grow, and where it allocates."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec

from leakline.model import columns
from leakline.model.stack import Frame
from leakline.model.system import Zone
from leakline.model.trend import Verdict


class FreeArea(msgspec.Struct, frozen=True, kw_only=True):
    """Free blocks of one zone by order (/proc/buddyinfo, mm/vmstat.c): a block of order N is 2**N pages in a row."""

    node: Annotated[int, columns.count("its node")]
    zone: Annotated[str, columns.text("its name")]
    free: Annotated[int, columns.in_bytes("in free blocks of all orders")]
    blocks: Annotated[tuple[int, ...], columns.text("free blocks of order 0, 1, 2 and so on")]
    unusable: Annotated[tuple[int, ...], columns.text("share of the free memory that is in smaller blocks, percent, by order")]
    """The kernel calls it the unusable free space index (mm/vmstat.c, unusable_free_index())."""


class MovableBlocks(msgspec.Struct, frozen=True, kw_only=True):
    """Free pages of one zone by the kind of allocation that they are kept for (/proc/pagetypeinfo)."""

    node: Annotated[int, columns.count("its node")]
    zone: Annotated[str, columns.text("its name")]
    kind: Annotated[str, columns.text("Unmovable, Movable, Reclaimable and others")]
    free: Annotated[int, columns.in_bytes("free")]
    free_blocks: Annotated[tuple[int, ...], columns.text("free blocks by order; 100000 stands for more")]
    page_blocks: Annotated[int | None, columns.count("page blocks of this kind, used or free")]


class SlabRow(msgspec.Struct, frozen=True, kw_only=True):
    """One slab cache (/proc/slabinfo), with the names of the caches that the kernel keeps in it too."""

    name: Annotated[str, columns.text("its name")]
    aliases: Annotated[tuple[str, ...], columns.text("caches that share it (/sys/kernel/slab)")]
    objects: Annotated[int, columns.count("objects in use")]
    object_size: Annotated[int, columns.in_bytes("of each object")]
    bytes: Annotated[int, columns.in_bytes("of all its slabs")]
    in_use: Annotated[int, columns.in_bytes("of its objects in use")]
    reclaimable: Annotated[bool, columns.text("whether the kernel takes it back when it needs memory")]
    growth: Annotated[int | None, columns.change("since the first look; none where there was one look only")] = None


class VmallocCaller(msgspec.Struct, frozen=True, kw_only=True):
    """Who has virtually contiguous memory (/proc/vmallocinfo, mm/vmalloc.c)."""

    caller: Annotated[str, columns.text("the function that asked for it")]
    module: Annotated[str | None, columns.text("its module")]
    areas: Annotated[int, columns.count("areas")]
    bytes: Annotated[int, columns.in_bytes("pages behind them")]
    reserved: Annotated[int, columns.in_bytes("address space")]
    growth: Annotated[int | None, columns.change("since the first look")] = None


class CounterOwner(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who has more of what a counter counts than before."""

    pid: int | None
    """None where no process stands for it: a control group, a user's keys."""
    command: str | None
    what: str
    """The things: `pipe`, `TCP socket`, `POSIX timer`."""
    count: int
    """How many more."""
    bytes: int | None = None
    """How much more, where the kernel tells it for these things."""


class CounterGrowth(msgspec.Struct, frozen=True, kw_only=True):
    """A counter of the kernel that grew."""

    counter: Annotated[str, columns.text("its name: meminfo:NAME, slab:CACHE, vmalloc:CALLER, or unexplained")]
    bytes: Annotated[int, columns.change("how much more at the end")]
    held: Annotated[int, columns.in_bytes("at the end")]
    rate_bytes_per_second: float | None
    rate_interval: tuple[float, float] | None
    """90 %."""
    verdict: Annotated[Verdict, columns.text("of the detector")]
    probability: float | None
    gates: tuple[str, ...]
    """What keeps it from LEAK."""
    reclaimable: bool
    """Whether the kernel takes it back when it needs memory: never a leak."""
    aliases: tuple[str, ...]
    """Slab caches that the kernel merged into this one."""
    objects: int | None
    """How many objects more, of a slab cache."""
    owners: tuple[CounterOwner, ...]
    note: str | None
    """What the counter holds, where that helps."""


class KernelReport(msgspec.Struct, frozen=True, kw_only=True):
    """`leakline kernel --json`."""

    schema: Literal["leakline.kernel/1"] = "leakline.kernel/1"
    duration_seconds: float
    samples: int
    mem_total: int
    unexplained_bytes: int | None
    """At the end: MemTotal less all that a counter shows. None for a recording that was made without --kernel."""
    unexplained_growth: int | None
    """None where there was one look only."""
    growth: tuple[CounterGrowth, ...]
    """What grew, the fastest first; empty where there was one look only."""
    unreadable: tuple[str, ...]
    """What could not be read, and why."""
    cpu_seconds: float | None
    """That one sampling pass took of our own process, on average; None for a recording."""
    slabs: tuple[SlabRow, ...] | None = None
    """Each of these None unless it was asked for."""
    vmalloc: tuple[VmallocCaller, ...] | None = None
    zones: tuple[Zone, ...] | None = None
    buddy: tuple[FreeArea, ...] | None = None
    page_types: tuple[MovableBlocks, ...] | None = None
    compaction: dict[str, int] | None = None
    """Counters of /proc/vmstat that tell how hard it was to find free blocks."""


class AllocationSite(NamedTuple):
    """A place in the kernel that holds memory at one moment."""

    stack: tuple[Frame, ...]
    """Innermost first; of one frame where the source tells no more."""
    counter: str
    """The counter that it is in."""
    bytes: int
    blocks: int


class Things(NamedTuple):
    """How many things of a kind somebody has."""

    number: int
    bytes: int | None = None


class Holder(NamedTuple):
    """Somebody who can have things of the kernel's: a process, or none."""

    pid: int | None
    start_ticks: int | None
    command: str | None


Census = dict[tuple[Holder, str], Things]
"""Who has how many things of which kind, at one moment."""
