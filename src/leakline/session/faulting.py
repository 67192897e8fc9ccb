"""Watching how running processes get their pages."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.fault_causes import WORDS
from leakline.analysis.fault_groups import By, joined, located
from leakline.errors import LeaklineError, NotPossible, PermissionNeeded, TargetGone
from leakline.model.faults import FaultCounts, FaultGroup, FaultMoment, FaultReport, NotSeen
from leakline.model.finding import Cost, Target
from leakline.session.fault_collecting import FaultCollector
from leakline.session.targets import describe, require_readable
from leakline.sources.fault_events import FaultEvents, FaultOptions
from leakline.sources.page_states import HUGE
from leakline.symbols.resolver import frames_together

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leakline.model.faults import FaultedProcess
    from leakline.model.stack import Frame
    from leakline.session.fault_collecting import RawGroup
    from leakline.session.interruption import Interruption
    from leakline.sources.procfs import ProcFs

    Say = Callable[[str], None]

_POLL_SECONDS = 0.1
_PAGE = 4096
_FEW = 16
_TAKING = ("first-touch", "copy-on-write", "read-from-disk", "swap-in", "userfaultfd")
_MOST_MOMENTS = 10_000


class FaultSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What to look at, and how closely."""

    by: By = "line"
    every: int = 1
    stack_bytes: int = 1024
    major_only: bool = False
    interval: float = 1.0
    """Seconds of each stretch of time."""
    tell: bool = False
    """Say what came in each of them."""

    @property
    def wants_stacks(self) -> bool:
        """Whether the answer takes stacks."""
        return self.by == "line"

    def options(self, *, on_exec: bool = False) -> FaultOptions:
        """What to record."""
        return FaultOptions(stack_bytes=self.stack_bytes if self.wants_stacks else 0, every=self.every, on_exec=on_exec)


class FaultWatch:
    """Follows one process while it is entered."""

    def __init__(self, procfs: ProcFs, pid: int, settings: FaultSettings) -> None:
        require_readable(procfs, pid)
        self._procfs, self._pid, self._settings = procfs, pid, settings
        self._began_ns = time.monotonic_ns()
        self._target = describe(procfs, pid)
        self._events: FaultEvents | None = None
        self._why_not: PermissionNeeded | NotPossible | None = None
        self._before = procfs.stat(pid)
        self._after = self._told = self._before
        self._told_ns = self._began_ns
        try:
            self._events = FaultEvents(pid, lambda: procfs.threads(pid), settings.options())
        except (PermissionNeeded, NotPossible) as error:
            self._why_not = error
            return
        self._before = self._told = procfs.stat(pid)
        self._collector = FaultCollector(
            procfs,
            pid,
            self._events,
            self._target.command,
            every=settings.every,
            interval=settings.interval,
            by_thread=settings.by == "thread",
        )
        try:
            self._collector.look_at(pid)
        except BaseException:
            self._events.close()
            raise

    @property
    def collector(self) -> FaultCollector:
        """What takes the events, where there are any."""
        return self._collector

    @property
    def why_not(self) -> PermissionNeeded | NotPossible | None:
        """Why there are no events; counters are read all the same."""
        return self._why_not

    def step(self, seconds: float) -> bool:
        """Wait so long at most, and take what has come; False once the process has ended."""
        if self._events is None:
            time.sleep(seconds)
        else:
            self._events.wait(seconds)
            self._collector.take(self._events.records())
        with suppress(TargetGone):
            self._after = self._procfs.stat(self._pid)
            return not self._after.is_zombie
        return False

    def news(self) -> str:
        """What came since this was asked last."""
        since, self._told = self._told, self._after
        took = (time.monotonic_ns() - self._told_ns) / 1e9
        self._told_ns = time.monotonic_ns()
        minor, major = self._after.minor_faults - since.minor_faults, self._after.major_faults - since.major_faults
        causes = "" if self._events is None else self._collector.news()
        elapsed = (self._told_ns - self._began_ns) / 1e9
        rates = f"{minor / took:,.0f} minor and {major / took:,.0f} major faults a second"
        return f"{elapsed:.1f} s: {self._target.command} ({self._pid}): {rates}{causes}"

    def report(self) -> FaultReport:
        """What was seen."""
        with suppress(TargetGone):
            self._after = self._procfs.stat(self._pid)
        counts = FaultCounts(
            minor=self._after.minor_faults - self._before.minor_faults,
            major=self._after.major_faults - self._before.major_faults,
        )
        if self._events is None:
            why = "" if self._why_not is None else f"{self._why_not.message}. {self._why_not.hint}"
            return counters_only(self._target, counts, self._settings, self._began_ns, why)
        try:
            return build_fault_report(
                self._collector, self._events, self._target, counts, self._settings, began_ns=self._began_ns, crashes=()
            )
        finally:
            self._collector.close()
            self._events.close()


