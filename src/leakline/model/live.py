"""What is shown of a machine that is looked at again and again: one view for each look."""

from __future__ import annotations

import msgspec

from leakline.model.trend import SeriesTrend


class MachineView(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's memory, in bytes; None where the kernel, or a recording, does not tell."""

    total: int | None
    free: int | None
    available: int | None
    buffers: int | None
    cached: int | None
    """Page cache and slab caches that the kernel takes back when it needs memory."""
    unreclaimable: int | None
    """Slab caches that it does not take back."""
    swap_total: int | None
    swap_free: int | None

    @property
    def used(self) -> int | None:
        """What is neither free nor cached."""
        if self.total is None or self.free is None:
            return None
        return max(0, self.total - self.free - (self.buffers or 0) - (self.cached or 0))

    @property
    def swap_used(self) -> int | None:
        """Swap that is taken."""
        return None if self.swap_total is None or self.swap_free is None else self.swap_total - self.swap_free


class ProcessView(msgspec.Struct, frozen=True, kw_only=True):
    """A process as it stands; amounts in bytes, None where they may not be read or were not recorded."""

    key: str
    """Tells it from all others, also from a later one of the same number."""
    pid: int | None
    ppid: int | None
    user: str | None
    command: str
    cmdline: str | None
    cgroup: str | None
    uss: int | None
    pss: int | None
    rss: int | None
    swap: int | None
    held: int | None
    """USS + swap; RSS where that is all that may be read."""
    minor_faults: int | None
    """Since its start."""
    major_faults: int | None
    trend: SeriesTrend | None
    """The judgement of what it holds; None before there is one."""

    @property
    def accuses(self) -> bool:
        """Whether it is judged to grow on."""
        return self.trend is not None and self.trend.accuses


class MachinePast(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's memory until now."""

    times: tuple[float, ...]
    """Seconds since 1970."""
    used: tuple[int, ...]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the machine."""

    time: float
    """Seconds since 1970; of a recording, when it was read."""
    machine: MachineView
    processes: tuple[ProcessView, ...]
    unreadable: int
    """Processes that were seen, and may not be read."""
    past: MachinePast | None = None
    """What was before, where this view alone knows it: that of a recording."""
    ended: bool = False
    """Whether there is nothing more to come: all that were to be looked at have ended."""
    trouble: str | None = None
    """Why this is not the latest, where it is not."""


class Points(msgspec.Struct, frozen=True, kw_only=True):
    """A quantity over time."""

    times: tuple[float, ...]
    """Seconds; of a view's process since the look at it began."""
    values: tuple[float, ...]
    """Bytes; NaN where unknown."""


class ProcessDepth(msgspec.Struct, frozen=True, kw_only=True):
    """One process in depth."""

    process: ProcessView
    held: Points
    kind_times: tuple[float, ...]
    """Seconds, on the axis of `held`."""
    kinds: dict[str, tuple[int, ...]]
    """What its mappings of each kind held then: USS + swap, in bytes."""
    kinds_unknown: str | None
    """Why nothing is known of its mappings."""
    ended: bool
