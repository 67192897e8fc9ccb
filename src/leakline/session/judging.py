"""The judgement of a recording: its processes, the kernel's counters, and the mappings of what grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.analysis.system_owners import UNEXPLAINED
from leakline.analysis.trend import judge
from leakline.model.trend import Series, SeriesTrend
from leakline.store.reader import RecordingReader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from leakline.analysis.trend import Settings
    from leakline.model.recording import RecordedSeries

# What no process accounts for, and what lies in memory without a file behind it; the others are sums of these, or page cache.
KERNEL_COUNTERS = frozenset(
    {"SUnreclaim", "KernelStack", "PageTables", "SecPageTables", "VmallocUsed", "Percpu", "Shmem", "Hugetlb", UNEXPLAINED}
)
SEVERITY = ("LEAK", "GROWING", "UNDECIDED", "STEP", "PLATEAU", "SETTLING", "PERIODIC", "DECLINING", "STABLE", "INSUFFICIENT")


def recorded_series(path: Path, limit: int | None = None) -> list[Series]:
    """The series of a recording that can be judged: services, control groups, slab caches, counters, groups of mappings.

    Args:
        path: the recording.
        limit: bytes that each process may reach; None for what memory and swap had left at the end.

    Raises:
        ParseError: it is none, or is damaged.

    """
    with RecordingReader(path) as reader:
        found = [series_of(one, limit) for one in reader.processes()]
        counters = reader.counters(("meminfo", "slab", "vmalloc", "cgroup", "mapping"), KERNEL_COUNTERS)
    return [*found, *(series_of(one, None) for one in counters)]


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
        services = judge([series_of(one, limit) for one in reader.processes()], settings)
        counters = reader.counters(("meminfo", "slab", "vmalloc", "cgroup"), KERNEL_COUNTERS)
        suspects = tuple(f"{trend.name} " for trend in services if trend.is_noteworthy)
        mappings = [one for one in reader.counters(("mapping",)) if one.name.startswith(suspects)] if suspects else []
    others = judge([series_of(one, None) for one in (*counters, *mappings)], settings)
    return by_severity([*services, *others])


def by_severity(trends: Sequence[SeriesTrend]) -> list[SeriesTrend]:
    """The worst first; within a verdict what is at risk, then what has grown most."""
    return sorted(trends, key=severity)


def severity(trend: SeriesTrend) -> tuple[int, bool, int]:
    """Sorts the worst first."""
    return SEVERITY.index(trend.verdict), not trend.at_risk, -(trend.increase or 0)


def series_of(one: RecordedSeries, limit: int | None) -> Series:
    """A recorded series as it is judged.

    Args:
        one: as it was read.
        limit: bytes that a process may reach; None for what memory and swap had left at the end.

    """
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
