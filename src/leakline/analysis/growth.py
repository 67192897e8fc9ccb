"""A line through a few samples: honest about how few they are. It describes; it gives no verdict."""

from __future__ import annotations

from collections.abc import Sequence

from leakline.model.series import VmaGrowth
from leakline.model.vma import VmaUsage

# Student's t, 95 % one-sided (so 90 % two-sided), by degrees of freedom; 1.645 beyond.
_T95: tuple[float, ...] = (
    *(6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753),
    *(1.746, 1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697),
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


HeldRange = tuple[int, int, int]
"""Where a mapping begins and ends, and its USS + swap."""


def held_by_mapping(usages: Sequence[VmaUsage]) -> list[HeldRange]:
    """What each mapping holds, in order of address."""
    return [(v.vma.start, v.vma.end, v.usage.uss + v.usage.swap) for v in usages]


def growing_mappings(before: Sequence[HeldRange], after: Sequence[VmaUsage]) -> list[VmaGrowth]:
    """Which mappings hold more than before, the largest increase first; new ones count in full.

    The kernel joins, splits and extends mappings at both ends: what held memory before counts for the first one that now covers it.

    Args:
        before: in order of address.
        after: all mappings, in order of address.

    """
    increases, place, owed, owed_until = [], 0, 0, 0
    for v in after:
        increase = v.usage.uss + v.usage.swap - (owed if v.vma.start < owed_until else 0)
        while place < len(before) and before[place][0] < v.vma.end:
            start, end, held = before[place]
            if end > v.vma.start and max(start, v.vma.start) < min(end, v.vma.end):
                increase -= held
                owed_until = end
            place += 1
        # Of a mapping that was split, what the first part does not account for lies in the next ones.
        owed = max(0, -increase)
        increases.append(VmaGrowth(name=v.vma.path or "[anon]", start=v.vma.start, increase=increase))
    return sorted((g for g in increases if g.increase > 0), key=lambda g: -g.increase)


def poisson_interval(count: int) -> tuple[float, float]:
    """The 90 % interval of a Poisson mean after `count` events (Garwood 1936, gamma quantiles by Wilson and Hilferty)."""

    def quantile(shape: float, z: float) -> float:
        return float(shape * (1 - 1 / (9 * shape) + z / (3 * shape**0.5)) ** 3)

    return (quantile(count, -1.645) if count else 0.0), quantile(count + 1, 1.645)
