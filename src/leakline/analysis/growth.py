"""A line through a few samples: honest about how few they are. It describes; it gives no verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leakline.model.series import Growth, UsageSample, VmaGrowth
from leakline.model.vma import VmaUsage

# Student's t, 95 % one-sided (so 90 % two-sided), by degrees of freedom; 1.645 beyond.
_T95: tuple[float, ...] = (
    *(6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753),
    *(1.746, 1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697),
)


def describe_growth(samples: Sequence[UsageSample]) -> Growth | None:
    """Least squares over time; None for fewer than three samples, through which any line would do."""
    line = line_through([((s.time_ns - samples[0].time_ns) / 1e9, float(s.held)) for s in samples])
    if line is None:
        return None
    rate, interval = line
    return Growth(
        samples=len(samples),
        duration_ns=samples[-1].time_ns - samples[0].time_ns,
        increase=samples[-1].held - samples[0].held,
        rate=rate,
        rate_interval=interval,
    )


def line_through(points: Sequence[tuple[float, float]]) -> tuple[float, tuple[float, float]] | None:
    """Slope of least squares, and its 90 % interval from the residuals alone; None for fewer than three points or one moment.

    Args:
        points: time and value.

    """
    count = len(points)
    if count < 3:
        return None
    times, values = [time - points[0][0] for time, _ in points], [value for _, value in points]
    mean_time, mean_value = sum(times) / count, sum(values) / count
    spread = sum((t - mean_time) ** 2 for t in times)
    if not spread:
        return None
    rate = sum((t - mean_time) * (v - mean_value) for t, v in zip(times, values, strict=True)) / spread
    residual = sum((v - mean_value - rate * (t - mean_time)) ** 2 for t, v in zip(times, values, strict=True))
    freedom = count - 2
    t_value = _T95[freedom - 1] if freedom <= len(_T95) else 1.645
    half = t_value * (residual / freedom / spread) ** 0.5
    return rate, (rate - half, rate + half)


def held_by_mapping(usages: Sequence[VmaUsage]) -> dict[int, int]:
    """USS + swap of each mapping, by its start."""
    return {v.vma.start: v.usage.uss + v.usage.swap for v in usages}


def growing_mappings(before: Mapping[int, int], after: Sequence[VmaUsage]) -> list[VmaGrowth]:
    """Which mappings hold more than before, the largest increase first; new ones count in full.

    Args:
        before: USS + swap by start.
        after: all mappings.

    """
    increases = [
        VmaGrowth(
            name=v.vma.path or "[anon]",
            start=v.vma.start,
            increase=v.usage.uss + v.usage.swap - before.get(v.vma.start, 0),
        )
        for v in after
    ]
    return sorted((g for g in increases if g.increase > 0), key=lambda g: -g.increase)


def poisson_interval(count: int) -> tuple[float, float]:
    """The 90 % interval of a Poisson mean after `count` events (Garwood 1936, gamma quantiles by Wilson and Hilferty)."""

    def quantile(shape: float, z: float) -> float:
        return float(shape * (1 - 1 / (9 * shape) + z / (3 * shape**0.5)) ** 3)

    return (quantile(count, -1.645) if count else 0.0), quantile(count + 1, 1.645)
