"""Findings as text: the answer first, then why, then what it cost and what was not judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from leakline.present.export.samples import all_reports, samples
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
    from leakline.model.heap import PathStep, Why

Line = tuple[str, str]  # text, and the name of its style
_MOST_FRAMES = 24

VERDICTS = {
    "definite": "lost for good",
    "possible": "possibly lost",
    "outstanding": "allocated, not freed yet",
    "reachable": "still reachable",
    "growing": "growing",
    "indirect": "lost with another block",
}


def describe_reports(reports: Sequence[Report], most: int) -> Iterator[Line]:
    """All lines of a text report. Of children those that have findings, and how many have none."""
    for number, report in enumerate(reports):
        if number:
            yield "", ""
        yield from _describe(report, most)


def in_one_line(reports: Sequence[Report]) -> str:
    """`2 findings: definite 2,000 bytes in 20 blocks, possible 1,500 bytes in 5 blocks; first kinds.c:17; 1 suppressed`."""
    found = samples(reports)
    families = list(all_reports(reports))
    since = ", new since the baseline" if found and any(report.known for report in families) else ""
    line = f"{counted(len(found), 'finding') if found else 'no findings'}{since}"
    sums: dict[str, tuple[int, int]] = {}
    for sample in found:
        size, blocks = sums.get(sample.kind, (0, 0))
        sums[sample.kind] = (size + sample.finding.bytes, blocks + sample.finding.blocks)
    kinds = [
        f"{kind} {exact_bytes(size)}" + (f" in {counted(blocks, 'block')}" if blocks else "")
        for kind, (size, blocks) in sums.items()
    ]
    if kinds:
        line += f": {', '.join(kinds)}"
    first = next((sample.finding for sample in found if sample.finding.location is not None), None)
    if first is not None and first.location is not None:
        line += f"; first {place(first.location, first.stack)}"
    return line + _known_in_one_line(families)


def _known_in_one_line(reports: Sequence[Report]) -> str:
    rules = [rule for report in reports for rule in report.suppressed]
    line = ""
    if rules:
        size, blocks = sum(rule.bytes for rule in rules), sum(rule.blocks for rule in rules)
        line = f"; suppressed {exact_bytes(size)} in {counted(blocks, 'block')}"
    baselines = [report.known for report in reports if report.known is not None]
    if baselines:
        grown = sum(len(known.grown) for known in baselines)
        line += f"; {sum(known.findings for known in baselines):,} known" + (f", {grown:,} of them grown" if grown else "")
    return line


def _describe(report: Report, most: int) -> Iterator[Line]:
    target = report.target
    who = "this machine" if target is None else f"{printable(target.command)} (pid {target.pid})"
    if target is not None and target.command == "?":
        who = f"process {target.pid}"
    yield f"{who}: {headline(report)}", "headline"
    for finding in report.findings[:most]:
        yield "", ""
        yield from _finding(finding)
    left_out = len(report.findings) - most
    if left_out > 0:
        yield f"  and {counted(left_out, 'finding')} more (--limit)", "dim"
    if report.why is not None:
        yield "", ""
        yield from _why(report.why)
    yield "", ""
    yield from _tail(report)
    yield from _children(report.children, most)


def _children(children: Sequence[Report], most: int) -> Iterator[Line]:
    """Those with something to say in full, the others counted."""
    found = [child for child in children if child.findings or (child.known is not None and child.known.grown)]
    unseen = [child for child in children if child.summary.definite is None and child not in found]
    for child in found[:most]:
        yield "", ""
        yield from _describe(child, most)
    if len(found) > most:
        yield f"  and {len(found) - most:,} more processes with findings (--limit)", "dim"
    quiet = len(children) - len(found) - len(unseen)
    if quiet:
        yield f"  children: {quiet:,} without a leak", ""
    whys: dict[str, list[str]] = {}
    for child in unseen:
        name = "?" if child.target is None else f"{printable(child.target.command)} ({child.target.pid})"
        whys.setdefault(child.not_judged[0].why if child.not_judged else "it was not looked at", []).append(name)
    for why, names in whys.items():
        shown = ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
        yield f"  not judged: {shown}: {printable(why)}", "warning"


def _kernel_headline(report: Report) -> str:
    if not report.findings:
        return "nothing in the kernel was seen to grow"
    first = report.findings[0]
    where = "by a caller that is not known" if first.location is None else f"at {place(first.location, first.stack)}"
    words = {"definite": "the kernel loses what is allocated", "growing": "the kernel holds ever more of what is allocated"}
    more = "" if len(report.findings) == 1 else f", and {counted(len(report.findings) - 1, 'other finding')}"
    return f"{words.get(first.kind, 'the kernel holds what was allocated')} {where}{more}"


def headline(report: Report) -> str:
    """The answer in a few words: `leaks at leak-example.c:6`."""
    if report.target is None:
        return _kernel_headline(report)
    definite = [f for f in report.findings if f.kind == "definite"]
    if not definite:
        grows = next((f for f in report.findings if f.kind == "growing" and f.location is not None), None)
        if report.summary.definite is None and grows is not None and grows.location is not None:
            return f"grows at {place(grows.location, grows.stack)}"
        if report.summary.definite is None:
            return "the heap was not looked at"
        if report.findings:
            return "no proof of a leak"
        if report.suppressed or (report.known is not None and report.known.findings):
            return "nothing but what is known"
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
    verdict = VERDICTS[finding.kind]
    kind = "" if verdict == finding.kind else f" ({finding.kind})"
    yield f"    {verdict}{kind}, {finding.confidence} confidence{inferred}", ""
    size = f"    {exact_bytes(finding.bytes)} " + (
        "more" if finding.kind == "growing" or not finding.blocks else f"in {counted(finding.blocks, 'block')}"
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
    for number, (function, frame) in enumerate(zip(functions[:_MOST_FRAMES], finding.stack, strict=False)):
        yield f"    {'stack' if number == 0 else '     '}   {function:<{column}}  {frame_place(frame)}", "dim"
    if len(functions) > _MOST_FRAMES:
        yield f"            and {len(functions) - _MOST_FRAMES} more frames (--json)", "dim"
    build_ids = {f"{frame.module} {frame.build_id}" for frame in finding.stack[:1] if frame.line is None and frame.build_id}
    for name in sorted(build_ids):
        yield f"    no line table for {printable(name)}: install its debug package to see lines", "dim"


def _why(why: Why) -> Iterator[Line]:
    if why.address is None:
        state = "in a block that is free" if why.kind == "free" else "in no block of the heap"
        yield f"  {why.asked:#x} is {state}", ""
        return
    inside = why.asked - why.address
    where = f"{why.asked:#x} is {f'{inside} bytes into' if inside else ''} the block at {why.address:#x}".replace("is  ", "is ")
    if why.root is None:
        yield f"  {where}, which no root leads to ({why.kind})", ""
        if not why.referrers:
            yield "    nothing points to it", ""
        for step in why.referrers:
            yield f"    {step.held_at - step.address if step.held_at else 0} bytes into {_block(step)} is a pointer to it", ""
        return
    yield f"  {where}, which is held ({why.kind}) by {printable(why.root)}", ""
    for step, following in zip(why.path, (*why.path[1:], None), strict=True):
        held = "a register" if step.held_at is None else f"{step.held_at:#x}"
        inside_of = ", into its middle," if step.interior else ""
        yield f"    {held} points{inside_of} to {_block(step)}{'' if following else ', which is the one'}", ""


def _block(step: PathStep) -> str:
    kind = f", {printable(step.type)}" if step.type else ""
    return f"the block at {step.address:#x} ({step.size} bytes{kind})"


def _kind(total: KindTotal | None, name: str) -> str:
    return f"{name} -" if total is None else f"{name} {amount(total.bytes)} in {counted(total.blocks, 'block')}"


def _left_out(report: Report) -> Iterator[Line]:
    for rule in report.suppressed:
        size = f"{exact_bytes(rule.bytes)} in {counted(rule.blocks, 'block')}"
        yield f"  suppressed: {size} by {printable(rule.rule)} ({printable(rule.source)})", "dim"
    known = report.known
    if known is None:
        return
    size = f"{exact_bytes(known.bytes)} in {counted(known.blocks, 'block')}"
    yield f"  known: {counted(known.findings, 'finding')} of the baseline left out, {size}", "dim"
    for grown in known.grown:
        where = grown.fingerprint if grown.location is None else place(grown.location)
        before, now = (f"{exact_bytes(of.bytes)} in {counted(of.blocks, 'block')}" for of in (grown.before, grown.now))
        yield f"  grown since the baseline: {where}, from {before} to {now}", "warning"


def _tail(report: Report) -> Iterator[Line]:
    s = report.summary
    if s.definite is not None:
        parts = [
            _kind(s.definite, "definite"),
            _kind(s.indirect, "indirect"),
            _kind(s.possible, "possible"),
            _kind(s.reachable, "reachable"),
        ]
        yield f"  {'kernel' if report.target is None else 'heap'}: {'; '.join(parts)}", ""
    if report.retained_free.bytes is not None:
        yield f"  free, but kept by the allocator: {amount(report.retained_free.bytes)}, which is no leak", ""
    for gap in report.not_judged:
        size = "" if gap.bytes is None else f", {amount(gap.bytes)}"
        share = "" if gap.share is None else f" ({percent(gap.share)} of the process)"
        yield f"  not judged: {printable(gap.name)}{size}{share}: {printable(gap.why)}", "warning"
    yield from _left_out(report)
    cost = report.cost
    if not cost.duration_ns:  # of a log that somebody else made
        return
    stood = f"the target stood still for {duration(cost.target_stopped_ns)} in all; " if cost.target_stopped_ns else ""
    yield f"  cost: {stood}{duration(cost.duration_ns)} altogether", "dim"
    if cost.agent is not None:
        agent, memory = cost.agent, amount(cost.agent.memory_bytes)
        seen = f"{counted(agent.allocations, 'allocation')}, the stack known already for {agent.memo_hits:,}"
        waited = "" if agent.held_at_end_ns is None else f"; its end waited {duration(agent.held_at_end_ns)} for the check"
        yield f"  agent: {seen}; {memory} of tables{waited}", "dim"
