"""Page faults over time by cause, as a picture: stacked columns."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from leakline.present.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leakline.model.faults import FaultReport

_WIDTH, _PANEL = 900, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 20, 74, 40
_MOST_COLUMNS = 200
# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/): a cause has the same one in every picture.
_COLORS = {
    "first-touch": "#009E73",
    "zero-page": "#56B4E9",
    "copy-on-write": "#E69F00",
    "page-cache": "#0072B2",
    "read-from-disk": "#D55E00",
    "swap-in": "#882255",
    "userfaultfd": "#CC79A7",
    "write-notify": "#F0E442",
    "numa": "#44AA99",
    "spurious": "#999999",
    "unknown": "#555555",
}
_STEPS = (1, 2, 5)


def faults_svg(reports: Sequence[FaultReport]) -> str:
    """A picture of its own with a panel for each process."""
    height = 46 + _PANEL * len(reports)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'font-family="DejaVu Sans, Liberation Sans, Arial, sans-serif" font-size="12" fill="#222">'
        '<title>page faults over time</title><rect width="100%" height="100%" fill="#fff"/>'
        '<text x="20" y="30" font-size="17" font-weight="bold">Page faults over time, by cause</text>'
    ]
    for number, report in enumerate(reports):
        parts += _panel(report, 46.0 + _PANEL * number)
    return "".join([*parts, "</svg>\n"])


def _panel(report: FaultReport, top: float) -> Iterator[str]:
    step = max(1, -(-len(report.timeline) // _MOST_COLUMNS))
    columns = [_summed(report, first, step) for first in range(0, len(report.timeline), step)] or [{}]
    causes = [cause for cause in _COLORS if any(column.get(cause) for column in columns)]
    highest = max(1, *(sum(column.values()) for column in columns))
    seconds = report.interval * step
    counts = report.counts
    known = "" if counts.minor is None else f": {counts.minor:,} minor, {counts.major or 0:,} major in {report.seconds:.1f} s"
    yield _text(
        20, top + 16, printable(f"{report.target.command} (pid {report.target.pid})") + known, 'font-size="14" font-weight="bold"'
    )
    yield from _key(report, causes, top + 30)
    low, span = top + _PANEL - _BOTTOM, _PANEL - _TOP - _BOTTOM
    tick = _tick(highest)
    for value in range(0, highest + 1, tick):
        y = low - span * value / highest
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e6ea"/>'
        yield _text(_LEFT - 8, y + 4, f"{value:,}", 'text-anchor="end" fill="#555"')
    width = (_WIDTH - _LEFT - _RIGHT) / len(columns)
    for number, column in enumerate(columns):
        yield from _column(column, causes, _LEFT + width * number, width, low, span / highest, (number * seconds, seconds))
    label = max(1, -(-len(columns) // 10))
    for number in range(0, len(columns) + 1, label):
        yield _text(_LEFT + width * number, low + 18, f"{number * seconds:g} s", 'text-anchor="middle" fill="#555"')
    yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{low}" y2="{low}" stroke="#888"/>'
    yield _text(_LEFT, top + _TOP - 8, f"faults in {seconds:g} s", 'font-size="11" fill="#555"')


def _summed(report: FaultReport, first: int, step: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for moment in report.timeline[first : first + step]:
        for cause, count in moment.counts.items():
            found[cause] = found.get(cause, 0) + count
    return found


def _column(
    column: dict[str, int], causes: Sequence[str], x: float, width: float, low: float, scale: float, when: tuple[float, float]
) -> Iterator[str]:
    gap = min(1.5, width * 0.12)
    begun, seconds = when
    y = low
    for cause in causes:
        count = column.get(cause, 0)
        if count:
            y -= count * scale
            tip = f"{cause}: {count:,} from {begun:g} s to {begun + seconds:g} s"
            yield (
                f'<rect x="{x + gap / 2:.1f}" y="{y:.1f}" width="{width - gap:.1f}" height="{count * scale:.1f}" '
                f'fill="{_COLORS[cause]}"><title>{escape(tip)}</title></rect>'
            )


def _key(report: FaultReport, causes: Sequence[str], y: float) -> Iterator[str]:
    totals = {cause: sum(moment.counts.get(cause, 0) for moment in report.timeline) for cause in causes}
    x = 20.0
    for cause in causes:
        text = f"{cause} {totals[cause]:,}"
        yield f'<rect x="{x:.0f}" y="{y:.1f}" width="11" height="11" fill="{_COLORS[cause]}"/>'
        yield _text(x + 16, y + 10, text, 'fill="#333"')
        x += 34 + 7.0 * len(text)


def _tick(highest: int) -> int:
    """A round number, of which four to eight reach the top."""
    power = 1
    while True:
        for step in _STEPS:
            if highest / (step * power) <= 6:
                return step * power
        power *= 10


def _text(x: float, y: float, text: str, look: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>'
