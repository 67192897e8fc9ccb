"""The ladder: from the symptom to the line, cheapest rung first, each climbed only if the one before calls for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import msgspec

from leakline.analysis.coverage import outside_heap
from leakline.analysis.diagnosis import agreed, find_lost, growing_finding, rank
from leakline.analysis.growth import growing_mappings, held_by_mapping
from leakline.analysis.holdings import growing_holdings
from leakline.analysis.outstanding import find_outstanding
from leakline.analysis.trend import judge
from leakline.errors import LeaklineError, NotPossible, NotSupported, PauseTooLong, PermissionNeeded
from leakline.model.finding import Finding, NotJudged, Report, Target
from leakline.model.heap import BlockTotal, HeapScan
from leakline.model.kernel import Census
from leakline.model.series import UsageSample
from leakline.model.trace import AllocationTrace
from leakline.model.trend import Series, SeriesTrend
from leakline.model.vma import VmaUsage
from leakline.present.trends import explain
from leakline.session.fault_growth import watch_growth
from leakline.session.probe_cost import pair_cost_ns
from leakline.session.process_allocator import require_64_bit_program
from leakline.session.reporting import build_report
from leakline.session.sampling import sample_usage
from leakline.session.scanning import BETWEEN_SCANS_SECONDS, Scanner
from leakline.session.symbolising import with_stacks
from leakline.session.targets import describe, require_stoppable
from leakline.session.tracing import BpfRecorder, Recorder, open_recorder
from leakline.sources.bpf import RecordingOptions
from leakline.sources.kernel_things import take_census_of
from leakline.sources.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leakline.session.interruption import Interruption
    from leakline.sources.procfs import ProcFs

    Say = Callable[[str], None]

_SAMPLE_SECONDS = 0.25
_CLEAN_AFTER_SECONDS = 8.0
_FIRST_TRACE_SECONDS = 4.0
_GROWTH_SECONDS = 6.0
_GAUGE_SECONDS = 0.3
_RUNNING_LOOKS = 3
_OUTSIDE_WORTH_A_LOOK = 64 * 1024
# What recording a pair costs (benchmarks/trace.py), measured where the dearest would matter; and how much of a core it may take.
_PAIR_SECONDS, _DEAREST_PAIR_SECONDS, _MOST_OF_A_CORE = 3.3e-6, 20e-6, 0.3
_SAMPLED_BYTES = 16 << 10
_ENOUGH_RECORDED, _ENOUGH_SAMPLES = 100_000, 2_000


class DiagnosisOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a diagnosis may take."""

    budget: float = 60.0
    """Seconds at most; a certain answer ends it earlier."""
    max_pause: float | None = None
    """Seconds that the target may stand still at a time; None for as long as a copy of it takes."""

    @property
    def window(self) -> float:
        """Seconds of measuring before anything else."""
        return min(2.5, self.budget / 4)


class _Case(msgspec.Struct):
    """What is known about one target so far."""

    target: Target
    samples: list[UsageSample] = msgspec.field(default_factory=list)
    before: list[VmaUsage] = msgspec.field(default_factory=list)
    after: list[VmaUsage] = msgspec.field(default_factory=list)
    scans: list[HeapScan] = msgspec.field(default_factory=list)
    trace: AllocationTrace | None = None
    gaps: list[NotJudged] = msgspec.field(default_factory=list)
    started_ns: int = 0
    trend: SeriesTrend | None = None
    holdings: list[tuple[float, Census]] = msgspec.field(default_factory=list)
    outside: list[Finding] = msgspec.field(default_factory=list)
    """What grows outside malloc's heap, with the lines that touch it."""
    runs_on: bool = False
    """It is looked at without a stop."""

    @property
    def grows(self) -> bool:
        return self.trend is not None and self.trend.accuses

    @property
    def provable(self) -> Literal["definite", "possible"]:
        """What a look can call a lost block."""
        return "possible" if self.runs_on else "definite"

    def lost(self) -> BlockTotal:
        """What the last look calls lost."""
        return self.scans[-1].total(self.provable) if self.scans else BlockTotal(blocks=0, bytes=0)

    def grown_outside(self) -> int:
        """Bytes that mappings outside malloc's heap, stacks aside, hold more than at first."""
        ranges = self.scans[-1].heap_ranges if self.scans else ()
        heap = {u.vma.start for u in self.after} - {u.vma.start for u in outside_heap(self.after, ranges)}
        return sum(g.increase for g in growing_mappings(held_by_mapping(self.before), self.after) if g.start not in heap)


