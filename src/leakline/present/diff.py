"""What changed between two files of findings, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.present.text import counted, exact_bytes, place, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leakline.model.diff import DiffReport, FindingChange
    from leakline.model.finding import KindTotal

Line = tuple[str, str]  # text, and the name of its style

_TITLES = {"new": "new", "grown": "grown", "shrunk": "smaller", "gone": "gone", "same": "the same"}
_STYLES = {"new": "definite", "grown": "warning"}


def describe_diff(report: DiffReport, most: int, *, everything: bool) -> Iterator[Line]:
    """All lines: the sum first, then each change."""
    yield f"{printable(report.before)} to {printable(report.after)}: {_sum(report)}", "headline"
    for change, title in _TITLES.items():
        group = [one for one in report.changes if one.change == change]
        if not group or (change == "same" and not everything):
            continue
        yield "", ""
        yield f"  {title}", ""
        for one in group[:most]:
            yield f"    {_change(one)}", _STYLES.get(change, "")
        if len(group) > most:
            yield f"    and {len(group) - most:,} more (--limit)", "dim"
    for gap in report.not_judged:
        yield f"  not judged: {printable(gap)}", "warning"


def _sum(report: DiffReport) -> str:
    if not report.differs:
        return f"nothing has changed in {counted(len(report.changes), 'finding')}"
    counts = {title: sum(one.change == change for one in report.changes) for change, title in _TITLES.items()}
    parts = [f"{count:,} {title}" for title, count in counts.items() if count]
    sign = "+" if report.bytes > 0 else ""
    return f"{', '.join(parts)}; {sign}{exact_bytes(report.bytes)} in {report.blocks:+,} blocks".replace("in +0 blocks", "in all")


def _change(one: FindingChange) -> str:
    where = one.fingerprint if one.location is None else place(one.location, one.stack)
    function = f"  in {printable(one.location.function)}" if one.location and one.location.function and one.location.line else ""
    program = "the kernel" if one.command is None else printable(one.command)
    if one.before is None or one.after is None:
        return f"{where}{function}: {one.kind}, {_amount(one.after or one.before)} ({program})"
    return f"{where}{function}: {one.kind}, {_amount(one.before)} -> {_amount(one.after)} ({program})"


def _amount(total: KindTotal | None) -> str:
    return "-" if total is None else f"{exact_bytes(total.bytes)} in {counted(total.blocks, 'block')}"
