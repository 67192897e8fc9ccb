"""Many hosts at once: what leaks, since which release, how surely, and when it hits its limit."""

from __future__ import annotations

from typing import Literal

import msgspec

from leakline.model.trend import Gate, Verdict


class FleetTrend(msgspec.Struct, frozen=True, kw_only=True):
    """The judgement of one logical service instance: the series of its restarts joined."""

    name: str
    """As it is shown."""
    labels: dict[str, str]
    """What tells it from the others."""
    group: str
    """What is rolled out together: the service whose instances are pooled."""
    release: str | None
    """Of its last epoch; None where no label tells."""
    epochs: int
    """Runs between restarts, renames of its pod counted."""
    samples: int | None
    """None where floors alone were judged."""
    verdict: Verdict
    probability: float | None
    """Of sustained growth; None for INSUFFICIENT."""
    log_bayes_factor: float | None
    """Natural logarithm: for sustained growth against every clean shape, without the prior."""
    rate_bytes_per_second: float | None
    rate_interval: tuple[float, float] | None
    """90 %."""
    alternative: str | None
    """The best explanation without a leak."""
    increase: int | None
    """Bytes: the last floor less the first; of several runs, their sum."""
    limit: int | None
    limit_eta_seconds: float | None
    at_risk: bool
    gates: tuple[Gate, ...]
    judged_by: Literal["floors", "samples"]
    """Block floors that the store made, or the raw samples, judged as `leakline trend` does."""
    discovered: bool
    """Among those that are reported at the stated rate of false discoveries."""
    floors: tuple[float | None, ...]
    """Bytes, in blocks of equal time over the window; None where there was nothing."""


class RolloutTrend(msgspec.Struct, frozen=True, kw_only=True):
    """The judgement of one release of one group: the evidence of its instances pooled."""

    group: str
    release: str
    previous: str | None
    """The release that it replaced; None where none was seen."""
    since: float | None
    """Seconds since 1970: when it was first seen in the window; None where it was there from the start."""
    instances: int
    judged: int
    log_bayes_factor: float
    """Pooled: that a share of the instances grows without end, against that none does."""
    probability: float
    leaking_share: float
    """Posterior mean of the share of instances that leak."""
    rate_bytes_per_second: float | None
    """Of those that leak, the median."""
    begins: bool
    """Whether the growth begins with this release: the one before it was judged and does not grow."""
    discovered: bool


class FleetCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, and what came."""

    series: int
    """Raw series that the store named."""
    services: int
    """What they were joined into."""
    judged: int
    missing: int
    """Series of which nothing came."""
    partial: tuple[str, ...]
    """What is missing, and why."""


class FleetReport(msgspec.Struct, frozen=True, kw_only=True):
    """`leakline fleet --json`."""

    schema: Literal["leakline.fleet/1"] = "leakline.fleet/1"
    source: str
    """Where it was read, without secrets."""
    metric: str
    start: float
    """Seconds since 1970."""
    end: float
    false_discovery_rate: float
    """At most this share of what is called discovered is expected to be false."""
    coverage: FleetCoverage
    services: tuple[FleetTrend, ...]
    """The worst first."""
    rollouts: tuple[RolloutTrend, ...]
