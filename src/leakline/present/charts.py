"""Bars and pies: in the terminal, and as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from leakline.present.text import amount, printable

Span = tuple[str, str]
# Okabe and Ito's colours, which most colour-blind people can tell apart (https://jfly.uni-koeln.de/color/), and grey for the rest.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#882255", "#44AA99")
_GREY = "#999999"
_GLYPHS = "█▓▒░#*+=o"
_EIGHTHS = " ▏▎▍▌▋▊▉"
_OTHERS = "others"
_LONGEST_LABEL = 32


@dataclass(frozen=True)
class Chart:
    """What is drawn: one amount in bytes, or several, for each name."""

    title: str
    measures: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int | None, ...]], ...]
    """Name and amounts, the largest first; None is unknown."""


def make_chart(title: str, measures: Sequence[str], rows: Sequence[tuple[str, Sequence[int | None]]], most: int) -> Chart:
    """A chart of rows, the largest first; those beyond the most become one. What is unknown is not drawn."""
    known = [(printable(name), tuple(values)) for name, values in rows if any(v is not None for v in values)]
    known.sort(key=lambda row: [-math.inf if v is None else v for v in row[1]], reverse=True)
    head, rest = known[:most], known[most:]
    if len(rest) == 1:
        head, rest = known, []
    if rest:
        sums = [[v for _, values in rest if (v := values[i]) is not None] for i in range(len(measures))]
        head.append((f"{len(rest)} {_OTHERS}", tuple(sum(known) if known else None for known in sums)))
    return Chart(title, tuple(measures), tuple(head))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL // 2 - 1]}…{name[-_LONGEST_LABEL // 2 :]}"


def _is_rest(chart: Chart, index: int) -> bool:
    return index == len(chart.rows) - 1 and chart.rows[index][0].endswith(f" {_OTHERS}")


def _color(chart: Chart, index: int) -> str:
    return _GREY if _is_rest(chart, index) else _COLORS[index % len(_COLORS)]


def bar_lines(chart: Chart, width: int) -> Iterator[list[Span]]:
    """Horizontal bars, an eighth of a cell exact."""
    labels = [_short(name) for name, _ in chart.rows]
    texts = [[amount(value) for value in values] for _, values in chart.rows]
    label_width = max(map(len, labels), default=0)
    text_width = max((len(text) for row in texts for text in row), default=0)
    room = max(10, width - label_width - text_width - 3)
    largest = max((value or 0 for _, values in chart.rows for value in values), default=0)
    yield [(f"{chart.title}: {', '.join(chart.measures)}", "headline")]
    if len(chart.measures) > 1:
        yield [
            span for i, name in enumerate(chart.measures) for span in ((f"{'█'} ", _COLORS[i % len(_COLORS)]), (f"{name}  ", ""))
        ]
    for label, (_, values), row in zip(labels, chart.rows, texts, strict=True):
        for i, (value, text) in enumerate(zip(values, row, strict=True)):
            eighths = round(8 * room * value / largest) if value is not None and largest > 0 and value > 0 else 0
            bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
            yield [
                (f"{label if i == 0 else '':<{label_width}} ", ""),
                (f"{text:>{text_width}} ", ""),
                (bar, _COLORS[i % len(_COLORS)]),
            ]


def pie_lines(chart: Chart, width: int) -> Iterator[list[Span]]:
    """A circle of glyphs, and what each slice is beside it. A slice is the first measure; what is not positive has none."""
    slices = [(i, name, values[0]) for i, (name, values) in enumerate(chart.rows) if values[0] is not None and values[0] > 0]
    total = sum(value for _, _, value in slices)
    yield [(f"{chart.title}: {chart.measures[0]}, {amount(total)} in all", "headline")]
    if not total:
        return
    rows = max(10, min(20, len(slices) + 2, width // 6))
    legend = [
        [
            (f"{_GLYPHS[n % len(_GLYPHS)]} ", _color(chart, i)),
            (f"{100 * value / total:5.1f} %  {amount(value):>11}  {_short(name)}", ""),
        ]
        for n, (i, name, value) in enumerate(slices)
    ]
    ends = [sum(value for _, _, value in slices[: n + 1]) / total for n in range(len(slices))]
    for y in range(max(rows, len(legend))):
        line = [(" " * (2 * rows + 2), "")]
        if y < rows:
            line = [*_circle_row(y, rows, ends, [_color(chart, i) for i, _, _ in slices]), ("  ", "")]
        yield [*line, *(legend[y] if y < len(legend) else [])]


def _circle_row(y: int, rows: int, ends: Sequence[float], colors: Sequence[str]) -> Iterator[Span]:
    radius = rows / 2
    for x in range(2 * rows):  # a cell of a terminal is twice as high as wide
        across, down = (x + 0.5) / 2 - radius, y + 0.5 - radius
        if math.hypot(across, down) > radius:
            yield " ", ""
            continue
        turn = (math.atan2(across, -down) / math.tau) % 1  # clockwise from the top
        n = next((n for n, end in enumerate(ends) if turn < end), len(ends) - 1)
        yield _GLYPHS[n % len(_GLYPHS)], colors[n]


_HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img" '
    'font-family="DejaVu Sans, Liberation Sans, Arial, sans-serif" font-size="13" fill="#222">'
    '<rect width="100%" height="100%" fill="#fff"/><title>{title}</title>'
    '<text x="20" y="30" font-size="17" font-weight="bold">{title}</text>'
)


def bar_svg(chart: Chart) -> str:
    """Horizontal bars as a picture of its own, with a tool tip on each."""
    label_width, value_width, room, height = 250, 90, 520, 20
    step = height * len(chart.measures) + 8
    top = 52 if len(chart.measures) == 1 else 76
    title = escape(f"{chart.title}: {', '.join(chart.measures)}")
    parts = [_HEAD.format(w=label_width + room + value_width + 30, h=top + step * len(chart.rows) + 20, title=title)]
    if len(chart.measures) > 1:
        for i, name in enumerate(chart.measures):
            parts.append(f'<rect x="{20 + 110 * i}" y="44" width="12" height="12" fill="{_COLORS[i % len(_COLORS)]}"/>')
            parts.append(f'<text x="{38 + 110 * i}" y="55">{escape(name)}</text>')
    largest = max((value or 0 for _, values in chart.rows for value in values), default=0)
    for row, (name, values) in enumerate(chart.rows):
        y = top + row * step
        parts.append(f'<text x="{label_width - 10}" y="{y + step / 2:.1f}" text-anchor="end">{escape(_short(name))}</text>')
        for i, value in enumerate(values):
            length = room * value / largest if value is not None and largest > 0 and value > 0 else 0
            color = _GREY if len(values) == 1 and _is_rest(chart, row) else _COLORS[i % len(_COLORS)]
            at = y + height * i
            parts.append(
                f'<rect x="{label_width}" y="{at}" width="{length:.1f}" height="{height - 2}" fill="{color}">'
                f"<title>{escape(name)}: {amount(value)}</title></rect>"
            )
            parts.append(f'<text x="{label_width + length + 6:.1f}" y="{at + 14}">{amount(value)}</text>')
    return "".join([*parts, "</svg>\n"])


def pie_svg(chart: Chart) -> str:
    """A pie with its legend as a picture of its own."""
    slices = [(i, name, values[0]) for i, (name, values) in enumerate(chart.rows) if values[0] is not None and values[0] > 0]
    total = sum(value for _, _, value in slices)
    radius, x, y = 150, 180, 210
    title = escape(f"{chart.title}: {chart.measures[0]}, {amount(total)} in all")
    parts = [_HEAD.format(w=820, h=max(390, 80 + 24 * len(slices)), title=title)]
    begun = 0.0
    for n, (i, name, value) in enumerate(slices):
        share = value / total
        tip = f"<title>{escape(name)}: {amount(value)}, {100 * share:.1f} %</title>"
        look = f'fill="{_color(chart, i)}" stroke="#fff" stroke-width="1"'
        if share > 0.9999:
            parts.append(f'<circle cx="{x}" cy="{y}" r="{radius}" {look}>{tip}</circle>')
        else:
            (x1, y1), (x2, y2) = (
                (x + radius * math.sin(math.tau * turn), y - radius * math.cos(math.tau * turn)) for turn in (begun, begun + share)
            )
            arc = f"A{radius},{radius} 0 {int(share > 0.5)} 1 {x2:.2f},{y2:.2f}"
            parts.append(f'<path d="M{x},{y} L{x1:.2f},{y1:.2f} {arc} Z" {look}>{tip}</path>')
        begun += share
        parts.append(f'<rect x="370" y="{58 + 24 * n}" width="14" height="14" fill="{_color(chart, i)}"/>')
        at = 70 + 24 * n
        parts.append(f'<text x="445" y="{at}" text-anchor="end">{100 * share:.1f} %</text>')
        parts.append(f'<text x="540" y="{at}" text-anchor="end">{amount(value)}</text>')
        parts.append(f'<text x="555" y="{at}">{escape(_short(name))}</text>')
    return "".join([*parts, "</svg>\n"])
