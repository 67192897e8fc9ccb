"""The library's way in: what the commands do, as functions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from leakline.analysis.finding_diff import compare
from leakline.errors import TargetGone
from leakline.session import reading_reports
from leakline.session.diagnosing import Diagnosis, DiagnosisOptions
from leakline.session.interruption import Interruption
from leakline.session.kernel import KernelWatch
from leakline.session.kernel_locating import locate_leaks
from leakline.session.looking import ScanOptions, look, look_into_file
from leakline.session.machine_memory import read_system
from leakline.session.mappings import read_mappings
from leakline.session.processes import process_table, read_process, read_processes
from leakline.sources.machine import Machine
from leakline.sources.procfs import ProcFs

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from leakline.model.accounting import ProcessMemory, ProcessTable
    from leakline.model.diff import DiffReport
    from leakline.model.faults import FaultReport
    from leakline.model.finding import Report
    from leakline.model.kernel import KernelReport
    from leakline.model.mappings import VmaMemory
    from leakline.model.system import SystemTable
    from leakline.session.kernel_locating import Source
    from leakline.session.machine_memory import Part


def _silent(_text: str) -> None:
    return


def diagnose(pids: Sequence[int], *, budget_seconds: float = 60.0, max_pause_seconds: float | None = None) -> list[Report]:
    """Climb the ladder for running processes, and return one report for each.

    Args:
        pids: processes that run now; they go on running.
        budget_seconds: at most; a certain answer ends it earlier.
        max_pause_seconds: that each may stand still at a time; where a stop would take longer it is looked at while it runs, and
            lost blocks are *possible* at most.

    Raises:
        LeaklineError: none of them could be looked at; the class says why, the hint what to do.

    """
    options = DiagnosisOptions(budget=budget_seconds, max_pause=max_pause_seconds)
    return Diagnosis(ProcFs(), Interruption(), _silent, options).run(pids)


def scan(pid: int, *, looks: int = 2) -> Report:
    """Find the heap blocks of a running process that no pointer leads to.

    Args:
        pid: a process that runs now; it stands still for some milliseconds at each look.
        looks: what two of them agree on is of high confidence.

    Raises:
        LeaklineError: it could not be looked at; the class says why, the hint what to do.

    """
    return look(ProcFs(), pid, ScanOptions(looks=looks), interruption=Interruption(), say=_silent)


def scan_file(path: str | os.PathLike[str]) -> Report:
    """Find the lost heap blocks of a process in a core dump, or in what `leakline scan --save` wrote.

    Args:
        path: the file.

    Raises:
        LeaklineError: it could not be searched; the class says why, the hint what to do.

    """
    return look_into_file(Path(path), ScanOptions(), say=_silent)


def read_reports(*paths: str | os.PathLike[str]) -> list[Report]:
    """Read what anybody's checker found: findings as JSON, valgrind's text and XML, sanitizers' logs, kmemleak's text.

    Args:
        paths: the files; of several, reports about the same program become one.

    Raises:
        LeaklineError: none of them could be read; the class says why, the hint what to do.

    """
    return reading_reports.read_reports([Path(path) for path in paths], _silent)


def compare_reports(before: Sequence[Report], after: Sequence[Report]) -> DiffReport:
    """Tell which findings are new, grown, smaller or gone, by their fingerprints.

        >>> leakline.compare_reports([], []).differs
        False

    Args:
        before: reports of any kind.
        after: later ones.

    """
    return compare(before, after, ("before", "after"))


def faults(pid: int, *, seconds: float = 10.0) -> FaultReport:
    """Watch how a running process gets its pages, and return the page faults by cause and code line.

    Args:
        pid: a process that runs now; it goes on running.
        seconds: for how long, unless it ends before.

    Raises:
        LeaklineError: it could not be watched; the class says why, the hint what to do.

    """
    from leakline.session.faulting import FaultSettings, watch_faults

    return watch_faults(ProcFs(), [pid], seconds, FaultSettings(), interruption=Interruption(), say=_silent)[0]


def explain_core(path: str | os.PathLike[str]) -> FaultReport:
    """Explain the SIGSEGV or SIGBUS that left a core dump.

    Args:
        path: the file.

    Raises:
        LeaklineError: it could not be read, or was left by something else; the class says why, the hint what to do.

    """
    from leakline.session.core_faults import explain_core as explain

    return explain(Path(path), _silent)


def processes(columns: Collection[str] = ("started",)) -> ProcessTable:
    """What all processes hold.

        >>> table = leakline.processes()
        >>> largest = max(table.processes, key=lambda process: process.pss or 0)
        >>> largest.rss >= (largest.uss or 0)
        True
        >>> table.coverage.readable <= table.coverage.seen
        True

    Args:
        columns: fields of ProcessMemory that take another file of each process, and are None unless named here: page_tables,
            vmas, cgroup, container, started.

    """
    machine = Machine()
    rows, coverage = read_processes(machine, columns)
    return process_table(machine, rows, coverage)


class Process:
    """A running process: the one that has this number now, and no later one.

        >>> import os
        >>> me = leakline.Process(os.getpid())
        >>> me.memory().uss > 0
        True
        >>> sorted({vma.kind for vma in me.maps()} & {"heap", "stack", "text"})
        ['heap', 'stack', 'text']

    Args:
        pid: its number.

    Raises:
        TargetGone: there is none.

    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._started = ProcFs().stat(pid).start_ticks

    def memory(self) -> ProcessMemory:
        """What it holds; all fields but cgroup and container are filled, where it may be read.

        Raises:
            TargetGone: it has ended.

        """
        row = read_process(Machine(), self.pid, ("page_tables", "vmas", "started"))
        self._require_same(row.start_ticks)
        return row

    def maps(self) -> tuple[VmaMemory, ...]:
        """Its mappings, in order of address.

        Raises:
            TargetGone: it has ended.
            PermissionNeeded: it belongs to somebody else.

        """
        table = read_mappings(Machine(), self.pid)
        self._require_same(ProcFs().stat(self.pid).start_ticks)
        return table.vmas or ()

    def _require_same(self, started: int | None) -> None:
        if started != self._started:
            raise TargetGone(f"process {self.pid} has ended; another one has its number now")


