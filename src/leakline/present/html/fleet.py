"""A fleet's judgement as one HTML file, without any script."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from leakline.present.fleet import NOTEWORTHY, daily, rollout_in_words, service_in_words, when
from leakline.present.html.page import asset, content_hash, require_jinja, trusted
from leakline.present.html.payload import name_of, prose
from leakline.present.text import change, counted
from leakline.present.trends import long_time, probability_text

if TYPE_CHECKING:
    from jinja2 import Template

    from leakline.model.fleet import FleetReport, FleetTrend, RolloutTrend

_MOST_CARDS, _MOST_PANELS, _MOST_ROWS = 5, 60, 500
_WIDTH, _HEIGHT = 260, 60
_LEAST_SPAN = 65536.0
_STYLE = """
.panels.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr))}
.floors{display:block;width:100%;height:4.5rem}
.floors path{fill:none;stroke:var(--c0);stroke-width:2;vector-effect:non-scaling-stroke}
.floors .limit{stroke:var(--leak);stroke-width:1;stroke-dasharray:5 4}
"""


class _Drawn(NamedTuple):
    path: str
    limit: str | None
    """The limit's height, where it is near enough to be seen."""


def fleet_page(report: FleetReport, version: str) -> str:
    """The whole file.

    Args:
        report: the judgement.
        version: leakline's.

    Raises:
        NotPossible: jinja2 is not installed.

    """
    require_jinja()
    style = asset("page.css") + _STYLE
    noteworthy = [one for one in report.services if one.verdict in NOTEWORTHY or one.at_risk]
    rollouts = list(report.rollouts)
    length = max(report.end - report.start, 1e-9)

    def began(one: RolloutTrend) -> float:
        return 0.0 if one.since is None else 120 * (one.since - report.start) / length

    return _template().render(
        report=report,
        policy=f"default-src 'none'; style-src '{content_hash(style)}'; base-uri 'none'; form-action 'none'",
        style=trusted(style),
        version=version,
        begun=[one for one in rollouts if one.begins],
        rollouts=rollouts,
        worst=noteworthy[:_MOST_PANELS],
        suspects=len(noteworthy),
        sure=sum(one.discovered for one in report.services),
        partial=list(dict.fromkeys(report.coverage.partial))[:_MOST_CARDS],
        counts=Counter(one.verdict for one in report.services).most_common(),
        most_cards=_MOST_CARDS,
        most_rows=_MOST_ROWS,
        began=began,
        draw=_draw,
        when=when,
        rollout_in_words=rollout_in_words,
        service_in_words=service_in_words,
        probability=probability_text,
        counted=counted,
        change=change,
        rate=daily,
        long=long_time,
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(name=name_of, prose=prose)
    return environment.from_string(asset("fleet.html.j2"))


def _draw(one: FleetTrend) -> _Drawn:
    """Floors as a path: a gap where there was nothing."""
    known = [value for value in one.floors if value is not None and math.isfinite(value)]
    if not known:
        return _Drawn("", None)
    least, most = min(known), max(known)
    near = one.limit is not None and least <= one.limit <= most + 3 * max(most - least, _LEAST_SPAN)
    top = max(most, float(one.limit)) if near and one.limit is not None else most
    span = max(top - least, _LEAST_SPAN)

    def height(value: float) -> str:
        return f"{_HEIGHT - 4 - (value - least) / span * (_HEIGHT - 8):.1f}"

    step = _WIDTH / max(len(one.floors) - 1, 1)
    path, pen = [], "M"
    for place, value in enumerate(one.floors):
        if value is None:
            pen = "M"
            continue
        path.append(f"{pen}{place * step:.0f} {height(value)}")
        pen = "L"
    return _Drawn("".join(path), height(float(one.limit)) if near and one.limit is not None else None)
