"""Processes over time: sample them, judge the series, and say when a judgement firms up."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.diagnosis import growing_finding
from leakline.analysis.growth import growing_mappings
from leakline.analysis.trend import Settings, judge
from leakline.errors import LeaklineError, NotPossible, TargetGone
from leakline.model.finding import Report, Target
from leakline.model.series import VmaGrowth
from leakline.model.trend import Series, SeriesTrend
from leakline.model.vma import VmaUsage
from leakline.session.reporting import build_report
from leakline.session.targets import describe, require_readable, select
from leakline.sources.cgroupfs import memory_limit
from leakline.sources.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leakline.session.interruption import Interruption
    from leakline.sources.procfs import ProcFs

_OLDEST_SECONDS = 30.0
"""USS can change while statm stays: when a process ends that shared its pages. So long a value may be repeated."""
_ACCUSING = ("GROWING", "LEAK")
_FIRST_LOOKS = (5, 8, 12, 24, 36, 48)


def _next_look(samples: int) -> int:
    """How many samples it takes to judge again: a verdict does not turn on one in twenty."""
    return next((look for look in _FIRST_LOOKS if look > samples), samples + max(1, samples // 20))


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """A judgement that changed."""

    target: Target
    trend: SeriesTrend
    mapping: VmaGrowth | None
    """The one that grew most, for a series that grows."""


class _Watched(msgspec.Struct):
    """One service: a process, and those that took its place."""

    target: Target
    started: int
    before: list[VmaUsage]
    times: list[float] = msgspec.field(default_factory=list)
    values: list[float] = msgspec.field(default_factory=list)
    epochs: list[int] = msgspec.field(default_factory=list)
    epoch: int = 0
    statm: bytes = b""
    read_at: float = 0.0
    judged: int = 0
    trend: SeriesTrend | None = None
    gone: bool = False


class Watch:
    """Watches processes.

    Args:
        procfs: where they run.
        interruption: the first Ctrl-C ends it.
        settings: warm-up and horizon.
        limit: bytes that each may reach; None finds it: its control group's, or what memory and swap have left.

    """

    def __init__(self, procfs: ProcFs, interruption: Interruption, settings: Settings, limit: int | None = None) -> None:
        self._procfs = procfs
        self._interruption = interruption
        self._settings = settings
        self._limit = limit
        self._watched: list[_Watched] = []
        self._name: str | None = None
        self._began_ns = time.monotonic_ns()

    def run(self, pids: Sequence[int], name: str | None, interval: float, duration: float) -> Iterator[Update]:
        """Sample until the time is over, and yield judgements when they change.

        Args:
            pids: processes.
            name: an expression: those that it finds too, and those that take their place when they end.
            interval: seconds from sample to sample.
            duration: seconds in all.

        Raises:
            TargetGone: there is no such process, or all have ended.
            PermissionNeeded: one may not be read.

        """
        self._name = name
        for pid in select(self._procfs, pids, name):
            require_readable(self._procfs, pid)
            self._watched.append(self._begin(pid))
        for elapsed in self._interruption.ticks(interval, duration):
            for watched in self._watched:
                self._sample(watched, elapsed)
                if len(watched.values) >= _next_look(watched.judged):
                    yield from self._judge(watched)
            if all(watched.gone for watched in self._watched) and self._name is None:
                break
        for watched in self._watched:
            yield from self._judge(watched)

    def reports(self) -> list[Report]:
        """Findings about each, as things stand."""
        return [self._report(watched) for watched in self._watched]

    @property
    def trends(self) -> list[SeriesTrend]:
        """The last judgement of each."""
        return [watched.trend for watched in self._watched if watched.trend is not None]

    def _begin(self, pid: int) -> _Watched:
        stat = self._procfs.stat(pid)
        return _Watched(target=describe(self._procfs, pid), started=stat.start_ticks, before=self._procfs.smaps(pid))

    def _sample(self, watched: _Watched, elapsed: float) -> None:
        if watched.gone and not self._replaced(watched):
            return
        pid = watched.target.pid
        try:
            statm = self._procfs.statm(pid)
            now = time.monotonic()
            if statm != watched.statm or now - watched.read_at >= _OLDEST_SECONDS:
                usage = self._procfs.usage(pid)
                watched.statm, watched.read_at = statm, now
                value = float(usage.uss + usage.swap)
            else:
                value = watched.values[-1]
            watched.gone = self._procfs.stat(pid).start_ticks != watched.started
        except TargetGone:
            watched.gone = True
        if watched.gone:
            return
        watched.times.append(elapsed)
        watched.values.append(value)
        watched.epochs.append(watched.epoch)

    def _replaced(self, watched: _Watched) -> bool:
        """Whether a service was started anew: a process of the same command that the expression finds, and nobody watches."""
        if self._name is None:
            return False
        known = {other.target.pid for other in self._watched if not other.gone}
        with suppress(LeaklineError):
            for pid in select(self._procfs, [], self._name):
                target = describe(self._procfs, pid)
                if pid not in known and target.command == watched.target.command:
                    fresh = self._begin(pid)
                    watched.target, watched.started, watched.before = fresh.target, fresh.started, fresh.before
                    watched.statm, watched.gone, watched.epoch = b"", False, watched.epoch + 1
                    return True
        return False

    def _judge(self, watched: _Watched) -> Iterator[Update]:
        if not watched.values or watched.judged == len(watched.values):
            return
        watched.judged = len(watched.values)
        series = Series(
            name=f"{watched.target.command} ({watched.target.pid})",
            times=tuple(watched.times),
            values=tuple(watched.values),
            epochs=tuple(watched.epochs) if watched.epoch else None,
            limit=self._limit if self._limit is not None else self._found_limit(watched),
            age=self._age(watched),
        )
        before, (watched.trend,) = watched.trend, judge([series], self._settings)
        trend = watched.trend
        if before is None or (before.verdict, before.at_risk) != (trend.verdict, trend.at_risk):
            yield Update(target=watched.target, trend=trend, mapping=self._grown(watched) if trend.verdict in _ACCUSING else None)

    def _grown(self, watched: _Watched) -> VmaGrowth | None:
        with suppress(LeaklineError):
            return next(iter(growing_mappings(watched.before, self._procfs.smaps(watched.target.pid))), None)
        return None

    def _age(self, watched: _Watched) -> float | None:
        """Seconds since its start, at the last sample."""
        with suppress(OSError, ValueError, IndexError):
            up = float((self._procfs.root / "uptime").read_text().split()[0])
            return up - watched.started / Machine().ticks_per_second
        return None

    def _found_limit(self, watched: _Watched) -> int | None:
        memory = self._procfs.memory()
        if memory.available is None:
            return None
        left = int(watched.values[-1]) + memory.available + memory.swap_free
        own = None
        with suppress(NotPossible):
            own = memory_limit(Machine(), self._procfs.memory_cgroup(watched.target.pid))
        return left if own is None else min(left, own)

    def _report(self, watched: _Watched) -> Report:
        trend, mapping = watched.trend, self._grown(watched)
        findings = [growing_finding(trend, mapping)] if trend is not None and trend.verdict in _ACCUSING else []
        return build_report(
            self._procfs, watched.target, [], findings, began_ns=self._began_ns, before=watched.before, after=watched.before
        )
