"""A recording for `top`: any moment of it, with the verdicts that were due then."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from leakline.analysis.trend import judge
from leakline.errors import ParseError
from leakline.model.overview import FaultsOverTime, KindOverTime, Overview, ProcessOverTime, ProcessRow
from leakline.session.judging import series_of
from leakline.store.moments import MomentsReader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from leakline.analysis.trend import Settings
    from leakline.model.recording import ProcessIdentity, RecordedSeries
    from leakline.model.trend import SeriesTrend

_NO_MAPPINGS = "the recording has no mappings of it: `leakline record --maps every=1m` writes them"
_POINTS = 64
Trends = dict[tuple[int, int], "SeriesTrend"]
"""The judgement of each process, by its number and start."""


class Replay:
    """A recording, read whole.

    Args:
        path: the file.
        settings: warm-up and horizon.
        limit: bytes that each process may reach; None for what memory and swap had left at the end.

    Raises:
        ParseError: it is no recording, is damaged, or is empty.

    """

    def __init__(self, path: Path, settings: Settings, limit: int | None = None) -> None:
        self._settings, self._limit = settings, limit
        with MomentsReader(path) as reader:
            self._moments = reader.every_moment()
            self._services = reader.services()
            self._mappings = reader.counters(("mapping",))
            self._times = reader.times
            self.interval = reader.interval
        self.path = path
        if not len(self._times):
            raise ParseError(f"{path} holds no tick", hint="`leakline record` was ended before its first one.")

    def __len__(self) -> int:
        return len(self._times)

    def elapsed(self, place: int) -> float:
        """Seconds from the first tick to that one."""
        return float(self._times[place])

    def at(self, place: int, trends: Mapping[tuple[int, int], SeriesTrend]) -> Overview:
        """The processes at one tick.

        Args:
            place: which tick, from 0.
            trends: what `trends` said of it.

        """
        rows = [
            ProcessRow(identity, amounts, trends.get((identity.pid, identity.start_ticks)))
            for identity, amounts in self._moments.at(place)
        ]
        return Overview(
            time=float(self._moments.walls[place]),
            elapsed=self.elapsed(place),
            rows=rows,
            memory=self._moments.memory(place),
            unreadable=sum(row.amounts.uss is None for row in rows),
        )

    def trends(self, place: int) -> Trends:
        """What could be judged at a tick: later ones do not count."""
        until = self._times[place]
        lanes, series = [], []
        for lane, recorded in self._services:
            shown = _until(recorded, float(until))
            if shown is not None:
                lanes.append(lane)
                series.append(series_of(shown, self._limit))
        judged = judge(series, self._settings)
        return {key: trend for lane, trend in zip(lanes, judged, strict=True) for key in lane}

    def history(self, process: ProcessIdentity, place: int, points: int) -> Sequence[float]:
        """USS + swap of a process up to a tick, equally far apart; NaN where it is not known."""
        amounts = [self._moments.amounts_of(process, at) for at in self._places(process, place, points)]
        return [math.nan if one is None or one.held is None else float(one.held) for one in amounts]

    def process(self, process: ProcessIdentity, place: int) -> ProcessOverTime:
        """One process in depth, as it was at a tick."""
        places = self._places(process, place, _POINTS)
        seconds = self.elapsed(place) - self.elapsed(places[0]) if places else 0.0
        kinds = self._kinds(process, [self.elapsed(at) for at in places])
        return ProcessOverTime(
            kinds=kinds,
            kinds_note=None if kinds else _NO_MAPPINGS,
            minor=self._faults(process, places, major=False),
            major=self._faults(process, places, major=True),
            seconds=seconds,
        )

    def _places(self, process: ProcessIdentity, place: int, points: int) -> list[int]:
        first = min(self._moments.first_place(process), place)
        return sorted({round(at) for at in np.linspace(first, place, max(points, 1))})

    def _kinds(self, process: ProcessIdentity, times: Sequence[float]) -> list[KindOverTime]:
        prefix = f"{process.command} ({process.pid}) "
        found = []
        for one in self._mappings:
            if one.name.startswith(prefix) and times and one.times[0] <= times[-1]:
                rows = np.searchsorted(np.array(one.times), np.array(times), side="right") - 1
                values = [one.values[row] if row >= 0 else math.nan for row in rows]
                if values[-1] == values[-1]:  # NaN is not itself
                    found.append(KindOverTime(one.name.removeprefix(prefix), None, None, None, round(values[-1]), values))
        return sorted(found, key=lambda kind: (-kind.held, kind.name))

    def _faults(self, process: ProcessIdentity, places: Sequence[int], *, major: bool) -> FaultsOverTime | None:
        counts = []
        for at in places:
            amounts = self._moments.amounts_of(process, at)
            if amounts is not None:
                counts.append((self.elapsed(at), amounts.major_faults if major else amounts.minor_faults))
        if not counts:
            return None
        steps = pairwise(counts)
        rates = [max(0, after - before) / (then - since) for (since, before), (then, after) in steps if then > since]
        return FaultsOverTime(counts[-1][1], rates[-1] if rates else None, rates)


def _until(series: RecordedSeries, end: float) -> RecordedSeries | None:
    """What of a series had been measured by then."""
    count = int(np.searchsorted(np.array(series.times), end, side="right"))
    if count == len(series.times):
        return series
    if not count:
        return None
    return series._replace(
        times=series.times[:count],
        values=series.values[:count],
        epochs=None if series.epochs is None else series.epochs[:count],
        age=None if series.age is None else max(0.0, series.age - (series.times[-1] - series.times[count - 1])),
    )
