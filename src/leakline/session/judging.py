"""The judgement of a recording: its processes, the kernel's counters, and the mappings of what grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.analysis.trend import judge
from leakline.model.trend import Series, SeriesTrend
from leakline.store.reader import RecordingReader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from leakline.analysis.trend import Settings
    from leakline.model.recording import RecordedSeries

# What no process accounts for, and what lies in memory without a file behind it; the others are sums of these, or page cache.
_KERNEL = frozenset({"SUnreclaim", "KernelStack", "PageTables", "SecPageTables", "VmallocUsed", "Percpu", "Shmem", "Hugetlb"})
_SEVERITY = ("LEAK", "GROWING", "UNDECIDED", "STEP", "PLATEAU", "SETTLING", "PERIODIC", "DECLINING", "STABLE", "INSUFFICIENT")


def recorded_series(path: Path, limit: int | None = None) -> list[Series]:
    """The series of a recording that can be judged: services, control groups, slab caches, counters, groups of mappings.

    Args:
        path: the recording.
        limit: bytes that each process may reach; None for what memory and swap had left at the end.

    Raises:
        ParseError: it is none, or is damaged.

    """
    with RecordingReader(path) as reader:
        found = [as_series(one, limit) for one in reader.processes()]
        counters = reader.counters(("meminfo", "slab", "cgroup", "mapping"), _KERNEL)
    return [*found, *(as_series(one, None) for one in counters)]


def judge_recording(path: Path, settings: Settings, limit: int | None = None) -> list[SeriesTrend]:
    """The judgements of a recording, the worst first; of mappings only those of processes that may grow.

    Args:
        path: the recording.
        settings: warm-up and horizon.
        limit: bytes that each process may reach; None for what memory and swap had left at the end.

    Raises:
        ParseError: it is none, or is damaged.

    """
    with RecordingReader(path) as reader:
        services = judge([as_series(one, limit) for one in reader.processes()], settings)
        counters = reader.counters(("meminfo", "slab", "cgroup"), _KERNEL)
        suspects = tuple(f"{trend.name} " for trend in services if trend.is_noteworthy)
        mappings = [one for one in reader.counters(("mapping",)) if one.name.startswith(suspects)] if suspects else []
    others = judge([as_series(one, None) for one in (*counters, *mappings)], settings)
    return by_severity([*services, *others])


def by_severity(trends: Sequence[SeriesTrend]) -> list[SeriesTrend]:
    """The worst first; within a verdict what is at risk, then what has grown most."""
    return sorted(trends, key=severity)


def severity(trend: SeriesTrend) -> tuple[int, bool, int]:
    """Sorts the worst first."""
    return _SEVERITY.index(trend.verdict), not trend.at_risk, -(trend.increase or 0)


def as_series(one: RecordedSeries, limit: int | None) -> Series:
    """A recorded series with the limit that it has; for processes what memory and swap had left at the end where None is given."""
    last = one.values[-1]
    if one.kind == "process" and limit is None and one.available is not None and last == last:  # NaN is not itself
        limit = int(last) + one.available
    name = one.name if one.kind in ("process", "mapping") else f"{one.kind} {one.name}"
    return Series(
        name=name,
        times=one.times,
        values=one.values,
        epochs=one.epochs,
        limit=limit if one.kind == "process" else None,
        age=one.age,
        reclaimable=one.reclaimable,
    )