def kernel_memory(duration_seconds: float = 10.0, interval_seconds: float = 1.0) -> KernelReport:
    """Watch the kernel's counters: which of them grow, and who has more of what they count.

        >>> report = leakline.kernel_memory(0.2, 0.1)
        >>> report.samples
        3

    Args:
        duration_seconds: how long; 0 is one look.
        interval_seconds: from look to look.

    Raises:
        NotPossible: this machine's memory cannot be read.

    """
    return KernelWatch(Machine(), Interruption()).run(interval_seconds, duration_seconds, _silent)


def locate_kernel_leaks(source: Source = "auto", counter: str | None = None, duration_seconds: float = 10.0) -> Report:
    """Find the places in the kernel that hold ever more, or what nothing points to.

    Args:
        source: allocinfo, page-owner, slab-traces, kmemleak, tracepoints; `auto` takes the best that this kernel has.
        counter: `slab:CACHE` or `pages`; None for whatever grows.
        duration_seconds: how long each source is looked at.

    Raises:
        PermissionNeeded: it takes root.
        NotPossible: this kernel has no such source; the message says what it takes.

    """
    return locate_leaks(Machine(), source, counter, duration_seconds, Interruption(), _silent)


def system_memory(parts: Collection[Part] = ()) -> SystemTable:
    """Where all of the machine's memory is.

        >>> table = leakline.system_memory()
        >>> sum(owner.bytes for owner in table.owners) == table.mem_total
        True

    Args:
        parts: what to look at besides: processes, cgroups, shmem, numa, zones.

    Raises:
        NotPossible: a part cannot be had here.

    """
    return read_system(Machine(), parts)
