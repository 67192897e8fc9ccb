"""Findings as weighted stacks, which all formats of profiles are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from leakline.model.finding import Finding, FindingKind, Report
from leakline.model.stack import Frame
from leakline.present.text import printable


@dataclass(frozen=True)
class Sample:
    """One finding, and whose it is."""

    process: str
    """`leak-example (4711)`, or `kernel`."""
    report: Report
    finding: Finding

    @property
    def kind(self) -> FindingKind:
        """Kinds are kept apart: the growth of a mapping and what is lost in it may be the same bytes."""
        return self.finding.kind

    @property
    def bytes(self) -> int:
        """With what hangs on the blocks."""
        return self.finding.bytes + self.finding.indirect_bytes

    @property
    def blocks(self) -> int:
        """With those that hang on them."""
        return self.finding.blocks + self.finding.indirect_blocks


def all_reports(reports: Sequence[Report]) -> Iterator[Report]:
    """Reports, each before its children."""
    waiting = list(reversed(reports))
    while waiting:
        report = waiting.pop()
        yield report
        waiting.extend(reversed(report.children))


def samples(reports: Sequence[Report]) -> list[Sample]:
    """All findings, those of children too."""
    return [
        Sample(process=process_name(report), report=report, finding=finding)
        for report in all_reports(reports)
        for finding in report.findings
    ]


def process_name(report: Report) -> str:
    """`leak-example (4711)`."""
    target = report.target
    return "kernel" if target is None else f"{printable(target.command)} ({target.pid})"


def frame_name(frame: Frame) -> str:
    """The function; where it is unknown, module and address."""
    module = frame.module or "unknown"
    return printable(frame.function or (module if frame.address is None else f"{module}+{frame.address:#x}"))


def without_stack(finding: Finding) -> str:
    """What stands in for the stack of a finding that has none."""
    name = printable(finding.subject.name)
    return f"{name}, allocated by an unknown caller" if finding.subject.type == "heap" else f"{finding.subject.type} {name}"


def frame_lines(stack: Sequence[Frame]) -> Iterator[tuple[Frame, ...]]:
    """The frames of a stack by machine address, innermost first: what was inlined, and last the function that holds it."""
    inlined: list[Frame] = []
    for frame in stack:
        inlined.append(frame)
        if not frame.inlined:
            yield tuple(inlined)
            inlined = []
    if inlined:
        yield tuple(inlined)
