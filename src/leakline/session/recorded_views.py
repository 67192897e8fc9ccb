"""A recording, for those who show it: how things stood at its end, looked at anew while it goes on."""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from leakline.analysis.diagnosis import growing_finding
from leakline.analysis.trend import judge
from leakline.errors import LeaklineError, TargetGone
from leakline.model.finding import Cost, Report, RetainedFree, Summary, Target
from leakline.model.live import MachinePast, Points, ProcessDepth, ProcessView, View
from leakline.model.trend import Series
from leakline.session.monitoring import machine_view
from leakline.store.reader import RecordingReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from leakline.analysis.trend import Settings
    from leakline.model.recording import RecordedSeries
    from leakline.model.trend import SeriesTrend
    from leakline.session.interruption import Interruption

_LOOK_SECONDS = 2.0
_SHARE = 0.1
_MOST_PAST = 600
_AMOUNTS = ("MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SReclaimable", "SUnreclaim", "SwapTotal", "SwapFree")


class _Held(msgspec.Struct, frozen=True):
    """A service of the recording."""

    view: ProcessView
    series: RecordedSeries
    mappings: tuple[RecordedSeries, ...]


class RecordedViews:
    """Looks at a recording.

    Args:
        path: the file, which may be going on, or vanish.
        interruption: ends it.
        settings: warm-up and horizon of the judgement.

    """

    def __init__(self, path: Path, interruption: Interruption, settings: Settings) -> None:
        self._path = path
        self._interruption = interruption
        self._settings = settings
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}

    def views(self, duration: float = float("inf")) -> Iterator[View]:
        """A view now, and whenever the file has changed; one that tells the trouble when it cannot be read any more.

        Raises:
            ParseError: at the first look it is no recording, or is damaged.

        """
        latest: View | None = None
        known: tuple[tuple[int, int], ...] | None = None
        next_read = 0.0
        for _ in self._interruption.ticks(_LOOK_SECONDS, duration):
            try:
                state = self._state()
                if state != known and time.monotonic() >= next_read:
                    began = time.monotonic()
                    latest, known = self._read(), state
                    next_read = time.monotonic() + (time.monotonic() - began) / _SHARE
                    yield latest
            except (LeaklineError, OSError) as error:
                if latest is None:
                    raise
                text = error.message if isinstance(error, LeaklineError) else f"{self._path.name}: {error.strerror}"
                if known is not None:
                    known = None
                    yield msgspec.structs.replace(latest, trouble=text)

    def histories(self) -> dict[str, Points]:
        """What each process held, by key."""
        with self._lock:
            held = list(self._held.items())
        return {key: Points(times=one.series.times, values=one.series.values) for key, one in held}

    def depth(self, key: str) -> ProcessDepth | None:
        """A process in depth; None where there is none."""
        with self._lock:
            held = self._held.get(key)
        if held is None:
            return None
        times = max((one.times for one in held.mappings), key=len, default=())
        prefix = len(held.series.name) + 1
        return ProcessDepth(
            process=held.view,
            held=Points(times=held.series.times, values=held.series.values),
            kind_times=times,
            kinds={one.name[prefix:]: _on_axis(one, times) for one in held.mappings},
            kinds_unknown=None if times else "mappings were not recorded: record --maps every=10s does that",
            ended=False,
        )

    def report(self, key: str) -> Report:
        """The findings about a process.

        Raises:
            TargetGone: there is none of this name.

        """
        with self._lock:
            held = self._held.get(key)
        if held is None:
            raise TargetGone("there is no such process in the recording")
        trend, view = held.view.trend, held.view
        return Report(
            target=Target(pid=view.pid or 0, command=view.command, executable=None),
            bytes_are="usable",
            summary=Summary(definite=None, indirect=None, possible=None, reachable=None),
            findings=(growing_finding(trend, None),) if trend is not None and trend.accuses else (),
            retained_free=RetainedFree(bytes=None),
            not_judged=(),
            cost=Cost(target_stopped_ns=0, duration_ns=round(1e9 * trend.duration_seconds) if trend is not None else 0),
        )

    def _state(self) -> tuple[tuple[int, int], ...]:
        """What tells a changed file: what is written last is beside it, in the write-ahead log."""
        log = self._path.with_name(self._path.name + "-wal")
        stats = [self._path.stat(), *([log.stat()] if log.exists() else [])]
        return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)

    def _read(self) -> View:
        with RecordingReader(self._path) as reader:
            services = reader.processes()
            mappings = reader.counters(("mapping",))
            counters = {one.name: one for one in reader.counters(("meminfo",), _AMOUNTS)}
        trends = judge([_series(one) for one in services], self._settings)
        names = sorted((one.name for one in services), key=len, reverse=True)
        groups: dict[str, list[RecordedSeries]] = {}
        for one in mappings:
            owner = next((name for name in names if one.name.startswith(f"{name} ")), None)
            if owner is not None:
                groups.setdefault(owner, []).append(one)
        held = {}
        for number, (one, trend) in enumerate(zip(services, trends, strict=True)):
            view = _view(number, one, trend)
            held[view.key] = _Held(view, one, tuple(groups.get(one.name, ())))
        with self._lock:
            self._held = held
        written = self._path.stat().st_mtime
        amounts = {name: one.values[-1] for name, one in counters.items()}
        return View(
            time=written,
            machine=machine_view({name: int(value) for name, value in amounts.items() if value == value}),
            past=_past(counters, written),
            processes=tuple(one.view for one in held.values()),
            unreadable=0,
        )


