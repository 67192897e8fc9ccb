"""The kernel's counters of a recording: which of them grow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.analysis.kernel_counters import LEAST_GROWTH
from leakline.analysis.system_owners import KERNEL_AMOUNTS, UNEXPLAINED
from leakline.analysis.trend import Settings, judge
from leakline.errors import InvalidRequest
from leakline.model.kernel import CounterGrowth, KernelReport
from leakline.model.trend import Series
from leakline.store.reader import RecordingReader

if TYPE_CHECKING:
    from pathlib import Path

    from leakline.model.recording import RecordedSeries
    from leakline.model.trend import SeriesTrend


def kernel_of_recording(path: Path, settings: Settings) -> KernelReport:
    """The counters that grow; whose things they counted is not recorded.

    Args:
        path: made by `leakline record --kernel`.
        settings: how to judge.

    Raises:
        ParseError: it is none, or is damaged.
        InvalidRequest: it holds no counters of the machine.

    """
    with RecordingReader(path) as reader:
        recorded = reader.counters(("meminfo", "slab", "vmalloc"), {*KERNEL_AMOUNTS, UNEXPLAINED, "MemTotal"})
    by_name = {_name(one): one for one in recorded if one.values[-1] == one.values[-1]}  # NaN is not itself
    if "meminfo:MemTotal" not in by_name:
        raise InvalidRequest(f"{path} holds no counters of the machine", hint="`leakline record --kernel -o FILE` makes such ones.")
    total = int(by_name.pop("meminfo:MemTotal").values[-1])
    grown = {name: one for name, one in by_name.items() if one.values[-1] - one.values[0] >= LEAST_GROWTH}
    series = [Series(name=name, times=one.times, values=one.values, reclaimable=one.reclaimable) for name, one in grown.items()]
    accused = [trend for trend in judge(series, settings) if trend.accuses] if series else []
    longest = max(by_name.values(), key=lambda one: len(one.times))
    rest = by_name.get(UNEXPLAINED)
    return KernelReport(
        duration_seconds=longest.times[-1] - longest.times[0],
        samples=len(longest.times),
        mem_total=total,
        unexplained_bytes=None if rest is None else int(rest.values[-1]),
        unexplained_growth=None if rest is None else int(rest.values[-1] - rest.values[0]),
        growth=tuple(
            sorted(
                (_growth(trend, grown[trend.name]) for trend in accused),
                key=lambda growth: (growth.reclaimable, -(growth.rate_bytes_per_second or 0.0)),
            )
        ),
        unreadable=() if rest is not None else ("the recording was made without --kernel: slab caches and the unexplained",),
        cpu_seconds=None,
    )


def _name(one: RecordedSeries) -> str:
    return UNEXPLAINED if one.name == UNEXPLAINED else f"{one.kind}:{one.name}"


def _growth(trend: SeriesTrend, one: RecordedSeries) -> CounterGrowth:
    return CounterGrowth(
        counter=trend.name,
        bytes=int(one.values[-1] - one.values[0]),
        held=int(one.values[-1]),
        rate_bytes_per_second=trend.rate_bytes_per_second,
        rate_interval=trend.rate_interval,
        verdict=trend.verdict,
        probability=trend.probability,
        gates=trend.gates,
        reclaimable=one.reclaimable,
        aliases=(),
        objects=None,
        owners=(),
        note="the kernel takes it back when it needs memory: no leak" if one.reclaimable else None,
    )
