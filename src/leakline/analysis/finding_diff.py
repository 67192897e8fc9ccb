"""Two sets of findings compared by fingerprint: what is new, what grew, what is gone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from leakline.analysis.merge import flattened, merged_finding
from leakline.model.diff import ChangeKind, DiffReport, FindingChange
from leakline.model.finding import Finding, FindingKind, GrownFinding, KindTotal, KnownFindings, Report

_TOLERANCE = 10
"""Percent of the bytes before: a change that is not larger is none."""
_ORDER: dict[ChangeKind, int] = {"new": 0, "grown": 1, "shrunk": 2, "gone": 3, "same": 4}
_NO_LEAKS = ("reachable", "indirect")
_Key = tuple[str | None, str]


def compare(before: Sequence[Report], after: Sequence[Report], names: tuple[str, str]) -> DiffReport:
    """What changed from one set of reports to another. What is still reachable is left out: it is no leak.

    Args:
        before: the earlier reports.
        after: the later ones.
        names: of the two files.

    """
    was, now = _by_key(before), _by_key(after)
    was, now = _matched(was, now)
    unseen: dict[tuple[str, FindingKind], int] = defaultdict(int)
    changes = []
    for key in {**now, **was}:
        one = _change(key, was.get(key), now.get(key))
        other, name = (before, names[0]) if one.change == "new" else (after, names[1])
        if one.change in ("new", "gone") and not _tells(other, one.kind):
            unseen[name, one.kind] += 1
        else:
            changes.append(one)
    changes.sort(key=lambda change: (_ORDER[change.change], -abs(change.bytes), change.fingerprint))
    return DiffReport(
        before=names[0],
        after=names[1],
        differs=any(change.change != "same" for change in changes),
        bytes=sum(change.bytes for change in changes),
        blocks=sum(change.blocks for change in changes),
        changes=tuple(changes),
        not_judged=(
            *(
                f"{name} does not tell {kind} blocks: {count:,} of the other's not compared"
                for (name, kind), count in unseen.items()
            ),
            *(
                f"{name}: {gap.name}: {gap.why}"
                for name, reports in zip(names, (before, after), strict=True)
                for report in flattened(reports)
                for gap in report.not_judged
            ),
        ),
    )


def _tells(reports: Sequence[Report], kind: FindingKind) -> bool:
    """Whether such findings would be there if there were any: sanitizers do not tell possible ones."""
    return (
        not reports
        or kind not in ("definite", "possible")
        or any(
            (report.summary.definite if kind == "definite" else report.summary.possible) is not None
            for report in flattened(reports)
        )
    )


def _command(report: Report) -> str | None:
    return None if report.target is None else report.target.command


def _by_key(reports: Sequence[Report]) -> dict[_Key, Finding]:
    groups: dict[_Key, list[Finding]] = defaultdict(list)
    for report in flattened(reports):
        for finding in report.findings:
            if finding.kind not in _NO_LEAKS:
                groups[_command(report), finding.fingerprint].append(finding)
    return {key: merged_finding(group) for key, group in groups.items()}


def _matched(was: dict[_Key, Finding], now: dict[_Key, Finding]) -> tuple[dict[_Key, Finding], dict[_Key, Finding]]:
    """Give a finding whose program has another name, or none, before and after, the later name: if there is one such alone."""
    renamed = dict(was)
    for key in list(was):
        if key in now or key[0] is None:
            continue
        others = [other for other in now if other[1] == key[1] and other[0] is not None and other not in was]
        if len(others) == 1 and others[0] not in renamed:
            renamed[others[0]] = renamed.pop(key)
    return renamed, now


def _change(key: _Key, was: Finding | None, now: Finding | None) -> FindingChange:
    shown = now or was
    assert shown is not None  # the key is one of either's  # noqa: S101
    before, after = _total(was), _total(now)
    size = (after.bytes if after else 0) - (before.bytes if before else 0)
    if before is None:
        change: ChangeKind = "new"
    elif after is None:
        change = "gone"
    elif abs(size) * 100 > before.bytes * _TOLERANCE:
        change = "grown" if size > 0 else "shrunk"
    else:
        change = "same"
    return FindingChange(
        change=change,
        fingerprint=key[1],
        command=key[0],
        kind=shown.kind,
        location=shown.location,
        stack=shown.stack,
        before=before,
        after=after,
        bytes=size,
        blocks=(after.blocks if after else 0) - (before.blocks if before else 0),
    )


def _total(finding: Finding | None) -> KindTotal | None:
    return None if finding is None else KindTotal(bytes=finding.bytes, blocks=finding.blocks)


def only_new(reports: Sequence[Report], baseline: Sequence[Report], source: str) -> list[Report]:
    """The reports without the findings that the baseline has, in whichever of its processes; what has grown of them is told.

    Args:
        reports: of now.
        baseline: of before.
        source: the baseline's file.

    """
    before: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for report in flattened(baseline):
        for finding in report.findings:
            before[finding.fingerprint][0] += finding.bytes
            before[finding.fingerprint][1] += finding.blocks
    known = {fingerprint: KindTotal(bytes=size, blocks=blocks) for fingerprint, (size, blocks) in before.items()}
    return [_only_new(report, known, source) for report in reports]


def _only_new(report: Report, known: dict[str, KindTotal], source: str) -> Report:
    old = [finding for finding in report.findings if finding.fingerprint in known]
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in old:
        groups[finding.fingerprint].append(finding)
    grown = [
        GrownFinding(
            fingerprint=fingerprint,
            location=group[0].location,
            before=known[fingerprint],
            now=KindTotal(bytes=sum(f.bytes for f in group), blocks=sum(f.blocks for f in group)),
        )
        for fingerprint, group in groups.items()
    ]
    before = report.known  # it may have been through here, or through another baseline
    grown = [one for one in grown if (one.now.bytes - one.before.bytes) * 100 > one.before.bytes * _TOLERANCE]
    if before is not None:
        grown += before.grown
    return msgspec.structs.replace(
        report,
        findings=tuple(finding for finding in report.findings if finding.fingerprint not in known),
        children=tuple(_only_new(child, known, source) for child in report.children),
        known=KnownFindings(
            source=before.source if before is not None and not old else source,
            findings=len(old) + (before.findings if before else 0),
            bytes=sum(finding.bytes for finding in old) + (before.bytes if before else 0),
            blocks=sum(finding.blocks for finding in old) + (before.blocks if before else 0),
            grown=tuple(sorted(grown, key=lambda one: one.before.bytes - one.now.bytes)),
        ),
    )
