"""Reports about the same program, from several files, as one: sums, and all evidence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from leakline.analysis.diagnosis import rank
from leakline.model.finding import (
    CONFIDENCES,
    Cost,
    Evidence,
    Finding,
    KindTotal,
    NotJudged,
    Report,
    RetainedFree,
    Summary,
    Suppressed,
)

_MOST_EVIDENCE = 12


def flattened(reports: Iterable[Report]) -> list[Report]:
    """Each report, and those of its children, each without children."""
    flat: list[Report] = []
    waiting = list(reports)[::-1]
    while waiting:
        report = waiting.pop()
        flat.append(msgspec.structs.replace(report, children=()) if report.children else report)
        waiting += report.children[::-1]
    return flat


def merge_reports(reports: Sequence[Report]) -> list[Report]:
    """One report for each program, in the order in which they first occur; processes without a name stay apart."""
    groups: dict[object, list[Report]] = defaultdict(list)
    for report in flattened(reports):
        groups[_program(report)].append(report)
    return [_merged(group) for group in groups.values()]


def _program(report: Report) -> object:
    if report.target is None:
        return None
    return report.target.command if report.target.command != "?" else report.target.pid


def _merged(reports: Sequence[Report]) -> Report:
    if len(reports) == 1:
        return reports[0]
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for report in reports:
        for finding in report.findings:
            groups[finding.kind, finding.fingerprint].append(finding)
    kept = [report.retained_free.bytes for report in reports if report.retained_free.bytes is not None]
    return Report(
        target=reports[0].target,
        bytes_are="requested" if all(report.bytes_are == "requested" for report in reports) else "usable",
        summary=Summary(
            definite=_sum(reports, lambda summary: summary.definite),
            indirect=_sum(reports, lambda summary: summary.indirect),
            possible=_sum(reports, lambda summary: summary.possible),
            reachable=_sum(reports, lambda summary: summary.reachable),
        ),
        findings=tuple(rank([merged_finding(group) for group in groups.values()])),
        retained_free=RetainedFree(bytes=sum(kept) if kept else None),
        not_judged=_unique_gaps(reports),
        suppressed=merged_suppressed(rule for report in reports for rule in report.suppressed),
        cost=Cost(
            target_stopped_ns=sum(report.cost.target_stopped_ns for report in reports),
            duration_ns=sum(report.cost.duration_ns for report in reports),
        ),
    )


def _sum(reports: Sequence[Report], kind: Callable[[Summary], KindTotal | None]) -> KindTotal | None:
    """Of what is known; None where nobody knows."""
    known = [total for report in reports if (total := kind(report.summary)) is not None]
    return KindTotal(bytes=sum(t.bytes for t in known), blocks=sum(t.blocks for t in known)) if known else None


def _unique_gaps(reports: Sequence[Report]) -> tuple[NotJudged, ...]:
    return tuple(dict.fromkeys(gap for report in reports for gap in report.not_judged))


def merged_suppressed(rules: Iterable[Suppressed]) -> tuple[Suppressed, ...]:
    """What each rule left out in all, the most bytes first."""
    groups: dict[tuple[str, str], list[Suppressed]] = defaultdict(list)
    for rule in rules:
        groups[rule.rule, rule.source].append(rule)
    sums = [
        Suppressed(
            rule=rule,
            source=source,
            findings=None if any(one.findings is None for one in group) else sum(one.findings or 0 for one in group),
            bytes=sum(one.bytes for one in group),
            blocks=sum(one.blocks for one in group),
        )
        for (rule, source), group in groups.items()
    ]
    return tuple(sorted(sums, key=lambda one: (-one.bytes, one.rule)))


def merged_finding(findings: Sequence[Finding]) -> Finding:
    """The same leak, as several reports have it: what they found in all, where the one that knows most places it."""
    if len(findings) == 1:
        return findings[0]
    best = max(findings, key=lambda f: (f.location is not None and f.location.line is not None, len(f.stack) > 0, f.bytes))
    return msgspec.structs.replace(
        best,
        bytes=sum(f.bytes for f in findings),
        blocks=sum(f.blocks for f in findings),
        indirect_bytes=sum(f.indirect_bytes for f in findings),
        indirect_blocks=sum(f.indirect_blocks for f in findings),
        rate_bytes_per_second=None,
        rate_interval=None,
        confidence=max((f.confidence for f in findings), key=CONFIDENCES.index),
        evidence=_evidence(findings),
    )


def _evidence(findings: Sequence[Finding]) -> tuple[Evidence, ...]:
    given = [one for finding in findings for one in finding.evidence]
    if len(given) <= _MOST_EVIDENCE:
        return tuple(given)
    left = len(given) - _MOST_EVIDENCE
    more = Evidence(method="merged", text=f"{left} more reasons in other reports", values={"left_out": left})
    return (*given[:_MOST_EVIDENCE], more)
