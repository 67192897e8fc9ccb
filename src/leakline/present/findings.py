"""Findings as text: the answer first, then why, then what it cost and what was not judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from leakline.present.text import (
    amount,
    counted,
    duration,
    exact_bytes,
    frame_function,
    frame_place,
    percent,
    place,
    printable,
    rate,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.model.finding import Finding, KindTotal, Report

Line = tuple[str, str]  # text, and the name of its style

_VERDICTS = {
    "definite": "lost for good",
    "possible": "possibly lost",
    "outstanding": "allocated, not freed yet",
    "reachable": "still reachable",
    "growing": "growing",
    "indirect": "lost with another block",
}


def describe_reports(reports: Sequence[Report], most: int) -> Iterator[Line]:
    """All lines of a text report."""
    for number, report in enumerate(reports):
        if number:
            yield "", ""
        yield from _describe(report, most)


def _describe(report: Report, most: int) -> Iterator[Line]:
    target = report.target
    who = "this machine" if target is None else f"{printable(target.command)} (pid {target.pid})"
    yield f"{who}: {_headline(report)}", "headline"
    for finding in report.findings[:most]:
        yield "", ""
        yield from _finding(finding)
    left_out = len(report.findings) - most
    if left_out > 0:
        yield f"  and {counted(left_out, 'finding')} more (--limit)", "dim"
    yield "", ""
    yield from _tail(report)


def _headline(report: Report) -> str:
    definite = [f for f in report.findings if f.kind == "definite"]
    if not definite:
        if report.summary.definite is None:
            return "the heap was not looked at"
        if report.findings:
            return "no proof of a leak"
        return "no leak found" + (" in what could be judged" if report.not_judged else "")
    first = definite[0]
    where = "" if first.location is None else f" at {place(first.location, first.stack)}"
    more = "" if len(definite) == 1 else f", and {counted(len(definite) - 1, 'other finding')}"
    return f"leaks{where}{more}"


def _finding(finding: Finding) -> Iterator[Line]:
    unknown = printable(finding.subject.name) if finding.kind == "growing" else "allocated by a caller that is not known"
    where = unknown if finding.location is None else place(finding.location, finding.stack)
    function = ""
    if finding.location is not None and finding.location.function and finding.location.line is not None:
        function = f"  in {printable(finding.location.function)}"
    inferred = ", inferred" if finding.location_is == "inferred" else ""
    yield f"  {where}{function}", finding.kind
    verdict = _VERDICTS[finding.kind]
    kind = "" if verdict == finding.kind else f" ({finding.kind})"
    yield f"    {verdict}{kind}, {finding.confidence} confidence{inferred}", ""
    size = f"    {exact_bytes(finding.bytes)} " + (
        "more" if finding.kind == "growing" else f"in {counted(finding.blocks, 'block')}"
    )
    if finding.indirect_blocks:
        size += (
            f", with {exact_bytes(finding.indirect_bytes)} more in {counted(finding.indirect_blocks, 'block')} that hang on them"
        )
    yield size, ""
    if finding.rate_bytes_per_second is not None:
        yield f"    at {rate(finding.rate_bytes_per_second, finding.rate_interval)}", ""
    for number, evidence in enumerate(finding.evidence):
        yield f"    {'because' if number == 0 else '       '} {printable(evidence.text)}", "dim"
    functions = [frame_function(frame) for frame in finding.stack]
    column = min(max(map(len, functions), default=0), 48)
    for number, (function, frame) in enumerate(zip(functions, finding.stack, strict=True)):
        yield f"    {'stack' if number == 0 else '     '}   {function:<{column}}  {frame_place(frame)}", "dim"
    build_ids = {f"{frame.module} {frame.build_id}" for frame in finding.stack[:1] if frame.line is None and frame.build_id}
    for name in sorted(build_ids):
        yield f"    no line table for {printable(name)}: install its debug package to see lines", "dim"


def _kind(total: KindTotal | None, name: str) -> str:
    return f"{name} -" if total is None else f"{name} {amount(total.bytes)} in {counted(total.blocks, 'block')}"


def _tail(report: Report) -> Iterator[Line]:
    s = report.summary
    if s.definite is not None:
        parts = [
            _kind(s.definite, "definite"),
            _kind(s.indirect, "indirect"),
            _kind(s.possible, "possible"),
            _kind(s.reachable, "reachable"),
        ]
        yield f"  heap: {'; '.join(parts)}", ""
    if report.retained_free.bytes is not None:
        yield f"  free, but kept by the allocator: {amount(report.retained_free.bytes)}, which is no leak", ""
    for gap in report.not_judged:
        size = "" if gap.bytes is None else f", {amount(gap.bytes)}"
        share = "" if gap.share is None else f" ({percent(gap.share)} of the process)"
        yield f"  not judged: {printable(gap.name)}{size}{share}: {printable(gap.why)}", "warning"
    cost = report.cost
    yield (
        f"  cost: the target stood still for {duration(cost.target_stopped_ns)} in all; {duration(cost.duration_ns)} altogether",
        "dim",
    )
