"""Processes over time: sample them, judge the series, and say when a judgement firms up."""

from __future__ import annotations

import time
from array import array
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from leakline.analysis.diagnosis import growing_finding
from leakline.analysis.growth import HeldRange, growing_mappings, held_by_mapping
from leakline.analysis.trend import Settings, judge
from leakline.errors import LeaklineError, NotPossible, TargetGone
from leakline.model.finding import Report, Target
from leakline.model.recording import ProcessIdentity
from leakline.model.series import VmaGrowth
from leakline.model.trend import Series, SeriesTrend
from leakline.session.reporting import build_report
from leakline.session.sampling import SHARE, Sampler
from leakline.session.targets import describe, require_readable, select
from leakline.sources.cgroupfs import memory_limit
from leakline.sources.procfs import ProcFs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from leakline.session.interruption import Interruption
    from leakline.session.sampling import Choice, Look, Sampled
    from leakline.sources.machine import Machine

_FIRST_LOOKS = (5, 8, 12, 24, 36, 48)
_MOST_SAMPLES = 512
_LEAST_SAMPLES = 5
_MOST_GONE = 500
_Service = tuple[str | None, str, str | None]
_FEW = 16
"""Processes whose mappings are read at the start; of more, once their memory rises."""


def _next_look(samples: int) -> int:
    """How many samples it takes to judge again: a verdict does not turn on one in twenty."""
    return next((look for look in _FIRST_LOOKS if look > samples), samples + max(1, samples // 20))


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """A judgement that changed."""

    target: Target
    trend: SeriesTrend
    mapping: VmaGrowth | None
    """The one that grew most, for a series that grows."""


class Samples:
    """Times, values and epochs in a bounded space: when it is full every second one goes, and only every second one comes."""

    def __init__(self) -> None:
        self.times, self.values, self.epochs = array("d"), array("d"), array("i")
        self.seen = 0
        self._stride = 1

    def add(self, when: float, value: float, epoch: int) -> None:
        """Take a sample, or leave it out."""
        if self.seen % self._stride == 0:
            if len(self.times) == _MOST_SAMPLES:
                self.times, self.values, self.epochs = self.times[::2], self.values[::2], self.epochs[::2]
                self._stride *= 2
            if self.seen % self._stride == 0:
                self.times.append(when)
                self.values.append(value)
                self.epochs.append(epoch)
        self.seen += 1


class _Watched:
    """One service: a process, and those that took its place."""

    def __init__(self, identity: ProcessIdentity, target: Target) -> None:
        self.identity = identity
        self.target = target
        self.samples = Samples()
        self.before: list[HeldRange] | None = None
        self.epoch = 0
        self.judged = 0
        self.trend: SeriesTrend | None = None
        self.said: tuple[str, bool, bool] | None = None
        """Verdict, risk, and whether it was accused, as they were told last."""
        self.mapping: VmaGrowth | None = None
        self.gone = False


class Standing(NamedTuple):
    """What is known of a process."""

    trend: SeriesTrend | None
    """As it was judged last; None where there was no reason to yet."""
    samples: Samples
    """USS + swap; the restarts of a service as epochs."""


class Watch:
    """Watches processes.

    Args:
        machine: the live one.
        interruption: the first Ctrl-C ends it.
        settings: warm-up and horizon.
        limit: bytes that each may reach; None finds it: its control group's, its own (RLIMIT_AS, RLIMIT_DATA), or what memory and
            swap have left.
        least_rate: bytes per second; slower growth is not accused.
        share: of the time, for the sums over mappings.

    """

    def __init__(
        self,
        machine: Machine,
        interruption: Interruption,
        settings: Settings,
        limit: int | None = None,
        least_rate: float = 0.0,
        share: float = SHARE,
    ) -> None:
        self._share = share
        self._machine = machine
        self._procfs = ProcFs(machine.proc)
        self._interruption = interruption
        self._settings = settings
        self._limit = limit
        self._least_rate = least_rate
        self._watched: list[_Watched] = []
        self._current: dict[tuple[int, int], _Watched] = {}
        self._gone: dict[_Service, list[_Watched]] = defaultdict(list)
        self._many = False
        self._forgotten = 0
        self._follows = False
        self._began_ns = time.monotonic_ns()
        self.unreadable = 0
        """Processes that were seen, and may not be read."""

    def run(self, choice: Choice, interval: float, duration: float, on_tick: Callable[[], None] = lambda: None) -> Iterator[Update]:
        """Sample until the time is over, and yield judgements when they change.

        Args:
            choice: which processes; those that take the place of one that has ended go on in its series.
            interval: seconds from sample to sample.
            duration: seconds in all.
            on_tick: called after each sample.

        Raises:
            TargetGone: there is no such process, or all have ended.
            PermissionNeeded: one that was named may not be read.

        """
        for _, updates in self.looks(choice, interval, duration):
            yield from updates
            on_tick()
        yield from self._judge(self._watched)

    def looks(self, choice: Choice, interval: float, duration: float) -> Iterator[tuple[Look, list[Update]]]:
        """The same, tick by tick: what was seen, and the judgements that changed by it.

        Raises:
            TargetGone: there is no such process, or all have ended.
            PermissionNeeded: one that was named may not be read.

        """
        named = select(self._procfs, sorted(choice.pids), choice.name.pattern if choice.name else None) if choice.named else []
        for pid in named:
            require_readable(self._procfs, pid)
        self._follows = choice.follows
        self._many = choice.everything or choice.cgroup is not None
        sampler = Sampler(self._machine, choice, self._share)
        try:
            began = None
            for _ in self._interruption.ticks(interval, duration):
                look = sampler.tick()
                if began is None:
                    began = look.tick.boottime
                    if not look.processes:
                        raise TargetGone("no such process", hint="`leakline ps` shows what there is.")
                self._take(look, look.tick.boottime - began)
                due = [w for w in self._watched if w.samples.seen >= _next_look(w.judged) and _needs_judging(w)]
                yield look, list(self._judge(due))
                if not self._current and not self._follows:
                    break
        finally:
            sampler.close()

    def series_of(self, process: ProcessIdentity) -> tuple[SeriesTrend | None, Sequence[float]]:
        """The last judgement of a process that runs, and what it and its predecessors held so far, equally far apart in time."""
        watched = self._current.get((process.pid, process.start_ticks))
        return (None, ()) if watched is None else (watched.trend, watched.samples.values)

    def reports(self, *, every: bool) -> list[Report]:
        """Findings about each, as things stand.

        Args:
            every: of those that do not grow, too.

        """
        return [self._report(watched) for watched in self._watched if every or self._accused(watched)]

    def report(self, update: Update) -> Report:
        """What is to be told about a judgement now."""
        return self._report(next(watched for watched in reversed(self._watched) if watched.target.pid == update.target.pid))

    @property
    def services(self) -> int:
        """How many were watched."""
        return len(self._watched) + self._forgotten

    def standing(self, identity: ProcessIdentity) -> Standing | None:
        """What is known of a process now; None before it could be read, and after its end."""
        watched = self._current.get((identity.pid, identity.start_ticks))
        return None if watched is None else Standing(watched.trend, watched.samples)

    def report_of(self, identity: ProcessIdentity) -> Report | None:
        """What is to be told about a process now; None before it could be read, and after its end."""
        watched = self._current.get((identity.pid, identity.start_ticks))
        return None if watched is None else self._report(watched)

    def _take(self, look: Look, elapsed: float) -> None:
        for identity in look.ended:
            watched = self._current.pop((identity.pid, identity.start_ticks), None)
            if watched is not None:
                watched.gone = True
                self._gone[_service(watched.identity)].append(watched)
        if look.ended:
            self._forget()
        self.unreadable = 0
        for sampled in look.processes:
            amounts = sampled.amounts
            if amounts is None or amounts.uss is None or amounts.held is None:
                self.unreadable += 1
                continue
            identity = sampled.identity
            watched = self._current.get((identity.pid, identity.start_ticks)) or self._place(sampled)
            if watched is not None:
                if identity is not watched.identity:  # it called exec
                    watched.identity, watched.target = identity, _renamed(watched.target, identity)
                if not sampled.suspect:  # what has changed and was not read anew is missing, and no sample of now
                    watched.samples.add(elapsed, float(amounts.held), watched.epoch)
        if len(self._watched) <= _FEW:
            for watched in self._watched:
                self._remember_mappings(watched)

    def _place(self, sampled: Sampled) -> _Watched | None:
        identity = sampled.identity
        try:
            target = describe(self._procfs, identity.pid)
        except LeaklineError:
            return None  # it has ended since
        before = self._gone.get(_service(identity))
        if not before:
            watched = _Watched(identity, target)
            self._watched.append(watched)
        else:
            watched = before.pop()
            watched.identity, watched.target, watched.before = identity, target, None
            watched.gone, watched.epoch = False, watched.epoch + 1
        self._current[identity.pid, identity.start_ticks] = watched
        return watched

    def _forget(self) -> None:
        """Whoever ended before there was anything to judge, and of the others that ended the first beyond a number."""
        gone = [watched for watched in self._watched if watched.gone and not self._accused(watched)]
        short = [watched for watched in gone if self._many and watched.samples.seen < _LEAST_SAMPLES and not watched.epoch]
        older = gone[: max(0, len(gone) - _MOST_GONE)]
        dropped = {id(watched) for watched in (*short, *older)}
        if not dropped:
            return
        self._forgotten += len(dropped)
        self._watched = [watched for watched in self._watched if id(watched) not in dropped]
        for service, watched_ones in list(self._gone.items()):
            kept = [watched for watched in watched_ones if id(watched) not in dropped]
            if kept:
                self._gone[service] = kept
            else:
                del self._gone[service]

    def _remember_mappings(self, watched: _Watched) -> None:
        if watched.before is None and not watched.gone:
            with suppress(LeaklineError):
                watched.before = held_by_mapping(self._procfs.smaps(watched.identity.pid))

    def _judge(self, due: Sequence[_Watched]) -> Iterator[Update]:
        due = [watched for watched in due if watched.judged != watched.samples.seen]
        for watched, trend in zip(due, judge([self._series(watched) for watched in due], self._settings), strict=True):
            watched.judged = watched.samples.seen
            said, watched.trend = watched.said, trend
            watched.said = trend.verdict, trend.at_risk, self.accuses(trend)
            if trend.increase:
                self._remember_mappings(watched)
            if said != watched.said:
                if trend.accuses:
                    self._find_mapping(watched)
                yield Update(target=watched.target, trend=trend, mapping=watched.mapping if trend.accuses else None)

    def _series(self, watched: _Watched) -> Series:
        samples = watched.samples
        return Series(
            name=f"{watched.target.command} ({watched.target.pid})",
            times=tuple(samples.times),
            values=tuple(samples.values),
            epochs=tuple(samples.epochs) if watched.epoch else None,
            limit=self._limit if self._limit is not None else self._found_limit(watched),
            age=time.clock_gettime(time.CLOCK_BOOTTIME) - watched.identity.start_ticks / self._machine.ticks_per_second,
        )

    def accuses(self, trend: SeriesTrend) -> bool:
        """Whether it grows, and as fast as was asked for."""
        return trend.accuses and (trend.rate_bytes_per_second or 0.0) >= self._least_rate

    def _accused(self, watched: _Watched) -> bool:
        return watched.trend is not None and self.accuses(watched.trend)

    def _find_mapping(self, watched: _Watched) -> None:
        if watched.before is not None and not watched.gone:
            with suppress(LeaklineError):
                watched.mapping = next(iter(growing_mappings(watched.before, self._procfs.smaps(watched.identity.pid))), None)

    def _found_limit(self, watched: _Watched) -> int | None:
        held = int(watched.samples.values[-1])
        found = []
        with suppress(LeaklineError):
            memory = self._procfs.memory()
            if memory.available is not None:
                found.append(held + memory.available + memory.swap_free)
        with suppress(NotPossible):
            own = memory_limit(self._machine, watched.identity.cgroup)
            found += [] if own is None else [own]
        with suppress(LeaklineError):
            room = None if watched.gone else self._procfs.room(watched.identity.pid)
            found += [] if room is None else [held + room]
        return min(found, default=None)

    def _report(self, watched: _Watched) -> Report:
        findings = []
        if watched.trend is not None and self._accused(watched):
            self._find_mapping(watched)
            findings.append(growing_finding(watched.trend, watched.mapping))
        return build_report(self._procfs, watched.target, [], findings, began_ns=self._began_ns)


def _needs_judging(watched: _Watched) -> bool:
    """Whether it may grow, as far as the lowest values of its first and last quarters tell; or was said to."""
    values, quarter = watched.samples.values, max(2, len(watched.samples.values) // 4)
    rises = len(values) >= 2 * quarter and min(values[-quarter:]) > min(values[:quarter])
    if rises or watched.trend is None or watched.trend.accuses or watched.trend.at_risk:
        return True
    watched.judged = watched.samples.seen
    return False


def _service(process: ProcessIdentity) -> _Service:
    return process.user, process.command, process.cmdline


def _renamed(target: Target, process: ProcessIdentity) -> Target:
    return target if target.command == process.command else msgspec.structs.replace(target, command=process.command)
