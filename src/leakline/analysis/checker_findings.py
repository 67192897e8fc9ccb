"""Findings from what other leak checkers say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from leakline.analysis.diagnosis import rank
from leakline.analysis.fingerprint import fingerprint
from leakline.analysis.locating import answering_frame
from leakline.model.checker import CheckerLog, LeakRecord
from leakline.model.finding import (
    Cost,
    Evidence,
    Finding,
    KindTotal,
    NotJudged,
    Report,
    RetainedFree,
    Subject,
    Summary,
    Suppressed,
    Target,
)
from leakline.model.heap import BlockKind
from leakline.model.stack import Frame


def checker_summary(log: CheckerLog) -> Summary:
    """Sums by kind; None for kinds that the checker does not tell."""

    def total(kind: BlockKind) -> KindTotal | None:
        if kind not in log.knows:
            return None
        for summed in log.totals:
            if summed.kind == kind:
                return KindTotal(bytes=summed.bytes, blocks=summed.blocks)
        own = [record for record in log.records if record.kind == kind]
        return KindTotal(bytes=sum(r.bytes for r in own), blocks=sum(r.blocks for r in own))

    return Summary(definite=total("definite"), indirect=total("indirect"), possible=total("possible"), reachable=total("reachable"))


def checker_report(log: CheckerLog, target: Target, duration_ns: int, gaps: Sequence[NotJudged] = ()) -> Report:
    """What a checker said of one process, as a report.

    Args:
        log: its own words.
        target: the process.
        duration_ns: how long the whole took; 0 for a log that somebody else made.
        gaps: what is known not to be judged.

    """
    unread = [NotJudged(name="the heap", bytes=None, share=None, why=why) for why in log.problems]
    if log.other_errors:
        errors = "an error that is no leak" if log.other_errors == 1 else f"{log.other_errors} errors that are no leaks"
        why = f"{log.checker} reports {errors}; run it by itself to read them"
        unread.append(NotJudged(name="other errors", bytes=None, share=None, why=why))
    return Report(
        target=target,
        bytes_are="requested",
        summary=checker_summary(log),
        findings=tuple(checker_findings(log)),
        retained_free=RetainedFree(bytes=None),
        not_judged=(*gaps, *unread),
        suppressed=tuple(
            Suppressed(rule=rule.rule, source=log.checker, findings=None, bytes=rule.bytes, blocks=rule.blocks)
            for rule in log.suppressed
        ),
        cost=Cost(target_stopped_ns=0, duration_ns=duration_ns),
    )


def checker_findings(log: CheckerLog) -> list[Finding]:
    """One for each stack that lost blocks, definitely or possibly."""
    groups: dict[tuple[BlockKind, tuple[object, ...]], list[LeakRecord]] = defaultdict(list)
    for record in log.records:
        if record.kind in ("definite", "possible"):
            groups[record.kind, tuple(map(_place, record.stack))].append(record)
    return rank([_finding(log, kind, records[0].stack, records) for (kind, _), records in groups.items()])


def _place(frame: Frame) -> object:
    """What people tell calls apart by: on one line there may be several."""
    return frame if frame.function is None or frame.line is None else (frame.function, frame.file, frame.line, frame.module)


def _finding(log: CheckerLog, kind: BlockKind, stack: tuple[Frame, ...], records: Sequence[LeakRecord]) -> Finding:
    blocks = sum(record.blocks for record in records)
    answer = answering_frame(stack)
    text = f"{log.checker} found no way to {'the block' if blocks == 1 else f'{blocks:,} blocks'} at the program's end"
    return Finding(
        kind="definite" if kind == "definite" else "possible",
        subject=Subject(type="heap", name="[heap]"),
        bytes=sum(record.bytes for record in records),
        blocks=blocks,
        indirect_bytes=sum(record.indirect_bytes or 0 for record in records),
        indirect_blocks=0,
        rate_bytes_per_second=None,
        rate_interval=None,
        confidence="high" if kind == "definite" else "low",
        fingerprint=fingerprint("lost", stack, None, None),
        location=None if answer is None else stack[answer].location,
        location_is=None if answer is None else "recorded",
        stack=stack,
        evidence=(Evidence(method="checker", text=text, values={"checker": log.checker, "blocks": blocks}),),
    )
