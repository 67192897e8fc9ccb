"""A report from what a session has seen."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.coverage import not_judged
from leakline.analysis.diagnosis import summarise
from leakline.errors import LeaklineError, ParseError
from leakline.model.finding import Cost, Report, Reports, RetainedFree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.model.finding import Finding, NotJudged, Target
    from leakline.model.heap import HeapScan
    from leakline.model.vma import VmaUsage
    from leakline.sources.procfs import ProcFs

_LARGEST = 1 << 62


class _Head(msgspec.Struct):
    schema: str
    targets: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def read_findings(data: bytes) -> Reports:
    """Read what `--json` has written: one report, or several.

    Raises:
        ParseError: it is no JSON of the schema leakline.findings/1, or has amounts that no machine has.

    """
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.schema != "leakline.findings/1":
            raise ParseError(f"this is {head.schema!r}, and not leakline.findings/1", hint="A newer leakline may read it.")
        if head.targets is msgspec.UNSET:
            reports = Reports(targets=(msgspec.json.decode(data, type=Report),))
        else:
            reports = msgspec.json.decode(data, type=Reports)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ParseError(f"these are no findings of leakline: {error}") from error
    waiting = list(reports.targets)
    while waiting:
        report = waiting.pop()
        waiting += report.children
        if not all(_is_possible(finding) for finding in report.findings):
            raise ParseError("a finding has amounts, lines or addresses that no machine has")
    return reports


def _is_possible(finding: Finding) -> bool:
    amounts = (finding.bytes, finding.blocks, finding.indirect_bytes, finding.indirect_blocks)
    lines = [frame.line or 0 for frame in finding.stack]
    return all(0 <= amount < _LARGEST for amount in (*amounts, *lines)) and all(
        0 <= (f.address or 0) < 1 << 64 for f in finding.stack
    )


def build_report(
    procfs: ProcFs | None,
    target: Target,
    scans: Sequence[HeapScan],
    findings: Sequence[Finding],
    *,
    began_ns: int,
    before: Sequence[VmaUsage] | None = None,
    after: Sequence[VmaUsage] = (),
    gaps: Sequence[NotJudged] = (),
) -> Report:
    """Put together what was found, what was not judged, and what it cost.

    Args:
        procfs: where the target is, or was; None where all that is known of it is in `after`.
        target: the process.
        scans: all looks at its heap.
        findings: what came of them.
        began_ns: CLOCK_MONOTONIC at the beginning.
        before: its mappings at the beginning, to see what grew.
        after: its mappings later, in case that it has ended by now.
        gaps: what is known not to be judged.

    """
    if procfs is not None:
        with suppress(LeaklineError):  # if it has ended, what was measured last stands
            after = procfs.smaps(target.pid)
    last = scans[-1] if scans else None
    unseen = not_judged(after if before is None else before, after, last.heap_ranges if last else (), last.problems if last else ())
    return Report(
        target=target,
        bytes_are="requested" if last is not None and last.requested else "usable",
        summary=summarise(scans),
        findings=tuple(findings),
        retained_free=RetainedFree(bytes=last.retained_free if last else None),
        not_judged=(*unseen, *gaps),
        why=last.why if last else None,
        census=last.census if last else None,
        cost=Cost(target_stopped_ns=sum(s.stopped_ns for s in scans), duration_ns=time.monotonic_ns() - began_ns),
    )
