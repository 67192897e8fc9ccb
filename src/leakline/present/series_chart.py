"""Series as pictures: samples, floors, the likeliest shape, where it goes from there, and the limit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from leakline.model.trend import Series, SeriesTrend, TrendCurve
from leakline.present.text import amount, printable
from leakline.present.trends import explain

_WIDTH, _PANEL = 900, 345
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 20, 81, 44
_COLORS = {"LEAK": "#b3261e", "GROWING": "#8e24aa", "UNDECIDED": "#8a6d00"}
_AHEAD = 0.2
"""How far the growth is drawn on, as a share of the time that was seen."""
_MOST_POINTS = 1500
_LONGEST_TEXT = 140
_LEAST_RANGE = 32768.0
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800, 2592000)


class Panel(NamedTuple):
    """One series to draw."""

    series: Series
    trend: SeriesTrend
    curve: TrendCurve | None


class _Axes(NamedTuple):
    first: float
    last: float
    low: float
    high: float
    top: float

    def x(self, time: float) -> float:
        return _LEFT + (time - self.first) / (self.last - self.first) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.top + _TOP + (1 - share) * (_PANEL - _TOP - _BOTTOM)


def series_svg(panels: Sequence[Panel], title: str) -> str:
    """A picture of its own with a panel for each series, one below the other."""
    height = 46 + _PANEL * len(panels)
    name = escape(printable(title))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'font-family="DejaVu Sans, Liberation Sans, Arial, sans-serif" font-size="12" fill="#222">'
        f'<title>{name}</title><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="20" y="30" font-size="17" font-weight="bold">{name}</text>'
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, 46.0 + _PANEL * number)
    return "".join([*parts, "</svg>\n"])


def _panel(panel: Panel, top: float) -> Iterator[str]:
    series, trend, curve = panel
    points = [(t, v) for t, v in zip(series.times, series.values, strict=True) if math.isfinite(t) and math.isfinite(v)]
    axes = _axes(panel, points, top)
    color = _COLORS.get(trend.verdict, "#2e7d32")
    risk = "AT-RISK " if trend.at_risk else ""
    yield _text(20, top + 18, printable(series.name), 'font-size="14" font-weight="bold"')
    yield _text(_WIDTH - _RIGHT, top + 18, risk + trend.verdict, f'text-anchor="end" font-weight="bold" fill="{color}"')
    for place, line in enumerate(_wrapped(explain(trend))[:3]):
        yield _text(20, top + 36 + 15 * place, line, 'font-size="11" fill="#555"')
    yield from _grid(axes)
    if trend.limit is not None and trend.limit <= axes.high:
        yield _line([(axes.first, trend.limit), (axes.last, trend.limit)], axes, "#b3261e", 1.5, "6 4")
        at = axes.y(trend.limit) + 14
        yield _text(_WIDTH - _RIGHT - 4, at, f"limit {amount(trend.limit)}", 'text-anchor="end" fill="#b3261e"')
    yield _line(_thinned(points), axes, "#7f8c9b", 1.0)
    if curve is not None:
        yield from _ahead(trend, curve, axes, color)
        yield "".join(
            f'<circle cx="{axes.x(t):.1f}" cy="{axes.y(v):.1f}" r="3" fill="{color}"><title>floor {amount(v)}</title></circle>'
            for t, v in zip(curve.times, curve.floors, strict=True)
        )
        yield _line(list(zip(curve.times, curve.curve, strict=True)), axes, color, 2.0)
    yield _key(trend, curve, axes, color)


def _axes(panel: Panel, points: Sequence[tuple[float, float]], top: float) -> _Axes:
    series, trend, curve = panel
    times, values = [t for t, _ in points] or [0.0], [v for _, v in points] or [0.0]
    values += curve.curve if curve is not None else ()
    seen = max(times) - min(times) or 1.0
    ahead = _AHEAD * seen if _goes_on(trend, curve) else 0.0
    if ahead and trend.rate_interval is not None and curve is not None:
        values.append(curve.curve[-1] + trend.rate_interval[1] * ahead)
    low, high = min(values), max(values)
    if series.limit is not None and series.limit <= high + 2 * (high - low):
        high = max(high, series.limit)
    if high - low < _LEAST_RANGE:
        low, high = low - _LEAST_RANGE / 2, high + _LEAST_RANGE / 2
    room = (high - low) * 0.06
    return _Axes(min(times), min(times) + seen + ahead, max(0.0, low - room), high + room, top)


def _goes_on(trend: SeriesTrend, curve: TrendCurve | None) -> bool:
    return curve is not None and trend.rate_interval is not None and trend.rate_bytes_per_second is not None


def _ahead(trend: SeriesTrend, curve: TrendCurve, axes: _Axes, color: str) -> Iterator[str]:
    """The rate and its interval, from the last floor on."""
    if trend.rate_interval is None or trend.rate_bytes_per_second is None:
        return
    time, value = curve.times[-1], curve.curve[-1]
    low, high = (value + rate * (axes.last - time) for rate in trend.rate_interval)
    corners = " ".join(f"{axes.x(t):.1f},{axes.y(v):.1f}" for t, v in ((time, value), (axes.last, low), (axes.last, high)))
    yield f'<polygon points="{corners}" fill="{color}" opacity="0.15"/>'
    yield _line([(time, value), (axes.last, value + trend.rate_bytes_per_second * (axes.last - time))], axes, color, 1.5, "4 3")


def _grid(axes: _Axes) -> Iterator[str]:
    bottom = axes.y(axes.low)
    for value in _ticks(axes.low, axes.high):
        y = axes.y(value)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e6ea"/>'
        yield _text(_LEFT - 8, y + 4, amount(value), 'text-anchor="end" fill="#555"')
    span = axes.last - axes.first
    step = next((step for step in _STEPS if span / step <= 8), _STEPS[-1])
    count = int(span / step) + 1
    for number in range(0, count, max(1, count // 12)):
        x = axes.x(axes.first + number * step)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:.1f}" y2="{bottom + 4:.1f}" stroke="#888"/>'
        yield _text(x, bottom + 18, _elapsed(number * step), 'text-anchor="middle" fill="#555"')
    yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom:.1f}" y2="{bottom:.1f}" stroke="#888"/>'


def _key(trend: SeriesTrend, curve: TrendCurve | None, axes: _Axes, color: str) -> str:
    """Which line is what."""
    y, x = axes.y(axes.low) + 34, float(_LEFT)
    entries = [("#7f8c9b", "samples")]
    if curve is not None:
        entries += [(color, "dots: floors of the judged blocks"), (color, f"line: likeliest shape ({curve.family})")]
        if _goes_on(trend, curve):
            entries.append((color, "dashed: rate, 90 % interval"))
    parts = []
    for shade, text in entries:
        parts.append(f'<rect x="{x:.0f}" y="{y - 8:.1f}" width="10" height="8" fill="{shade}"/>')
        parts.append(_text(x + 14, y, text, 'font-size="11" fill="#555"'))
        x += 28 + 5.7 * len(text)
    return "".join(parts)


def _text(x: float, y: float, text: str, look: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Round amounts, three to eight of them."""
    step = 1024.0
    while (high - low) / step > 6:
        step *= 2
    while (high - low) / step < 2 and step > 1:
        step /= 2
    first = math.ceil(low / step)
    return [step * number for number in range(first, int(high / step) + 1)]


def _elapsed(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _line(points: Sequence[tuple[float, float]], axes: _Axes, color: str, width: float, dashes: str = "") -> str:
    path = " ".join(f"{axes.x(t):.1f},{axes.y(v):.1f}" for t, v in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"{dashed}/>'


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of each stretch its lowest and its highest: more points than a screen has would draw the same."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / _MOST_POINTS)
    found: list[tuple[float, float]] = []
    for first in range(0, len(points), size):
        part = points[first : first + size]
        found += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return found


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) >= _LONGEST_TEXT:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines
