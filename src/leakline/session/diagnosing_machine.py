"""The ladder without a process: is it user space or the kernel, which counter, whose things, which line."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.diagnosis import rank
from leakline.analysis.kernel_counters import finding_of
from leakline.analysis.system_owners import owners_of
from leakline.analysis.trend import judge
from leakline.errors import LeaklineError
from leakline.model.finding import Cost, NotJudged, Report, RetainedFree, Summary
from leakline.model.trend import Series
from leakline.present.kernel import describe_owner
from leakline.present.text import amount, change, printable, rate
from leakline.session.diagnosing import Diagnosis, DiagnosisOptions
from leakline.session.kernel import KernelWatch
from leakline.session.kernel_locating import locate_leaks
from leakline.session.targets import ancestry
from leakline.sources.process_table import ProcessTableReader
from leakline.sources.procfs import ProcFs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leakline.model.finding import Finding
    from leakline.model.kernel import CounterGrowth
    from leakline.model.trend import SeriesTrend
    from leakline.session.interruption import Interruption
    from leakline.sources.machine import Machine

    Say = Callable[[str], None]

_INTERVAL_SECONDS = 0.5
_WINDOW_SECONDS = 8.0
_LOCATE_SECONDS = 10.0
_LEAST_BYTES = 256 << 10
_MOST_PROCESSES = 3
_SHOWN = 4


class _Processes:
    """USS + swap of all processes over time."""

    def __init__(self, machine: Machine, without: set[int]) -> None:
        self._machine, self._without = machine, without
        self._held: dict[tuple[int, int | None], list[tuple[float, float]]] = {}
        self._names: dict[tuple[int, int | None], str] = {}

    def look(self) -> None:
        rows, _ = ProcessTableReader(self._machine, ["started"]).read()
        now = time.monotonic()
        for row in rows:
            if row.uss is not None and row.pid not in self._without:
                key = row.pid, row.start_ticks
                self._held.setdefault(key, []).append((now, float(row.uss + (row.swap or 0))))
                self._names[key] = f"{row.command} ({row.pid})"

    def growing(self) -> list[tuple[int, SeriesTrend]]:
        """Those that are judged to grow, the fastest first."""
        last = max((held[-1][0] for held in self._held.values()), default=0.0)
        there = {key: held for key, held in self._held.items() if held[-1][0] == last}
        risen = {key: held for key, held in there.items() if held[-1][1] - held[0][1] >= _LEAST_BYTES}
        series = [
            Series(
                name=self._names[key],
                times=tuple(when - held[0][0] for when, _ in held),
                values=tuple(value for _, value in held),
            )
            for key, held in risen.items()
        ]
        trends = judge(series) if series else []
        accused = [(key[0], trend) for key, trend in zip(risen, trends, strict=True) if trend.accuses]
        return sorted(accused, key=lambda pair: -(pair[1].rate_bytes_per_second or 0.0))


class MachineDiagnosis:
    """One climb from the whole machine. `say` hears what is being done, and why it goes on."""

    def __init__(self, machine: Machine, interruption: Interruption, say: Say, options: DiagnosisOptions) -> None:
        self._machine, self._procfs = machine, ProcFs(machine.proc)
        self._interruption, self._say, self._options = interruption, say, options
        self._began = time.monotonic()

    def run(self) -> list[Report]:
        """Find who takes the memory: processes, which are then diagnosed, or the kernel, whose line is then located.

        Raises:
            NotPossible: this machine's memory cannot be read.

        """
        began_ns = time.monotonic_ns()
        window = min(_WINDOW_SECONDS, self._options.budget / 3)
        watch = KernelWatch(self._machine, self._interruption)
        processes = _Processes(self._machine, ancestry(self._procfs))
        before = self._procfs.amounts()
        self._say(f"measuring the machine for {window:g} s: all processes, and the kernel's own counters")
        watch.begin()
        for _ in self._interruption.ticks(_INTERVAL_SECONDS, window):
            processes.look()
            watch.look()
        self._tell_system(before)
        risen = processes.growing()
        grown = [growth for growth in watch.growing() if not growth.reclaimable]
        by_processes = sum(trend.rate_bytes_per_second or 0.0 for _, trend in risen)
        by_kernel = _kernel_rate(grown)
        for _, trend in risen[:_SHOWN]:
            self._say(f"process {printable(trend.name)}: {trend.verdict}, at {rate(trend.rate_bytes_per_second)}")
        for growth in grown[:_SHOWN]:
            self._tell(growth)
        if not risen and not grown:
            self._say("neither a process nor a counter of the kernel grows")
            return [self._report([], [], began_ns)]
        if by_processes >= by_kernel:
            self._say(f"user space explains it: {amount(by_processes)}/s, against {amount(by_kernel)}/s in the kernel")
            left = max(self._options.budget - (time.monotonic() - self._began), 5.0)
            reports = self._of_processes([pid for pid, _ in risen[:_MOST_PROCESSES]], left)
            if any(finding.kind == "definite" for report in reports for finding in report.findings) or not grown:
                return reports
            self._say("nothing is lost there, and counters of the kernel grow too")
            return [*reports, self._locate(watch, grown, began_ns)]
        self._say(f"user space does not explain it: {amount(by_processes)}/s, against {amount(by_kernel)}/s in the kernel")
        return [self._locate(watch, grown, began_ns)]

    def _of_processes(self, pids: Sequence[int], seconds: float) -> list[Report]:
        try:
            options = DiagnosisOptions(budget=seconds, max_pause=self._options.max_pause)
            return Diagnosis(self._procfs, self._interruption, self._say, options).run(pids)
        except LeaklineError as error:  # they have ended meanwhile, or may not be looked into
            self._say(f"no look into the processes: {error.message}")
            return []

    def _tell_system(self, before: dict[str, int]) -> None:
        after, pages = self._procfs.amounts(), self._procfs.per_cpu_pages()
        lists = None if pages is None else pages * self._machine.page_size
        then = {owner.name: owner.bytes for owner in owners_of(before, lists)}
        moved = {owner.name: owner.bytes - then.get(owner.name, 0) for owner in owners_of(after, lists)}
        most = sorted(moved.items(), key=lambda item: -abs(item[1]))[:_SHOWN]
        self._say("system: " + ", ".join(f"{name} {change(size)}" for name, size in most))

    def _tell(self, growth: CounterGrowth) -> None:
        self._say(f"kernel: {growth.counter}: {growth.verdict}, {change(growth.bytes)}, at {rate(growth.rate_bytes_per_second)}")
        for owner in growth.owners[:2]:
            self._say(f"  {describe_owner(owner)}")

    def _locate(self, watch: KernelWatch, grown: Sequence[CounterGrowth], began_ns: int) -> Report:
        findings = [finding_of(growth, len(watch.looks)) for growth in grown]
        counter = grown[0].counter
        seconds = min(_LOCATE_SECONDS, max(self._options.budget - (time.monotonic() - self._began), 4.0) / 2)
        wanted = counter if counter.startswith("slab:") or counter == "unexplained" else None
        try:
            located = locate_leaks(self._machine, "auto", wanted, seconds, self._interruption, self._say)
        except LeaklineError as error:
            self._say(f"no way to the line: {error.message}")
            gap = NotJudged(name="the allocating line", bytes=None, share=None, why=f"{error.message}. {error.hint}")
            return self._report(findings, [gap], began_ns)
        report = self._report(rank([*located.findings, *findings]), located.not_judged, began_ns)
        return msgspec.structs.replace(report, summary=located.summary, bytes_are=located.bytes_are)

    def _report(self, findings: Sequence[Finding], gaps: Sequence[NotJudged], began_ns: int) -> Report:
        return Report(
            target=None,
            bytes_are="usable",
            summary=Summary(definite=None, indirect=None, possible=None, reachable=None),
            findings=tuple(findings),
            retained_free=RetainedFree(bytes=None),
            not_judged=tuple(gaps),
            cost=Cost(target_stopped_ns=0, duration_ns=time.monotonic_ns() - began_ns),
        )


def _kernel_rate(grown: Sequence[CounterGrowth]) -> float:
    """Bytes a second of counters that do not overlap: vmalloc by caller is in VmallocUsed, and so are kernel stacks mostly."""
    apart = [g for g in grown if not g.counter.startswith("vmalloc:") and g.counter != "meminfo:KernelStack"]
    return sum(growth.rate_bytes_per_second or 0.0 for growth in apart or grown)
