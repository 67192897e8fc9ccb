"""A machine that is looked at again and again, for those who show it: one view for each look, and single processes in depth.

One thread looks; any other may ask for what it saw. What costs something to read is read for a bounded share of the time, however
many ask.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.vma_kind import describe_mappings
from leakline.errors import LeaklineError, TargetGone
from leakline.model.live import MachineView, Points, ProcessDepth, ProcessView, View
from leakline.session.watching import Watch
from leakline.sources.procfs import ProcFs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leakline.analysis.trend import Settings
    from leakline.model.finding import Report
    from leakline.model.recording import ProcessAmounts, ProcessIdentity
    from leakline.session.interruption import Interruption
    from leakline.session.sampling import Choice, Look
    from leakline.sources.machine import Machine

_LONGEST_COMMAND_LINE = 200
_MOST_FOLLOWED = 8
_MOST_KINDS = 300
_SHARE = 0.02
_LEAST_SECONDS = 2.0
_FORGET_SECONDS = 600.0
_RETRY_SECONDS = 5.0


class Monitor:
    """Looks at processes and the machine.

    Args:
        machine: the live one.
        interruption: ends it.
        settings: warm-up and horizon of the judgement.
        choice: which processes.
        interval: seconds from look to look.

    """

    def __init__(self, machine: Machine, interruption: Interruption, settings: Settings, choice: Choice, interval: float) -> None:
        self._machine = machine
        self._procfs = ProcFs(machine.proc)
        self._interruption = interruption
        self._settings = settings
        self._choice = choice
        self._interval = interval
        self._lock = threading.Lock()
        self._watch = Watch(machine, interruption, settings)
        self._views: dict[str, tuple[ProcessIdentity, ProcessView]] = {}
        self._followed: dict[str, _Followed] = {}
        self._began: float | None = None

    def views(self, duration: float = float("inf")) -> Iterator[View]:
        """A view for each look, until the interruption; what goes wrong is told in a view, and tried again.

        Raises:
            TargetGone: at the first look there is no such process.
            PermissionNeeded: one that was named may not be read.

        """
        latest: View | None = None
        while not self._interruption.asked:
            try:
                looks = self._watch.looks(self._choice, self._interval, duration)
                while True:
                    with self._lock:
                        found = next(looks, None)
                        if found is None:
                            break
                        latest = self._seen(found[0])
                    yield latest
                if not self._interruption.asked and latest is not None and not self._choice.follows:
                    self._end()
                    yield View(time=time.time(), machine=latest.machine, processes=(), unreadable=0, ended=True)
            except (LeaklineError, OSError) as error:
                if latest is None:
                    raise
                text = error.message if isinstance(error, LeaklineError) else f"{error.strerror}"
                yield msgspec.structs.replace(latest, trouble=text)
                with self._lock:
                    self._watch, self._began = Watch(self._machine, self._interruption, self._settings), None
                    self._followed.clear()
                self._interruption.wait(_RETRY_SECONDS)
            else:
                return

    def histories(self) -> dict[str, Points]:
        """What each process held since it was first looked at, by key."""
        with self._lock:
            return {key: self._points(key) for key in self._views}

    def depth(self, key: str) -> ProcessDepth | None:
        """A process in depth; of one that has ended, as it was last seen; None for one that never was."""
        with self._lock:
            seen, followed = self._views.get(key), self._followed.get(key)
            if seen is None:
                return None if followed is None else followed.last
            if followed is None:
                if len(self._followed) >= _MOST_FOLLOWED:
                    del self._followed[min(self._followed, key=lambda name: self._followed[name].asked)]
                followed = self._followed[key] = _Followed()
            followed.asked = time.monotonic()
            if not followed.times:
                self._read_kinds(followed, seen[0])
            return self._depth(followed, seen[1])

    def report(self, key: str) -> Report:
        """The findings about a process, as things stand.

        Raises:
            TargetGone: it has ended, or may not be read.

        """
        with self._lock:
            seen = self._views.get(key)
            report = None if seen is None else self._watch.report_of(seen[0])
        if report is None:
            raise TargetGone("this process has ended, or may not be read")
        return report

    def _seen(self, look: Look) -> View:
        if self._began is None:
            self._began = look.tick.boottime
        self._views = {}
        for sampled in look.processes:
            if sampled.amounts is not None:
                view = self._view(sampled.identity, sampled.amounts)
                self._views[view.key] = sampled.identity, view
        now = time.monotonic()
        for key, followed in list(self._followed.items()):
            if now - followed.asked > _FORGET_SECONDS:
                del self._followed[key]
            elif key in self._views:
                identity, view = self._views[key]
                self._read_kinds(followed, identity)
                self._depth(followed, view)
            elif followed.last is not None and not followed.last.ended:
                followed.end()
        return View(
            time=look.tick.time,
            machine=machine_view(self._procfs.amounts()),
            processes=tuple(view for _, view in self._views.values()),
            unreadable=self._watch.unreadable,
        )

    def _end(self) -> None:
        with self._lock:
            self._views = {}
            for followed in self._followed.values():
                followed.end()

    def _view(self, identity: ProcessIdentity, amounts: ProcessAmounts) -> ProcessView:
        standing = self._watch.standing(identity)
        line = identity.cmdline
        if line is not None and len(line) > _LONGEST_COMMAND_LINE:
            line = line[:_LONGEST_COMMAND_LINE] + "…"
        return ProcessView(
            key=f"{identity.pid}-{identity.start_ticks}",
            pid=identity.pid,
            ppid=identity.ppid,
            user=identity.user,
            command=identity.command,
            cmdline=line,
            cgroup=identity.cgroup,
            uss=amounts.uss,
            pss=amounts.pss,
            rss=amounts.rss,
            swap=amounts.swap,
            held=amounts.held,
            minor_faults=amounts.minor_faults,
            major_faults=amounts.major_faults,
            trend=None if standing is None else standing.trend,
        )

    def _points(self, key: str) -> Points:
        seen = self._views.get(key)
        standing = None if seen is None else self._watch.standing(seen[0])
        if standing is None:
            return Points(times=(), values=())
        return Points(times=tuple(standing.samples.times), values=tuple(standing.samples.values))

    def _depth(self, followed: _Followed, view: ProcessView) -> ProcessDepth:
        names = sorted({name for look in followed.looks for name in look})
        followed.last = ProcessDepth(
            process=view,
            held=self._points(view.key),
            kind_times=tuple(when - (self._began or 0.0) for when in followed.times),
            kinds={name: tuple(look.get(name, 0) for look in followed.looks) for name in names},
            kinds_unknown=followed.unknown,
            ended=False,
        )
        return followed.last

    def _read_kinds(self, followed: _Followed, identity: ProcessIdentity) -> None:
        """What its mappings of each kind hold, where the last look is old enough for what it took."""
        now = time.monotonic()
        if now < followed.next:
            return
        try:
            rows = describe_mappings(self._procfs.smaps(identity.pid), self._procfs.stack_pointers(identity.pid))
        except LeaklineError as error:
            followed.unknown = error.message
            followed.next = now + _FORGET_SECONDS
            return
        sums: Counter[str] = Counter()
        for row in rows:
            sums[row.kind] += row.uss + row.swap
        followed.add(time.clock_gettime(time.CLOCK_BOOTTIME), {name: value for name, value in sums.items() if value})
        followed.next = now + max(_LEAST_SECONDS, (time.monotonic() - now) / _SHARE)


class _Followed:
    """A process that somebody looks at in depth."""

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=_MOST_KINDS)
        self.looks: deque[dict[str, int]] = deque(maxlen=_MOST_KINDS)
        self.next = self.asked = 0.0
        self.unknown: str | None = None
        self.last: ProcessDepth | None = None

    def add(self, when: float, kinds: dict[str, int]) -> None:
        """Take a look."""
        self.times.append(when)
        self.looks.append(kinds)

    def end(self) -> None:
        """It has ended."""
        if self.last is not None:
            self.last = msgspec.structs.replace(self.last, ended=True)


def machine_view(amounts: dict[str, int]) -> MachineView:
    """The machine from the amounts of /proc/meminfo, by their names there."""
    cached = [amounts[name] for name in ("Cached", "SReclaimable") if name in amounts]
    return MachineView(
        total=amounts.get("MemTotal"),
        free=amounts.get("MemFree"),
        available=amounts.get("MemAvailable"),
        buffers=amounts.get("Buffers"),
        cached=sum(cached) if cached else None,
        unreclaimable=amounts.get("SUnreclaim"),
        swap_total=amounts.get("SwapTotal"),
        swap_free=amounts.get("SwapFree"),
    )
