"""Measurements over time."""

from __future__ import annotations

import msgspec


class UsageSample(msgspec.Struct, frozen=True, kw_only=True):
    """What a process held at one moment."""

    time_ns: int
    """CLOCK_MONOTONIC."""
    uss: int
    swap: int

    @property
    def held(self) -> int:
        """USS + swap: RSS alone misses a leak that is swapped out."""
        return self.uss + self.swap


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """A straight line through a few samples: a description, not a verdict."""

    samples: int
    duration_ns: int
    increase: int
    """Bytes, last sample less the first."""
    rate: float
    """Bytes per second, least squares."""
    rate_interval: tuple[float, float]
    """90 %, from the residuals alone (Student's t)."""

    @property
    def is_visible(self) -> bool:
        """Whether the line rises beyond what the residuals allow, by three pages at least."""
        return self.rate_interval[0] > 0 and self.increase >= 3 * 4096


class VmaGrowth(msgspec.Struct, frozen=True, kw_only=True):
    """How much more a mapping held in the end."""

    name: str
    """The mapping's name; `[anon]` for one without."""
    start: int
    increase: int
