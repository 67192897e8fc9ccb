"""Series of memory, and what is judged of them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

Verdict = Literal["INSUFFICIENT", "STABLE", "SETTLING", "PLATEAU", "STEP", "PERIODIC", "DECLINING", "UNDECIDED", "GROWING", "LEAK"]
Gate = Literal["samples", "growth", "confidence", "two looks", "warm-up", "cycles", "reclaimable"]
"""What keeps a growing series from LEAK: too few samples, too little growth, P under .95 now or a tenth of the samples ago, too
young, less than three cycles, or memory that the kernel takes back when it needs it."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity of memory over time."""

    name: str
    times: tuple[float, ...]
    """Seconds, rising."""
    values: tuple[float, ...]
    """Bytes; NaN where a sample is missing."""
    epochs: tuple[int, ...] | None = None
    """A number for each sample that changes when the process was started anew; None for one process."""
    limit: int | None = None
    """Bytes that it may reach at most."""
    age: float | None = None
    """Seconds since its process was started, at the last sample; None where unknown, when the series itself tells the least."""
    reclaimable: bool = False
    """Whether the kernel takes it back when it needs memory (page cache, dentries)."""


class SeriesTrend(msgspec.Struct, frozen=True, kw_only=True):
    """The judgement of one series."""

    name: str
    samples: int
    duration_seconds: float
    verdict: Verdict
    probability: float | None
    """Of sustained growth; None for INSUFFICIENT."""
    rate_bytes_per_second: float | None
    """Of the growth, if it is sustained."""
    rate_interval: tuple[float, float] | None
    """90 %."""
    alternative: str | None
    """The best explanation without a leak."""
    at_risk: bool
    """Whether the limit is reached within the horizon, if it goes on like this; a cache that still fills can do that too."""
    limit: int | None
    limit_eta_seconds: float | None
    """Until the limit is reached; None where the interval of the rate holds 0."""
    gates: tuple[Gate, ...]
    """What keeps it from LEAK."""
    increase: int | None
    """Bytes, last sample less the first."""
    increments: tuple[int, ...]
    """From sample to sample, where INSUFFICIENT leaves nothing else to say."""

    @property
    def accuses(self) -> bool:
        """Whether it is judged to grow on."""
        return self.verdict in ("GROWING", "LEAK")

    @property
    def is_noteworthy(self) -> bool:
        """Whether it is judged to grow on, or may do so."""
        return self.accuses or self.verdict == "UNDECIDED"


class TrendCurve(NamedTuple):
    """What the judgement of a series rests on, to be drawn."""

    times: tuple[float, ...]
    """Seconds: the middle of each block."""
    floors: tuple[float, ...]
    """Bytes: what each block of samples hardly falls below."""
    curve: tuple[float, ...]
    """Bytes: the most probable single shape through the floors."""
    family: str
    """Of that shape."""


class TrendReport(msgspec.Struct, frozen=True, kw_only=True):
    """`leakline trend --json`."""

    schema: Literal["leakline.trend/1"] = "leakline.trend/1"
    series: tuple[SeriesTrend, ...]
