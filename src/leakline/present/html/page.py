"""A page as one HTML file: template, style, script and data in one, with a policy that lets nothing else in.

The policy (https://www.w3.org/TR/CSP3/) names style and script by their hashes: an element that somebody's name brought in would
neither run nor be fetched, if the escaping, which comes first, ever failed.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from leakline.errors import NotPossible
from leakline.present.export.samples import all_reports, process_name
from leakline.present.findings import VERDICTS
from leakline.present.html.advice import READING, what_to_do
from leakline.present.html.cards import MOST_CARDS, cards_of, ranked
from leakline.present.html.payload import (
    embedded,
    fault_data,
    flame_data,
    map_data,
    name_of,
    process_title,
    prose,
    series_data,
    spark,
    stack_data,
)
from leakline.present.text import (
    amount,
    change,
    clock_time,
    counted,
    duration,
    exact_bytes,
    frame_function,
    frame_place,
    percent,
    place,
    rate,
)
from leakline.present.trends import explain, long_time, probability_text

if TYPE_CHECKING:
    from jinja2 import Template

    from leakline.model.finding import Finding, Report
    from leakline.model.page import DrawnSeries, Page, PageRecording, SourceExcerpt
    from leakline.model.stack import SourceLocation

_NOTHING_ELSE = "default-src 'none'; base-uri 'none'; form-action 'none'"
_SCRIPTS = ("core.js", "lines.js", "stacks.js", "flame.js", "treemap.js", "page.js")
_MOST_FINDINGS, _MOST_FAULTS, _MOST_LARGE, _MOST_ROWS, _MOST_REASONS = 100, 40, 6, 200, 20


class _Row(NamedTuple):
    """One series in the table."""

    number: int
    drawn: DrawnSeries
    spark: str


class _Recorded(NamedTuple):
    """One recording, as the template takes it."""

    recording: PageRecording
    rows: list[_Row]
    large: list[_Row]
    """Those with a chart of their own."""
    compositions: list[int]
    system: int | None
    slabs: int | None


class _Told(NamedTuple):
    """One finding, as the template takes it."""

    report: Report
    finding: Finding
    process: str
    excerpt: SourceExcerpt | None
    advice: str


def require_jinja() -> None:
    """Check that there is what it takes, before something long begins.

    Raises:
        NotPossible: jinja2 is not installed.

    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise NotPossible("an HTML report takes the library jinja2", hint="pip install 'leakline[report]'") from error


def render(page: Page, version: str) -> bytes:
    """The whole file.

    Args:
        page: what to show.
        version: leakline's.

    Raises:
        NotPossible: jinja2 is not installed.

    """
    require_jinja()
    payload: dict[str, Any] = {"series": [], "stacks": [], "maps": [map_data(table) for table in page.mappings]}
    about = frozenset(process_name(report) for report in all_reports(page.reports) if report.findings)
    recorded = [_recorded(recording, payload, about) for recording in page.recordings]
    flame = flame_data(page.reports)
    if flame is not None:
        payload["flame"] = flame
    faults = [(report, _stack(payload, fault_data(report))) for report in page.faults]
    told = [_told(page, report, finding) for report, finding in ranked(page.reports)]
    style, script = _style_and_script()
    cards = cards_of(page)
    html = _template().render(
        page=page,
        policy=f"{_NOTHING_ELSE}; script-src '{content_hash(script)}'; style-src '{content_hash(style)}'",
        style=trusted(style),
        script=trusted(script),
        payload=trusted(embedded(payload)),
        made=datetime.fromtimestamp(page.made).astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=version,
        cards=cards[:MOST_CARDS],
        more_cards=cards[MOST_CARDS:],
        findings=told[:_MOST_FINDINGS],
        findings_left_out=max(0, len(told) - _MOST_FINDINGS),
        recorded=recorded,
        flame=flame,
        maps=list(enumerate(page.mappings)),
        faults=faults,
        most_faults=_MOST_FAULTS,
        most_rows=_MOST_ROWS,
        most_reasons=_MOST_REASONS,
        payload_stacks=payload["stacks"],
        reports=list(all_reports(page.reports)),
        reading=READING,
        verdicts=VERDICTS,
        place=place,
        frame_function=frame_function,
        frame_place=frame_place,
        process_name=process_title,
        counted=counted,
        excerpt_at=lambda where: _excerpt_at(page, where),
        clock_time=clock_time,
        explain=explain,
        probability=probability_text,
    )
    return html.encode("utf-8", "backslashreplace")


@cache
def _template() -> Template:
    """Compiled once: that takes longer than to fill it."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        name=name_of,
        prose=prose,
        base=_base,
        amount=amount,
        exact=exact_bytes,
        change=change,
        rate=rate,
        percent=percent,
        long=long_time,
        duration=duration,
    )
    return environment.from_string(asset("page.html.j2"))


@cache
def _style_and_script() -> tuple[str, str]:
    return asset("page.css"), '"use strict";(() => {\n' + "".join(asset(name) for name in _SCRIPTS) + "})();\n"


def asset(name: str) -> str:
    """A file of ours that becomes part of a page."""
    return resources.files("leakline.present.html").joinpath("assets", name).read_text("utf-8")


def _base(name: str) -> str:
    """Of a path its last part."""
    return name.rpartition("/")[2] or name if name.startswith("/") else name


def content_hash(text: str) -> str:
    """As a policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def trusted(text: str) -> str:
    """Our own text, which is not escaped; `embedded` has made the data harmless."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704


def _stack(payload: dict[str, Any], data: dict[str, Any] | None) -> int | None:
    if data is None:
        return None
    payload["stacks"].append(data)
    return len(payload["stacks"]) - 1


def _recorded(recording: PageRecording, payload: dict[str, Any], told: frozenset[str]) -> _Recorded:
    rows = []
    for drawn in recording.series:
        rows.append(_Row(len(payload["series"]), drawn, spark(drawn)))
        payload["series"].append(series_data(drawn))
    return _Recorded(
        recording,
        rows,
        _large(rows, told),
        [number for one in recording.compositions if (number := _stack(payload, stack_data(one))) is not None],
        _stack(payload, None if recording.system is None else stack_data(recording.system)),
        _stack(payload, None if recording.slabs is None else stack_data(recording.slabs)),
    )


def _large(rows: list[_Row], told: frozenset[str]) -> list[_Row]:
    """The processes that findings are about, then what may grow, processes before what they are made of; else the first."""
    about = [row for row in rows if row.drawn.trend.name in told]
    suspects = [row for row in rows if row not in about and (row.drawn.trend.is_noteworthy or row.drawn.trend.at_risk)]
    suspects.sort(key=lambda row: row.drawn.kind != "process")
    return (about + suspects or rows)[: _MOST_LARGE if about or suspects else 1]


def _excerpt_at(page: Page, where: SourceLocation | None) -> SourceExcerpt | None:
    return None if where is None or where.file is None or where.line is None else page.excerpts.get((where.file, where.line))


def _told(page: Page, report: Report, finding: Finding) -> _Told:
    return _Told(report, finding, process_title(report), _excerpt_at(page, finding.location), what_to_do(finding, report))
