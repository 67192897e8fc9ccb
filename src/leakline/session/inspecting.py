"""One process in depth, again and again: its mappings by kind, and its page faults."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from leakline.analysis.accounting import group_mappings
from leakline.errors import LeaklineError, TargetGone
from leakline.model.overview import FaultsOverTime, KindOverTime, ProcessOverTime
from leakline.session.mappings import read_mappings
from leakline.session.targets import require_stoppable
from leakline.sources.procfs import ProcFs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from leakline.model.finding import Report
    from leakline.model.mappings import VmaTotals
    from leakline.model.process import ProcessStat
    from leakline.model.recording import ProcessIdentity
    from leakline.session.interruption import Interruption
    from leakline.sources.machine import Machine

_SHARE = 0.005
"""Of the time, for smaps: the kernel walks all page tables for it, and the process waits where it wants to map something."""
_MOST = 512


class Inspection:
    """Looks at one process.

    Args:
        machine: the live one.
        process: which; a later one of the same number is another.

    """

    def __init__(self, machine: Machine, process: ProcessIdentity) -> None:
        self._machine = machine
        self._procfs = ProcFs(machine.proc)
        self._process = process
        self._kinds: dict[str, list[float]] = {}
        self._now: list[VmaTotals] = []
        self._looks = self._stride = 0
        self._note: str | None = None
        self._next = 0.0
        self._began: float | None = None
        self._before: tuple[float, ProcessStat] | None = None
        self._minor: list[float] = []
        self._major: list[float] = []

    def look(self) -> ProcessOverTime:
        """Look once; at the mappings only where that takes no more than a two-hundredth of the time.

        Raises:
            TargetGone: it has ended.
            PermissionNeeded: it is hidden.

        """
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        stat = self._procfs.stat(self._process.pid)
        if stat.start_ticks != self._process.start_ticks:
            raise TargetGone(f"process {self._process.pid} has ended; another one has its number now")
        rates = self._count_faults(now, stat)
        if now >= self._next:
            began = time.thread_time()
            self._read_mappings()
            self._next = now + (time.thread_time() - began) / _SHARE
        self._remember()
        minor = FaultsOverTime(stat.minor_faults, rates[0], tuple(self._minor))
        major = FaultsOverTime(stat.major_faults, rates[1], tuple(self._major))
        return ProcessOverTime(kinds=self._over_time(), kinds_note=self._note, minor=minor, major=major, seconds=now - self._began)

    def _count_faults(self, now: float, stat: ProcessStat) -> tuple[float | None, float | None]:
        before, self._before = self._before, (now, stat)
        if before is None or now <= before[0]:
            return None, None
        passed = now - before[0]
        minor = max(0, stat.minor_faults - before[1].minor_faults) / passed
        major = max(0, stat.major_faults - before[1].major_faults) / passed
        self._minor, self._major = [*self._minor, minor][-_MOST:], [*self._major, major][-_MOST:]
        return minor, major

    def _read_mappings(self) -> None:
        try:
            table = read_mappings(self._machine, self._process.pid)
        except TargetGone:
            raise
        except LeaklineError as error:
            self._note = error.message
            return
        self._note = None
        self._now = group_mappings(table.vmas or (), "kind")

    def _remember(self) -> None:
        """What was read last stands until it is read again: the history is even in time."""
        held = {kind.name: float(kind.uss + kind.swap) for kind in self._now}
        for name in held:
            self._kinds.setdefault(name, [0.0] * self._stored)
        if self._looks % (1 << self._stride) == 0:
            for name, values in self._kinds.items():
                values.append(held.get(name, 0.0))
            if self._stored >= _MOST:
                self._kinds = {name: values[::2] for name, values in self._kinds.items()}
                self._stride += 1
        self._looks += 1

    @property
    def _stored(self) -> int:
        return len(next(iter(self._kinds.values()), ()))

    def _over_time(self) -> list[KindOverTime]:
        found = [
            KindOverTime(kind.name, kind.count, kind.size, kind.rss, kind.uss + kind.swap, tuple(self._kinds[kind.name]))
            for kind in self._now
        ]
        gone = self._kinds.keys() - {kind.name for kind in self._now}
        found += [KindOverTime(name, 0, 0, 0, 0, tuple(self._kinds[name])) for name in gone]
        return sorted(found, key=lambda kind: (-kind.held, -(kind.size or 0), kind.name))


class LiveProcesses:
    """Single processes of the live machine.

    Args:
        machine: the live one.
        interruption: ends every look.
        interval: seconds from look to look.

    """

    def __init__(self, machine: Machine, interruption: Interruption, interval: float) -> None:
        self._machine = machine
        self._procfs = ProcFs(machine.proc)
        self._interruption = interruption
        self._interval = interval

    def inspect(self, process: ProcessIdentity) -> Iterator[ProcessOverTime]:
        """Look at one again and again.

        Raises:
            TargetGone: it has ended.
            PermissionNeeded: it is hidden.

        """
        inspection = Inspection(self._machine, process)
        for _ in self._interruption.ticks(self._interval, float("inf")):
            yield inspection.look()

    def expected_pause(self, process: ProcessIdentity) -> tuple[int, int]:
        """How long a scan would hold it still at a time, in nanoseconds, and the bytes that it copies.

        Raises:
            LeaklineError: it cannot be scanned, for one of the reasons that `look` gives.

        """
        from leakline.session.scanning import Scanner

        self._require(process)
        require_stoppable(self._procfs, process.pid)
        return Scanner(self._procfs, process.pid).expected_pause_ns()

    def scan(self, process: ProcessIdentity, say: Callable[[str], None]) -> Report:
        """Scan it.

        Args:
            process: which.
            say: hears what is being done.

        Raises:
            LeaklineError: it cannot be scanned, for one of the reasons that `look` gives.

        """
        from leakline.session.looking import ScanOptions, look

        self._require(process)
        return look(self._procfs, process.pid, ScanOptions(), interruption=self._interruption, say=say)

    def _require(self, process: ProcessIdentity) -> None:
        if self._procfs.stat(process.pid).start_ticks != process.start_ticks:
            raise TargetGone(f"process {process.pid} has ended; another one has its number now")
