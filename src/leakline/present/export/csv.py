"""Findings as a table for spreadsheets and scripts (RFC 4180, with bare line feeds)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from leakline.model.finding import Report
from leakline.present.export.samples import Sample, frame_name, samples
from leakline.present.text import printable

COLUMNS = (
    *("pid", "command", "kind", "confidence", "bytes", "blocks", "indirect_bytes", "indirect_blocks", "rate_bytes_per_second"),
    *("subject_type", "subject", "function", "file", "line", "location_is", "fingerprint", "stack", "evidence"),
)


def to_csv(reports: Sequence[Report]) -> str:
    """One row for each finding; an unknown value is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for sample in samples(reports):
        writer.writerow([_cell(value) for value in _row(sample)])
    return out.getvalue()


def _row(sample: Sample) -> tuple[object, ...]:
    finding, target, location = sample.finding, sample.report.target, sample.finding.location
    return (
        None if target is None else target.pid,
        None if target is None else target.command,
        finding.kind,
        finding.confidence,
        finding.bytes,
        finding.blocks,
        finding.indirect_bytes,
        finding.indirect_blocks,
        finding.rate_bytes_per_second,
        finding.subject.type,
        finding.subject.name,
        None if location is None else location.function,
        None if location is None else location.file,
        None if location is None else location.line,
        finding.location_is,
        finding.fingerprint,
        " < ".join(map(frame_name, finding.stack)),
        "; ".join(evidence.text for evidence in finding.evidence),
    )


def _cell(value: object) -> object:
    """A spreadsheet takes a text that begins so for a formula (OWASP, "CSV Injection")."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
