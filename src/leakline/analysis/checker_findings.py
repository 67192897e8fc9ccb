"""Findings from what other leak checkers say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from leakline.analysis.diagnosis import rank
from leakline.analysis.fingerprint import fingerprint
from leakline.analysis.locating import answering_frame
from leakline.model.checker import CheckerLog, LeakRecord
from leakline.model.finding import Evidence, Finding, KindTotal, Subject, Summary
from leakline.model.heap import BlockKind
from leakline.model.stack import Frame


def checker_summary(log: CheckerLog) -> Summary:
    """Sums by kind; None for kinds that the checker does not tell."""

    def total(kind: BlockKind) -> KindTotal | None:
        if kind not in log.knows:
            return None
        own = [record for record in log.records if record.kind == kind]
        return KindTotal(bytes=sum(r.bytes for r in own), blocks=sum(r.blocks for r in own))

    return Summary(definite=total("definite"), indirect=total("indirect"), possible=total("possible"), reachable=total("reachable"))


def checker_findings(log: CheckerLog) -> list[Finding]:
    """One for each stack that lost blocks, definitely or possibly."""
    groups: dict[tuple[BlockKind, tuple[Frame, ...]], list[LeakRecord]] = defaultdict(list)
    for record in log.records:
        if record.kind in ("definite", "possible"):
            groups[record.kind, record.stack].append(record)
    return rank([_finding(log, kind, stack, records) for (kind, stack), records in groups.items()])


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