def watch_faults(
    procfs: ProcFs, pids: Sequence[int], seconds: float, settings: FaultSettings, *, interruption: Interruption, say: Say
) -> list[FaultReport]:
    """Watch processes until the time is over, all have ended, or somebody interrupts.

    Raises:
        LeaklineError: none of them can be watched; the first one's reason.

    """
    watches, errors = [], []
    for pid in pids:
        try:
            watches.append(FaultWatch(procfs, pid, settings))
        except LeaklineError as error:
            errors.append(error)
    if not watches:
        raise errors[0]
    for skipped in errors:
        say(f"skipped: {skipped.message}")
    for watch in watches:
        if watch.why_not is not None:
            say(f"only the kernel's counters are read: {watch.why_not.message}. {watch.why_not.hint}")
    began = time.monotonic()
    until, told = began + seconds, 1
    living = list(watches)
    while living and not interruption.asked and (left := until - time.monotonic()) > 0:
        step = min(_POLL_SECONDS, settings.interval, left) / len(living)
        living = [watch for watch in living if watch.step(step)]
        if settings.tell and time.monotonic() - began >= told * settings.interval:
            told += 1
            for watch in watches:
                say(watch.news())
    return [watch.report() for watch in watches]


def counters_only(target: Target, counts: FaultCounts, settings: FaultSettings, began_ns: int, why: str) -> FaultReport:
    """What is left where no events may be had."""
    took = time.monotonic_ns() - began_ns
    return FaultReport(
        target=target,
        seconds=took / 1e9,
        counts=counts,
        seen=FaultCounts(minor=None, major=None),
        lost=0,
        every=settings.every,
        by=settings.by,
        faults=(),
        timeline=(),
        interval=settings.interval,
        processes=(),
        access_is=None,
        not_seen=(NotSeen(what="each fault by itself", count=None, why=why),),
        status=None,
        cost=Cost(target_stopped_ns=0, duration_ns=took),
    )


def build_fault_report(
    collector: FaultCollector,
    events: FaultEvents,
    target: Target,
    counts: FaultCounts,
    settings: FaultSettings,
    *,
    began_ns: int,
    crashes: Sequence[FaultGroup],
    status: int | None = None,
    stopped_ns: int = 0,
) -> FaultReport:
    """Put together what was collected.

    Args:
        collector: with all that came.
        events: from where.
        target: the process.
        counts: the kernel's own.
        settings: what was asked for.
        began_ns: CLOCK_MONOTONIC at the beginning.
        crashes: faults that were not served.
        status: of a program that was started.
        stopped_ns: how long it stood still.

    """
    minor, major = events.totals()
    collector.take(events.records())  # what was counted is written too by now, if there was room
    processes = collector.processes()
    sampled = sum(p.minor + p.major for p in processes)
    lost = max(minor + major - sampled, 0) if settings.every == 1 else events.lost * settings.every
    groups = [_group(raw, frames, exact) for raw, frames, exact in symbolised(collector)]
    if settings.major_only:
        groups = [group for group in groups if group.kind != "minor"]
    took = time.monotonic_ns() - began_ns
    return FaultReport(
        target=target,
        seconds=took / 1e9,
        counts=counts,
        seen=FaultCounts(minor=minor, major=major),
        lost=lost,
        every=settings.every,
        by=settings.by,
        faults=joined([*crashes, *groups], settings.by),
        timeline=_timeline(collector, settings),
        interval=settings.interval,
        processes=processes,
        access_is="recorded" if events.sees_codes else "decoded",
        not_seen=tuple(_not_seen(events, target, counts, (minor, major), processes, lost)),
        status=status,
        cost=Cost(target_stopped_ns=stopped_ns, duration_ns=took),
    )


