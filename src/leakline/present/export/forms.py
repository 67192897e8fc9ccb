"""Which formats there are for findings, and what a file's name says about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from leakline.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.model.finding import Report

Form = Literal["text", "json", "csv", "sarif", "folded", "speedscope", "pprof", "svg", "png", "html"]
FORMS: tuple[Form, ...] = get_args(Form)
BINARY: tuple[Form, ...] = ("pprof", "png")
ENDINGS: dict[str, Form] = {
    ".txt": "text",
    ".json": "json",
    ".csv": "csv",
    ".sarif": "sarif",
    ".sarif.json": "sarif",
    ".folded": "folded",
    ".speedscope.json": "speedscope",
    ".pb.gz": "pprof",
    ".pprof": "pprof",
    ".svg": "svg",
    ".png": "png",
    ".html": "html",
}


def form_of(path: Path) -> Form:
    """The format that the end of a file's name asks for; text where it has none.

    Raises:
        InvalidRequest: it has an end that no format has.

    """
    name = path.name.lower()
    known = max((ending for ending in ENDINGS if name.endswith(ending)), key=len, default=None)
    if known is not None:
        return ENDINGS[known]
    if path.suffix and not _is_stream(path):
        raise InvalidRequest(
            f"{path} ends in {path.suffix}, which no format has",
            hint=f"These are known: {' '.join(ENDINGS)}; or say which by --format.",
        )
    return "text"


def _is_stream(path: Path) -> bool:
    return path.exists() and not path.is_file()


def encode(form: Form, reports: Sequence[Report], root: Path, version: str) -> bytes:
    """Findings as a file of another tool.

    Args:
        form: any but `text`, which `describe_reports` makes, and `html`, which a session gathers.
        reports: one for each target; their children come with them.
        root: the folder that paths in SARIF are relative to.
        version: leakline's.

    Raises:
        NotPossible: PNG, without the library that draws it.

    """
    match form:
        case "json":
            from leakline.model.finding import Reports
            from leakline.present.json import to_json

            return to_json(reports[0] if len(reports) == 1 else Reports(targets=tuple(reports))).encode()
        case "csv":
            from leakline.present.export.csv import to_csv

            return to_csv(reports).encode()
        case "sarif":
            from leakline.present.export.sarif import to_sarif

            return to_sarif(reports, root, version).encode()
        case "folded":
            from leakline.present.export.folded import to_folded

            return to_folded(reports).encode()
        case "speedscope":
            from leakline.present.export.speedscope import to_speedscope

            return to_speedscope(reports, version).encode()
        case "pprof":
            from leakline.present.export.pprof import to_pprof

            return to_pprof(reports, version)
        case "svg" | "png":
            from leakline.present.export.flames import to_svg
            from leakline.present.png import png_of

            svg = to_svg(reports)
            return png_of(svg) if form == "png" else svg.encode()
        case "text" | "html":
            raise AssertionError(f"{form} is not made here")
