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


class VmaGrowth(msgspec.Struct, frozen=True, kw_only=True):
    """How much more a mapping held in the end."""

    name: str
    """The mapping's name; `[anon]` for one without."""
    start: int
    increase: int
