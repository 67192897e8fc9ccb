"""`scan` and `trace` by themselves: the upper rungs, without the ladder."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.diagnosis import find_lost, rank
from leakline.analysis.heap_growth import CensusAt, growing, grown_since
from leakline.analysis.outstanding import find_outstanding
from leakline.errors import LeaklineError, NotSupported
from leakline.model.finding import NotJudged
from leakline.model.stack import Frame
from leakline.session.imaging import STOP_DEADLINE_SECONDS
from leakline.session.reporting import build_report
from leakline.session.saved_scans import EarlierCensus, held_by_mapping, save_image, search_file
from leakline.session.scanning import BETWEEN_SCANS_SECONDS, Scanner
from leakline.session.searching import Details
from leakline.session.symbolising import with_sites, with_stacks
from leakline.session.targets import describe, require_stoppable
from leakline.session.tracing import Via, open_recorder
from leakline.sources.bpf import RecordingOptions
from leakline.sources.core_image import open_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from leakline.model.finding import Finding, Report, Target
    from leakline.model.heap import HeapScan
    from leakline.model.trace import AllocationTrace
    from leakline.session.interruption import Interruption
    from leakline.sources.procfs import ProcFs

    Say = Callable[[str], None]

_LEAST_RUNNING_LOOKS = 3


class ScanOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to look into a heap."""

    looks: int = 2
    stop: bool = True
    """Without, it runs on while its memory is copied."""
    stop_deadline: float = STOP_DEADLINE_SECONDS
    max_pause: float | None = None
    """Seconds that it may stand still at a time; None for as long as it takes."""
    details: Details = Details()
    before: EarlierCensus | None = None
    """An earlier look to compare with."""
    every: float | None = None
    """Seconds from look to look, until `duration` is over or somebody interrupts."""
    duration: float | None = None
    save: Path | None = None
    """Where the image of the last look goes."""


def look(procfs: ProcFs, pid: int, options: ScanOptions, *, interruption: Interruption, say: Say) -> Report:
    """Scan a process.

    Raises:
        NotSupported: its allocator is none that leakline can read.
        TargetGone: it ended.
        PermissionNeeded: it belongs to somebody else.
        NotPossible: it cannot stand still, or not for so short a time.

    """
    began = time.monotonic_ns()
    require_stoppable(procfs, pid)
    target = describe(procfs, pid)
    scanner = Scanner(procfs, pid, stop_deadline=options.stop_deadline, max_pause=options.max_pause, details=options.details)
    scans: list[HeapScan] = []
    censuses: list[CensusAt] = []
    for _ in _moments(options, interruption):
        if options.stop:
            scans.append(scanner.scan())
            say(f"look {len(scans)}: the target stood still for {scans[-1].stopped_ns / 1e6:.1f} ms")
        else:
            scans.append(scanner.scan_running(max(options.looks, _LEAST_RUNNING_LOOKS)))
            stood = f"threads stood still for {scans[-1].stopped_ns / 1e6:.2f} ms in all"
            say(f"{scans[-1].looks} looks: to read registers, {stood}")
        census = scans[-1].census
        if options.every is not None and census is not None:
            censuses.append(CensusAt(scans[-1].time_ns / 1e9, census))
            # What was counted is kept; the lists of lost blocks of the looks before the last two are not.
            scans[:-2] = [msgspec.structs.replace(scan, lost=(), census=None) for scan in scans[:-2]]
    if options.save is not None and scanner.image is not None:
        auxiliary = procfs.auxiliary_vector(pid)
        save_image(options.save, scanner.image, target, auxiliary, lambda vma: procfs.mapped_file(pid, vma))
        say(f"the image is in {options.save}: `leakline scan --open` reads it")
    trace, frames = scanner.trace, dict[int, tuple[Frame, ...]]()
    if trace is not None:
        placed, frames = with_stacks(procfs, pid, trace.allocations, say)
        trace = msgspec.structs.replace(trace, allocations=placed)
    census = scans[-1].census
    if census is not None:
        census = with_sites(procfs, pid, census, scanner.stacks(census), say)
        scans[-1] = msgspec.structs.replace(scans[-1], census=census)
        censuses[-1:] = [msgspec.structs.replace(last, census=census) for last in censuses[-1:]]
    findings = find_lost(scans, trace, frames) + growing(censuses) + _grown(options.before, target, scans[-1])
    return build_report(procfs, target, scans, rank(findings), began_ns=began)


def _moments(options: ScanOptions, interruption: Interruption) -> Iterator[object]:
    """When to look."""
    if options.every is not None:
        yield from interruption.ticks(options.every, math.inf if options.duration is None else options.duration)
        return
    for number in range(options.looks if options.stop else 1):
        if number:
            interruption.wait(BETWEEN_SCANS_SECONDS)
        yield number