class Diagnosis:
    """One climb. `say` hears what is being done, and why it goes on."""

    def __init__(self, procfs: ProcFs, interruption: Interruption, say: Say, options: DiagnosisOptions) -> None:
        self._procfs = procfs
        self._interruption = interruption
        self._say = say
        self._options = options
        self._machine = Machine(proc=procfs.root)
        self._began = time.monotonic()

    def _left(self) -> float:
        return self._options.budget - (time.monotonic() - self._began)

    def run(self, pids: Sequence[int]) -> list[Report]:
        """Diagnose the targets; one report for each that could be looked at.

        Raises:
            LeaklineError: none of them could; the first one's reason.

        """
        cases, errors = [], []
        for pid in pids:
            try:
                require_stoppable(self._procfs, pid)
                cases.append(_Case(target=describe(self._procfs, pid), started_ns=time.monotonic_ns()))
            except LeaklineError as error:
                errors.append(error)
        if not cases:
            raise errors[0]
        self._measure(cases)
        reports = []
        # The one that grows most first: the budget may not do for all.
        cases.sort(key=lambda c: -((c.trend.rate_bytes_per_second if c.trend else None) or 0.0))
        for case in cases:
            try:
                self._look_into(case)
            except LeaklineError as error:
                if not case.scans:
                    errors.append(error)
                    continue
                self._say(f"{error.message}: judging by what was seen until then")
            reports.append(self._report(case))
        if not reports:
            raise errors[0]
        for skipped in errors:
            self._say(f"skipped: {skipped.message}")
        return reports

    # Rungs 1 to 4: the system, the processes, their mappings.

    def _measure(self, cases: Sequence[_Case]) -> None:
        memory = self._procfs.memory()
        names = ", ".join(f"{c.target.command} ({c.target.pid})" for c in cases)
        window = self._options.window
        self._say(f"measuring {names} for {window:g} s, every {_SAMPLE_SECONDS:g} s")
        for case in cases:
            case.before = self._mappings(case)
        self._count(cases)
        self._sample(cases, window)
        self._count(cases)
        now = self._procfs.memory().available
        if memory.available is not None and now is not None:
            self._say(
                f"system: {now >> 20:,} of {memory.total >> 20:,} MiB available, {(now - memory.available) >> 10:+,} KiB meanwhile"
            )
        for case in cases:
            case.after = self._mappings(case)
            self._describe(case)

    def _sample(self, cases: Sequence[_Case], seconds: float) -> None:
        for _ in self._interruption.ticks(_SAMPLE_SECONDS, max(seconds, 0.0)):
            for case in cases:
                try:
                    case.samples.append(sample_usage(self._procfs, case.target.pid))
                except LeaklineError:
                    continue  # it ended: the next rung says so
        for case in cases:
            case.trend = _trend_of(case)

    def _count(self, cases: Sequence[_Case]) -> None:
        """What they hold of the kernel's."""
        census = take_census_of(self._machine, [case.target.pid for case in cases])
        for case in cases:
            case.holdings.append((time.monotonic() - self._began, census))

    def _mappings(self, case: _Case) -> list[VmaUsage]:
        try:
            return self._procfs.smaps(case.target.pid)
        except LeaklineError:
            return []

    def _describe(self, case: _Case) -> None:
        held = f"{case.samples[-1].held >> 10:,} KiB (USS + swap)" if case.samples else "unknown"
        if case.trend is not None:
            held += f"; {case.trend.verdict}: {explain(case.trend)}"
        self._say(f"process {case.target.pid}: {held}")
        for mapping in growing_mappings(held_by_mapping(case.before), case.after)[:3]:
            self._say(f"mapping {mapping.name} at {mapping.start:#x}: {mapping.increase >> 10:+,} KiB")

    # Rungs 6 and 7: which blocks are lost, and who allocates them.

    def _look_into(self, case: _Case) -> None:
        require_64_bit_program(self._procfs, case.target.pid)
        try:
            scanner = Scanner(self._procfs, case.target.pid, max_pause=self._options.max_pause)
        except NotSupported as error:
            self._look_without_scans(case, error)
            return
        self._scan(scanner, case)
        if not case.lost().blocks:
            self._say("nothing is lost yet; a second look shows whether that stays so")
            self._sample([case], min(_CLEAN_AFTER_SECONDS - (time.monotonic() - self._began), self._left()))
            case.after = self._mappings(case)
            self._scan(scanner, case)
        if case.lost().blocks:
            self._say("blocks are lost; recording allocations to see who makes them")
            self._find_maker(scanner, case)
        elif case.trend is not None and case.grows:
            self._say(f"{case.trend.verdict}: {explain(case.trend)}")
            self._say("it grows, but every block can still be reached: no proof of loss")
        self._look_outside(case)

    def _look_without_scans(self, case: _Case, error: NotSupported) -> None:
        """Where the allocator cannot be read: what is not freed, and which lines touch new memory."""
        self._say(f"{error.message}: no scan, so nothing can be proved lost")
        case.gaps.append(NotJudged(name="whether blocks are lost", bytes=None, share=None, why=error.message))
        recorder = self._recorder(case)
        if recorder is not None:
            with recorder:
                recorder.wait(min(_GROWTH_SECONDS, max(self._left() - 1, 0.5)))
                case.trace = recorder.trace()
        self._sample([case], 0)
        case.after = self._mappings(case)
        self._look_outside(case)

    def _find_maker(self, scanner: Scanner, case: _Case) -> None:
        recorder = self._recorder(case)
        if recorder is None:
            self._confirm(scanner, case)
            return
        with recorder:
            seconds = _FIRST_TRACE_SECONDS
            while True:
                self._record(recorder, min(seconds, max(self._left() - 1, 0.5)))
                self._confirm(scanner, case)
                case.trace = recorder.trace()
                if self._certain(case) or self._left() < 2 or self._interruption.asked:
                    return
                seconds *= 1.5
                self._say(f"no lost block was seen being allocated yet; watching on, for {self._left():.0f} s at most")

    def _record(self, recorder: Recorder, seconds: float) -> None:
        """Let time pass, less of it where much comes: what is lost meanwhile has to be looked at, too."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._interruption.asked:
            recorder.wait(min(left, _GAUGE_SECONDS))
            if not isinstance(recorder, BpfRecorder):
                continue
            if recorder.recorded() >= (_ENOUGH_SAMPLES if recorder.samples else _ENOUGH_RECORDED):
                return

    def _look_outside(self, case: _Case) -> None:
        """Growth that lost blocks do not account for: of what it holds of the kernel's, and the lines that touch new pages."""
        self._count([case])
        case.outside += growing_holdings(case.holdings, case.target.pid)
        if self._interruption.asked or self._left() < 2:
            return
        unexplained = case.grows and not case.lost().blocks
        if not unexplained and case.grown_outside() < _OUTSIDE_WORTH_A_LOOK:
            return
        if not unexplained:
            self._say(f"{case.grown_outside() >> 10:+,} KiB outside malloc's heap: looking for the lines that touch new pages")
        try:
            seconds = min(_GROWTH_SECONDS, self._left() - 1)
            report = watch_growth(self._procfs, case.target.pid, seconds, interruption=self._interruption, say=self._say)
        except (PermissionNeeded, NotPossible) as error:
            why = f"{error.message}. {error.hint}"
            case.gaps.append(NotJudged(name="the lines that touch new pages", bytes=None, share=None, why=why))
            self._say(f"no way to see page faults: {why}")
            return
        case.outside += [f for f in report.findings if f.kind == "growing"]

    def _scan(self, scanner: Scanner, case: _Case) -> None:
        if not case.runs_on:
            try:
                case.scans.append(scanner.scan())
            except PauseTooLong as error:
                self._say(f"{error.message}; looking at it while it runs, so lost blocks are possible at most")
                case.runs_on = True
        if case.runs_on:
            case.scans.append(scanner.scan_running(_RUNNING_LOOKS))
        scan, lost = case.scans[-1], case.lost()
        indirect = scan.total("indirect")
        self._say(
            f"scan ({scan.allocator}): {lost.blocks:,} blocks of {lost.bytes:,} bytes lost, {indirect.blocks:,} hang on them, "
            f"{scan.reachable.blocks:,} reachable; the target stood still for {scan.stopped_ns / 1e6:.1f} ms"
        )

    def _confirm(self, scanner: Scanner, case: _Case) -> None:
        """Two looks: what both call lost is no accident of the moment."""
        self._scan(scanner, case)
        self._interruption.wait(BETWEEN_SCANS_SECONDS)
        self._scan(scanner, case)

    @staticmethod
    def _certain(case: _Case) -> bool:
        """Whether lost blocks that were seen being allocated account for the loss of this while."""
        seen = {a.address for a in case.trace.allocations} if case.trace else set()
        return any(block.kind == case.provable and block.address in seen for block in agreed(case.scans))

    def _recorder(self, case: _Case) -> Recorder | None:
        sizes = {block.size for block in case.scans[-1].lost if block.kind == case.provable} if case.scans else set()
        try:
            recorder = open_recorder(self._procfs, case.target.pid, self._interruption, self._say, lost_sizes=lambda: sizes)
        except (PermissionNeeded, NotPossible) as error:
            why = f"{error.message}. {error.hint}"
            self._say(f"no way to record allocations: {why}")
            case.gaps.append(NotJudged(name="the allocating line", bytes=None, share=None, why=why))
            return None
        return self._affordable(case, recorder) if isinstance(recorder, BpfRecorder) else recorder

    def _affordable(self, case: _Case, recorder: BpfRecorder) -> Recorder:
        """The same recorder, or one that samples where everything would slow the target down."""
        recorder.wait(_GAUGE_SECONDS)
        rate = recorder.recorded() / _GAUGE_SECONDS
        dear = rate * _DEAREST_PAIR_SECONDS > _MOST_OF_A_CORE and case.scans
        share = rate * (pair_cost_ns(self._procfs, RecordingOptions()) / 1e9 if dear else _PAIR_SECONDS)
        if share <= _MOST_OF_A_CORE or not case.scans:
            self._say(f"it makes {rate:,.0f} allocations a second: recording takes about {share:.1%} of a core")
            return recorder
        recorder.close()
        self._say(
            f"it makes {rate:,.0f} allocations a second: to record them all would take {share:.0%} of a core; "
            f"recording one in {_SAMPLED_BYTES >> 10} KiB instead"
        )
        options = RecordingOptions(sampled_bytes=_SAMPLED_BYTES)
        return BpfRecorder(self._procfs, case.target.pid, self._interruption, options)

    # The answer.

    def _report(self, case: _Case) -> Report:
        lost = {block.address for block in agreed(case.scans)}
        recorded = [a for a in case.trace.allocations if a.address in lost or not case.scans] if case.trace else []
        allocations, frames = with_stacks(self._procfs, case.target.pid, recorded, self._say)
        trace = None if case.trace is None else msgspec.structs.replace(case.trace, allocations=allocations)
        findings = find_lost(case.scans, trace, frames) + case.outside
        if trace is not None and not case.scans:
            findings += [f for f in find_outstanding(trace, (), frames) if f.kind == "growing" or not case.grows]
        if case.trend is not None and case.grows and not any(f.kind == "definite" or f.location is not None for f in findings):
            mapping = next(iter(growing_mappings(held_by_mapping(case.before), case.after)), None)
            findings = rank([*findings, growing_finding(case.trend, mapping)])
        return build_report(
            self._procfs,
            case.target,
            case.scans,
            findings,
            before=case.before,
            after=case.after,
            gaps=case.gaps,
            began_ns=case.started_ns,
        )


def _trend_of(case: _Case) -> SeriesTrend:
    """The detector's judgement of a few seconds: GROWING at most, for LEAK takes longer."""
    first = case.samples[0].time_ns if case.samples else 0
    series = Series(
        name=f"{case.target.command} ({case.target.pid})",
        times=tuple((sample.time_ns - first) / 1e9 for sample in case.samples),
        values=tuple(float(sample.held) for sample in case.samples),
    )
    return judge([series])[0]
