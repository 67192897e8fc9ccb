"""What a recording holds: processes, what they held at each tick, and counters of the machine."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

CounterKind = Literal["meminfo", "slab", "vmalloc", "cgroup", "mapping"]


class ProcessIdentity(msgspec.Struct, frozen=True, gc=False):
    """One process. Within a boot its number and its start tell it from all others."""

    pid: int
    start_ticks: int
    """Clock ticks after boot."""
    ppid: int
    user: str | None
    command: str
    cmdline: str | None
    cgroup: str | None


class ProcessAmounts(msgspec.Struct, frozen=True, gc=False):
    """What a process held at one moment, in bytes; None where it may not be read."""

    uss: int | None
    pss: int | None
    rss: int | None
    swap: int | None
    anon: int | None
    file: int | None
    shmem: int | None
    page_tables: int | None
    minor_faults: int
    """Since its start."""
    major_faults: int

    @property
    def held(self) -> int | None:
        """USS + swap: RSS alone misses a leak that is swapped out. RSS where that is all that may be read."""
        return self.rss if self.uss is None else self.uss + (self.swap or 0)


class Tick(NamedTuple):
    """One moment of a recording."""

    time: float
    """Seconds since 1970: the machine's clock, which may jump."""
    boottime: float
    """CLOCK_BOOTTIME: seconds since boot, time asleep included."""
    fresh: int
    """Processes that were read anew; the others had not changed."""
    oldest: float
    """Seconds since the value was read that was read longest ago."""


class CounterValue(NamedTuple):
    """A counter of the machine, or a group of mappings of a process."""

    kind: CounterKind
    name: str
    value: int
    """Bytes."""
    process: ProcessIdentity | None = None
    reclaimable: bool = False
    """Whether the kernel takes it back when it needs memory."""


class RecordingStart(NamedTuple):
    """Where and how a recording, or a later part of it, was made."""

    boot_id: str
    host: str
    kernel: str
    interval: float
    """Seconds."""
    ticks_per_second: int
    memory: int
    """MemTotal, bytes."""


class Extremes(NamedTuple):
    """A series as it can be drawn: of each stretch of time the least and the most."""

    times: tuple[float, ...]
    """Seconds since the recording began: the middle of each stretch."""
    lows: tuple[float, ...]
    """Bytes; NaN where nothing is known, and from one process to the one that took its place."""
    highs: tuple[float, ...]


class Moments(NamedTuple):
    """Counters at the same moments: of each stretch of time that with the least and that with the most."""

    times: tuple[float, ...]
    """Seconds since the recording began."""
    values: dict[str, tuple[float, ...]]
    """Bytes by counter; NaN where it is not known."""


class RecordedSeries(NamedTuple):
    """One quantity of a recording, with restarts of the same service as epochs."""

    kind: Literal["process"] | CounterKind
    name: str
    times: tuple[float, ...]
    """Seconds since the recording began."""
    values: tuple[float, ...]
    """Bytes; of a process USS + swap."""
    epochs: tuple[int, ...] | None
    age: float | None
    """Seconds since the start of its process, at the last sample."""
    reclaimable: bool
    available: int | None
    """Bytes of memory and swap that were left at the last sample."""
    extremes: Extremes | None = None
    """Where the reader was asked for them."""


class RecordingSummary(msgspec.Struct, frozen=True, kw_only=True):
    """`leakline record --json`."""

    schema: Literal["leakline.record/1"] = "leakline.record/1"
    file: str
    ticks: int
    """That are in the file, earlier parts included."""
    processes: int
    samples: int
    """Rows of processes: one that had not changed takes none."""
    duration_seconds: float
    """Of this part."""
    missed_ticks: int
    """That were skipped, because the one before took longer than the interval or the machine slept."""
    oldest_seconds: float
    """The age that a value had at most when it was taken for the present one; those of processes that do not change."""
    bytes: int
    """Of the file."""
    cpu_seconds: float
    """That this part took of our own process."""
