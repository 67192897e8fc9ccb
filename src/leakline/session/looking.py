"""`scan` and `trace` by themselves: the upper rungs, without the ladder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.diagnosis import find_lost, find_outstanding
from leakline.errors import LeaklineError
from leakline.session.reporting import build_report
from leakline.session.scanning import BETWEEN_SCANS_SECONDS, STOP_DEADLINE_SECONDS, Scanner
from leakline.session.symbolising import with_stacks
from leakline.session.targets import describe, require_stoppable
from leakline.session.tracing import Via, open_recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leakline.model.finding import Report
    from leakline.model.heap import HeapScan
    from leakline.session.interruption import Interruption
    from leakline.sources.procfs import ProcFs

    Say = Callable[[str], None]

_LEAST_RUNNING_LOOKS = 3


def look(
    procfs: ProcFs,
    pid: int,
    *,
    looks: int,
    interruption: Interruption,
    say: Say,
    stop_deadline: float = STOP_DEADLINE_SECONDS,
    stop: bool = True,
) -> Report:
    """Scan a process `looks` times; without `stop` while it runs on, thrice at least.

    Raises:
        NotSupported: its allocator is none that leakline can read.
        TargetGone: it ended.
        PermissionNeeded: it belongs to somebody else.

    """
    began = time.monotonic_ns()
    require_stoppable(procfs, pid)
    target = describe(procfs, pid)
    scanner = Scanner(procfs, pid)
    scans: list[HeapScan] = []
    if not stop:
        scans.append(scanner.scan_running(max(looks, _LEAST_RUNNING_LOOKS), stop_deadline))
        say(f"{scans[0].looks} looks: to read registers, threads stood still for {scans[0].stopped_ns / 1e6:.2f} ms in all")
    for number in range(looks if stop else 0):
        if number:
            interruption.wait(BETWEEN_SCANS_SECONDS)
        scans.append(scanner.scan(stop_deadline))
        say(f"look {number + 1}: the target stood still for {scans[-1].stopped_ns / 1e6:.1f} ms")
    findings = find_lost(scans, None, {})
    return build_report(procfs, target, scans, findings, began_ns=began)


def watch_allocations(
    procfs: ProcFs, pid: int, seconds: float, *, via: Via, min_size: int, interruption: Interruption, say: Say
) -> Report:
    """Record allocations for a while, then scan twice to tell which of them are lost.

    Raises:
        NotSupported: its allocator is none that leakline can read.
        PermissionNeeded: recording is not allowed.

    """
    began = time.monotonic_ns()
    require_stoppable(procfs, pid)
    target = describe(procfs, pid)
    scanner = Scanner(procfs, pid)
    scans: list[HeapScan] = []

    def lost_sizes() -> set[int]:
        scans.append(scanner.scan())
        return {block.size for block in scans[-1].lost if block.kind == "definite"}

    with open_recorder(procfs, pid, interruption, say, via=via, min_size=min_size, lost_sizes=lost_sizes) as recorder:
        recorder.wait(seconds)
        trace = recorder.trace()
    say(f"{trace.engine}: {trace.seen:,} allocations seen, {len(trace.allocations):,} not freed, {trace.lost:,} events lost")
    for _ in range(2):
        interruption.wait(BETWEEN_SCANS_SECONDS)
        scans.append(scanner.scan())
    allocations, frames = with_stacks(procfs, pid, trace.allocations, say)
    trace = msgspec.structs.replace(trace, allocations=allocations)
    findings = find_lost(scans[-2:], trace, frames)
    if trace.sees_frees:
        findings += find_outstanding(trace, scans[-2:], frames)
    return build_report(procfs, target, scans, findings, began_ns=began)


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
