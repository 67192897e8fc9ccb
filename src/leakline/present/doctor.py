"""`leakline doctor` as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from leakline.present.text import printable

if TYPE_CHECKING:
    from leakline.model.capability import DoctorReport


def describe_doctor(report: DoctorReport) -> Iterator[tuple[str, str]]:
    """One line for each mechanism, and one with the remedy for each that does not work."""
    who = "root" if report.uid == 0 else f"user {report.uid}"
    on = "" if report.target is None else f", on process {report.target}"
    yield (
        f"leakline {report.version}, Linux {printable(report.kernel)} {printable(report.machine)}, as {who}{on}",
        "headline",
    )
    column = max(len(c.name) for c in report.capabilities)
    for c in report.capabilities:
        word, style = ("works", "good") if c.works else ("not here", "warning")
        yield f"  {c.name:<{column}}  {word:<8}  {printable(c.detail)}", style
        if not c.works:
            if c.used_by:
                yield f"  {'':<{column}}            costs: {', '.join(c.used_by)}", "dim"
            if c.remedy is not None:
                yield f"  {'':<{column}}            to get it: {printable(c.remedy)}", "dim"
