"""What `top` shows: all processes at one moment, and one of them over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from leakline.model.memory import SystemMemory
from leakline.model.recording import ProcessAmounts, ProcessIdentity
from leakline.model.trend import SeriesTrend


class ProcessRow(msgspec.Struct, frozen=True, gc=False):
    """One process, what it holds, and what is judged of it."""

    identity: ProcessIdentity
    amounts: ProcessAmounts
    trend: SeriesTrend | None
    """None before it was judged, and where it may not be read."""

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from all others of this boot."""
        return self.identity.pid, self.identity.start_ticks


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """All processes at one moment."""

    time: float
    """Seconds since 1970."""
    elapsed: float
    """Seconds since the first look."""
    rows: Sequence[ProcessRow]
    memory: SystemMemory | None
    unreadable: int
    """Processes whose mappings may not be read: their USS and PSS are unknown."""
    note: str | None = None
    """Why something is missing."""


class KindOverTime(NamedTuple):
    """What the mappings of one kind hold, and held."""

    name: str
    mappings: int | None
    """How many there are now; None where a recording does not tell, as with the next two."""
    size: int | None
    """Bytes of address space."""
    rss: int | None
    held: int
    """USS + swap, bytes."""
    history: Sequence[float]
    """Of it, the oldest first, equally far apart; NaN where it is not known."""

    @property
    def change(self) -> int | None:
        """Bytes since the first look that knows."""
        first = next((value for value in self.history if value == value), None)  # NaN is not itself
        return None if first is None else round(self.held - first)


class FaultsOverTime(NamedTuple):
    """How often a process needed a page."""

    total: int
    """Since its start."""
    rate: float | None
    """Per second, between the last two looks."""
    history: Sequence[float]
    """Of the rate."""


class ProcessOverTime(msgspec.Struct, frozen=True, kw_only=True):
    """One process in depth."""

    kinds: Sequence[KindOverTime]
    """Those that hold most first."""
    kinds_note: str | None
    """Why there are none."""
    minor: FaultsOverTime | None
    major: FaultsOverTime | None
    seconds: float
    """That the histories span."""
