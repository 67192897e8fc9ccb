"""A report from what a session has seen."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from leakline.analysis.coverage import not_judged
from leakline.analysis.diagnosis import summarise
from leakline.errors import LeaklineError
from leakline.model.finding import Cost, Report, RetainedFree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.model.finding import Finding, NotJudged, Target
    from leakline.model.heap import HeapScan
    from leakline.model.vma import VmaUsage
    from leakline.sources.procfs import ProcFs


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