def _grown(before: EarlierCensus | None, target: Target, scan: HeapScan) -> list[Finding]:
    if before is None or scan.census is None:
        return []
    return grown_since(before.census, scan.census, before.seconds_before(target, scan.census))


def look_into_file(path: Path, options: ScanOptions, *, say: Say) -> Report:
    """Search a core file, or what an earlier scan saved.

    Raises:
        InvalidRequest: it cannot be read.
        ParseError: it is neither.
        NotPossible: it takes a file of another machine.

    """
    began = time.monotonic_ns()
    stored = open_image(path)
    scan = search_file(stored, options.details, began)
    for problem in scan.problems:
        say(problem)
    findings = find_lost([scan], None, {}) + _grown(options.before, stored.target, scan)
    return build_report(None, stored.target, [scan], rank(findings), after=held_by_mapping(stored.image), began_ns=began)


class TraceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to record allocations."""

    seconds: float
    via: Via = "auto"
    min_age: float = 0.0
    """Seconds that a block must have lived at the end, to be told."""
    recording: RecordingOptions = RecordingOptions()


def watch_allocations(procfs: ProcFs, pid: int, options: TraceOptions, *, interruption: Interruption, say: Say) -> Report:
    """Record allocations for a while, then scan twice to tell which of them are lost.

    Where the scan cannot read the allocator, what is not freed is told as outstanding, and that nothing proves it lost.

    Raises:
        NotSupported: nothing in it has a malloc that could be recorded.
        PermissionNeeded: recording is not allowed.

    """
    began = time.monotonic_ns()
    require_stoppable(procfs, pid)
    target = describe(procfs, pid)
    gaps: list[NotJudged] = []
    scanner = _scanner(procfs, pid, gaps, say)
    scans: list[HeapScan] = []

    def lost_sizes() -> set[int]:
        if scanner is None:
            return set()
        scans.append(scanner.scan())
        return {block.size for block in scans[-1].lost if block.kind == "definite"}

    with open_recorder(
        procfs, pid, interruption, say, via=options.via, options=options.recording, lost_sizes=lost_sizes
    ) as recorder:
        recorder.wait(options.seconds)
        trace = recorder.trace()
    say(describe_trace(trace))
    trace = _old_enough(trace, options.min_age)
    if scanner is not None:
        for _ in range(2):
            interruption.wait(BETWEEN_SCANS_SECONDS)
            scans.append(scanner.scan())
    allocations, frames = with_stacks(procfs, pid, trace.allocations, say)
    trace = msgspec.structs.replace(trace, allocations=allocations)
    findings = find_lost(scans[-2:], trace, frames)
    if trace.sees_frees:
        findings += find_outstanding(trace, scans[-2:], frames)
    return build_report(procfs, target, scans, findings, gaps=gaps, began_ns=began)


def _scanner(procfs: ProcFs, pid: int, gaps: list[NotJudged], say: Say) -> Scanner | None:
    try:
        return Scanner(procfs, pid)
    except NotSupported as error:
        say(f"no scan: {error.message}; what is not freed is told, and nothing proves it lost")
        gaps.append(NotJudged(name="whether blocks are lost", bytes=None, share=None, why=error.message))
        return None


def _old_enough(trace: AllocationTrace, min_age: float) -> AllocationTrace:
    latest = trace.ended_ns - int(min_age * 1e9)
    return msgspec.structs.replace(trace, allocations=tuple(a for a in trace.allocations if a.time_ns <= latest))


def describe_trace(trace: AllocationTrace) -> str:
    """What a recording has seen, in a line."""
    seen = f"{trace.engine}: {trace.seen:,} allocations recorded"
    if trace.sampled_bytes:
        seen += f", one in {trace.sampled_bytes >> 10:,} KiB; frees are not seen"
    elif trace.sees_frees:
        seen += f", {len(trace.allocations):,} not freed"
    lost = f"{trace.lost:,} events lost"
    return f"{seen}, {lost}" + (f", {trace.stacks_lost:,} without a stack" if trace.stacks_lost else "")


def each(pids: Sequence[int], one: Callable[[int], Report], say: Say) -> list[Report]:
    """Look at several processes one after the other; what cannot be looked at is said and left out.

    Raises:
        LeaklineError: none of them could; the first one's reason.

    """
    reports, errors = [], []
    for pid in pids:
        try:
            reports.append(one(pid))
        except LeaklineError as error:
            errors.append(error)
    if not reports and errors:
        raise errors[0]
    for skipped in errors:
        say(f"skipped: {skipped.message}")
    return reports