def symbolised(collector: FaultCollector) -> list[tuple[RawGroup, tuple[Frame, ...], int]]:
    """Each group with its frames, and how many of them are exact."""
    first: dict[int, set[int]] = {}
    behind: dict[int, set[int]] = {}
    for group in collector.groups.values():
        if group.stack is not None:
            first.setdefault(group.stack.resolver, set()).add(group.stack.addresses[0])
            behind.setdefault(group.stack.resolver, set()).update(group.stack.addresses[1:])
    asked = [(collector.resolvers[number], addresses, False) for number, addresses in first.items()]
    answers = frames_together([*asked, *((collector.resolvers[number], addresses, True) for number, addresses in behind.items())])
    here = dict(zip(first, answers[: len(first)], strict=True))
    callers = dict(zip(behind, answers[len(first) :], strict=True))
    found = []
    for group in collector.groups.values():
        frames: tuple[Frame, ...] = ()
        exact = 0
        if group.stack is not None:
            for place, address in enumerate(group.stack.addresses):
                looked_up = (callers if place else here)[group.stack.resolver].get(address, ())
                frames += looked_up
                exact += len(looked_up) if place < group.stack.exact else 0
        found.append((group, frames, exact))
    return found


def _group(raw: RawGroup, stack: tuple[Frame, ...], exact: int) -> FaultGroup:
    location, location_is = located(stack, exact)
    words = WORDS[raw.cause]
    if raw.kept:
        words += f"; {raw.kept:,} times nobody else had it any more, and it was not copied"
    if raw.in_kernel:
        words += "; the kernel touched it on the program's behalf, in a system call"
    return FaultGroup(
        kind="major" if raw.major else "minor",
        cause=raw.cause,
        access=raw.access,
        count=raw.count,
        bytes=(raw.count - raw.kept - raw.huge) * _PAGE + raw.huge * HUGE if raw.cause in _TAKING else 0,
        huge=raw.huge if raw.huge_known else None,
        by="kernel" if raw.in_kernel else "program",
        address=raw.address,
        vma=raw.vma,
        threads=len(raw.threads),
        tid=raw.tid,
        location=location,
        location_is=location_is,
        stack=stack,
        explanation=words,
    )


def _timeline(collector: FaultCollector, settings: FaultSettings) -> tuple[FaultMoment, ...]:
    last = max(collector.moments, default=-1)
    return tuple(
        FaultMoment(seconds=(number + 1) * settings.interval, counts=dict(collector.moments.get(number, {})))
        for number in range(min(last + 1, _MOST_MOMENTS))
    )


def _not_seen(
    events: FaultEvents,
    target: Target,
    counts: FaultCounts,
    totals: tuple[int, int],
    processes: Sequence[FaultedProcess],
    lost: int,
) -> list[NotSeen]:
    found = []
    children = sum(p.minor + p.major for p in processes if p.pid != target.pid)
    missing = (counts.minor or 0) + (counts.major or 0) - (sum(totals) - children)
    # The counters and the events are not read at the same moment.
    if missing > max(_FEW, sum(totals) // 200):
        how = "MAP_POPULATE, mlock and direct I/O bring pages in without a fault of the processor's"
        if not events.sees_kernel:
            how = (
                "the kernel made them on the process's behalf, as in read(2) into fresh memory, or by MAP_POPULATE and mlock; the"
                " former are seen as root, with CAP_PERFMON, or where kernel.perf_event_paranoid is at most 1"
            )
        found.append(NotSeen(what="faults that the kernel counts and no event told of", count=missing, why=how))
    if lost:
        why = "they came quicker than they could be written down; --every N takes every Nth only"
        found.append(NotSeen(what="the place of each of these faults", count=lost, why=why))
    if not events.sees_codes and not events.sees_kernel:
        why = "without privilege, reads and writes are told by the instruction, and what was there before by what was seen"
        found.append(NotSeen(what="the processor's error codes", count=None, why=why))
    return found