def _past(counters: Mapping[str, RecordedSeries], written: float) -> MachinePast | None:
    """What was neither free nor cached, on the axis of MemFree; that of a thinned recording differs from counter to counter."""
    if "MemTotal" not in counters or "MemFree" not in counters:
        return None
    times = np.array(counters["MemFree"].times)
    chosen = np.unique(np.linspace(0, len(times) - 1, min(len(times), _MOST_PAST)).astype(int))
    times = times[chosen]

    def values(name: str) -> NDArray[np.float64]:
        at, value = np.array(counters[name].times), np.array(counters[name].values)
        known = np.isfinite(value)
        found: NDArray[np.float64] = np.interp(times, at[known], value[known])
        return found

    used = values("MemTotal")
    for name in ("MemFree", "Buffers", "Cached", "SReclaimable"):
        if name in counters:
            used = used - values(name)
    seconds = written - times[-1] + times
    return MachinePast(times=tuple(seconds.tolist()), used=tuple(int(value) for value in np.maximum(used, 0)))


def _series(one: RecordedSeries) -> Series:
    last = one.values[-1]
    limit = int(last) + one.available if one.available is not None and last == last else None  # NaN is not itself
    return Series(name=one.name, times=one.times, values=one.values, epochs=one.epochs, age=one.age, limit=limit)


def _view(number: int, one: RecordedSeries, trend: SeriesTrend) -> ProcessView:
    named = re.fullmatch(r"(.*) \((\d+)\)", one.name, re.DOTALL)
    known = [value for value in one.values if value == value]
    return ProcessView(
        key=f"recorded-{number}",
        pid=int(named[2]) if named else None,
        ppid=None,
        user=None,
        command=named[1] if named else one.name,
        cmdline=None,
        cgroup=None,
        uss=None,
        pss=None,
        rss=None,
        swap=None,
        held=int(known[-1]) if known else None,
        minor_faults=None,
        major_faults=None,
        trend=trend,
    )


def _on_axis(one: RecordedSeries, times: Sequence[float]) -> tuple[int, ...]:
    """The values at these times; 0 where the group of mappings was not there."""
    found = dict(zip(one.times, one.values, strict=True))
    return tuple(int(value) if (value := found.get(when, 0.0)) == value else 0 for when in times)
