"""What the script of a page draws, as small JSON: series as differences in whole KiB, stacks with each frame once."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from leakline.present.export.samples import frame_name, process_name, samples, without_stack
from leakline.present.text import frame_place, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leakline.model.faults import FaultReport
    from leakline.model.finding import FindingKind, Report
    from leakline.model.mappings import VmaMemory, VmaTable
    from leakline.model.page import DrawnSeries, StackedAmounts

_TICKS = 100_000
"""Into so many parts the time of a series is divided."""
_MOST_STACKS, _DEEPEST = 3000, 150
_MOST_BOXES = 600
_MOST_MOMENTS, _MOST_CAUSES = 400, 12
_LONGEST, _LONGEST_PROSE = 200, 4000
_COLORS = 7
_KNOWN_COLORS = {
    "[heap]": 3,
    "[anon]": 1,
    "[arenas]": 6,
    "[stack]": 2,
    "[thread stacks]": 2,
    "[bss]": 0,
    "free": 9,
    "page cache": 7,
    "all others": 8,
}
"""What is known is of the same colour in all charts, and what nobody need look at first is grey."""
_FILE_COLORS = (4, 5, 8)
FLAMES: dict[str, tuple[FindingKind, ...]] = {
    "lost": ("definite", "indirect", "possible"),
    "growing": ("growing", "outstanding"),
    "reachable": ("reachable",),
}
MEASURES = ("rss", "uss", "swap", "size")

Json = dict[str, Any]


def embedded(payload: Json) -> str:
    """JSON that may stand in a script element: nothing in it can end that, or begin a comment or a tag."""
    text = json.dumps(payload, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def name_of(text: str) -> str:
    """A name from outside, harmless and not endless."""
    shown = printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def prose(text: str) -> str:
    """Sentences and paths from outside: as they are, but harmless, and with an end."""
    shown = printable(text)
    return shown if len(shown) <= _LONGEST_PROSE else f"{shown[: _LONGEST_PROSE - 1]}…"


def subject(report: Report) -> str:
    """`leak-example`; `Process 4711` where a checker's log does not name it; nothing for the kernel."""
    if report.target is None:
        return ""
    return f"Process {report.target.pid}" if report.target.command == "?" else name_of(report.target.command)


def process_title(report: Report) -> str:
    """`leak-example (4711)`, `Process 4711`, `kernel`."""
    unnamed = report.target is not None and report.target.command == "?"
    return subject(report) if unnamed else name_of(process_name(report))


def series_data(drawn: DrawnSeries) -> Json:
    """One series with what is judged of it."""
    trend, extremes, curve = drawn.trend, drawn.extremes, drawn.curve
    times = extremes.times
    first = times[0] if times else 0.0
    unit = max((times[-1] - first) / _TICKS, 1e-6) if times else 1.0
    lows, highs = ([_kib(value) for value in values] for values in (extremes.lows, extremes.highs))
    data: Json = {
        "name": name_of(trend.name),
        "verdict": trend.verdict,
        "t0": round(first, 6),
        "unit": unit,
        "t": _differences([round((time - first) / unit) for time in times]),
        "lo": _differences(lows),
        "hi": [None if high is None or low is None else high - low for low, high in zip(lows, highs, strict=True)]
        if lows != highs
        else None,
    }
    if trend.limit is not None and trend.accuses:
        data["limit"] = trend.limit
    if curve is not None and len(curve.times):
        data |= {
            "ft": [round(time, 3) for time in curve.times],
            "floors": [round(value) for value in curve.floors],
            "fit": [round(value) for value in curve.curve],
            "family": curve.family,
        }
        if trend.rate_bytes_per_second is not None and trend.rate_interval is not None and trend.is_noteworthy:
            data |= {"rate": trend.rate_bytes_per_second, "rates": list(trend.rate_interval)}
    return data


def stack_data(stacked: StackedAmounts) -> Json:
    """Parts of a whole over time, each with its colour."""
    parts, files = [], 0
    for at, (name, values) in enumerate(stacked.parts.items()):
        color = _KNOWN_COLORS.get(name, 7 if name.endswith(" others") else at % _COLORS)
        if name.startswith("/"):
            color, files = _FILE_COLORS[files % len(_FILE_COLORS)], files + 1
        parts.append({"name": name_of(name), "c": color, "v": [max(0, round(value)) for value in values]})
    return {"name": name_of(stacked.name), "unit": "bytes", "t": [round(time, 3) for time in stacked.times], "parts": parts}


def fault_data(report: FaultReport) -> Json | None:
    """Faults by cause in each stretch of time; stretches are joined where there are more than can be seen."""
    moments = [moment for moment in report.timeline if math.isfinite(moment.seconds)]
    if len(moments) < 2:
        return None
    sums: Counter[str] = Counter()
    for moment in moments:
        sums.update({cause: max(0, count) for cause, count in moment.counts.items()})
    causes = [cause for cause, count in sums.most_common(_MOST_CAUSES) if count]
    others = [cause for cause, count in sums.most_common()[_MOST_CAUSES:] if count]
    joined = math.ceil(len(moments) / _MOST_MOMENTS)
    parts = [moments[at : at + joined] for at in range(0, len(moments), joined)]

    def column(names: Sequence[str]) -> list[int]:
        return [sum(max(0, moment.counts.get(name, 0)) for moment in part for name in names) for part in parts]

    bands = [{"name": name_of(cause), "c": at % _COLORS, "v": column([cause])} for at, cause in enumerate(causes)]
    if others:
        bands.append({"name": f"{len(others):,} others", "c": 7, "v": column(others)})
    return {
        "name": "page faults",
        "unit": "faults",
        "bars": True,
        "t": [round(part[-1].seconds, 3) for part in parts],
        "parts": bands,
    }


def flame_data(reports: Sequence[Report]) -> Json | None:
    """Stacks by group of kinds, outermost frame first, with each frame once."""
    frames: dict[tuple[str, str], int] = {}
    groups: dict[str, list[Json]] = {}
    ranked = sorted(samples(reports), key=lambda sample: -sample.bytes)[:_MOST_STACKS]
    for sample in ranked:
        finding = sample.finding
        group = next(name for name, kinds in FLAMES.items() if sample.kind in kinds)
        if sample.bytes <= 0:
            continue
        stack = [
            frames.setdefault(
                (name_of(frame_name(frame)), name_of(frame_place(frame) + (" (inlined)" if frame.inlined else ""))), len(frames)
            )
            for frame in reversed(finding.stack[:_DEEPEST])
        ] or [frames.setdefault((name_of(without_stack(finding)), ""), len(frames))]
        inner = next((at for at, frame in enumerate(finding.stack) if frame.location == finding.location), None)
        entry = {"s": stack, "v": sample.bytes, "b": sample.blocks, "k": sample.kind, "p": process_title(sample.report)}
        if inner is not None and inner < _DEEPEST:
            entry["a"] = len(stack) - 1 - inner
        groups.setdefault(group, []).append(entry)
    if not groups:
        return None
    return {"frames": [list(frame) for frame in frames], "groups": {name: groups[name] for name in FLAMES if name in groups}}


def map_data(table: VmaTable) -> Json:
    """Mappings by kind; small ones of a kind are one box, as no eye can tell them apart."""
    rows = table.vmas or ()
    kept = {
        id(row)
        for measure in MEASURES
        for row in sorted(rows, key=lambda row: -_measured(row, measure))[: _MOST_BOXES // len(MEASURES)]
        if _measured(row, measure)
    }
    kinds: dict[str, list[Json]] = {}
    small: dict[str, list[VmaMemory]] = {}
    for row in rows:
        if id(row) in kept:
            box = {measure: _measured(row, measure) for measure in MEASURES}
            where = f"{row.start:x}-{row.end:x} {row.perms}"
            kinds.setdefault(row.kind, []).append({**box, "n": name_of(row.path or row.kind), "at": name_of(where)})
        else:
            small.setdefault(row.kind, []).append(row)
    for kind, others in small.items():
        box = {measure: sum(_measured(row, measure) for row in others) for measure in MEASURES}
        kinds.setdefault(kind, []).append({**box, "n": f"{len(others):,} small ones", "at": "", "c": len(others)})
    return {
        "name": name_of(f"{table.command} ({table.pid})"),
        "kinds": [{"kind": kind, "boxes": boxes} for kind, boxes in sorted(kinds.items())],
    }


def spark(drawn: DrawnSeries, width: int = 120, height: int = 24, columns: int = 60) -> str:
    """The path of a series in the small: what it held at least and at most in each column."""
    extremes = drawn.extremes
    known = [(time, low, high) for time, low, high in zip(*extremes, strict=True) if math.isfinite(low) and math.isfinite(high)]
    if len(known) < 2:
        return ""
    first, last = known[0][0], known[-1][0]
    least, most = min(low for _, low, _ in known), max(high for _, _, high in known)
    span, time_span = max(most - least, 65536.0), max(last - first, 1e-9)
    cells: dict[int, tuple[float, float]] = {}
    for time, low, high in known:
        at = min(columns - 1, int((time - first) / time_span * columns))
        old = cells.get(at, (low, high))
        cells[at] = min(old[0], low), max(old[1], high)
    step = width / columns

    def point(at: int, value: float) -> str:
        return f"{(at + 0.5) * step:.0f} {height - 2 - (value - least) / span * (height - 4):.1f}"

    points: list[str] = []
    for at, (low, high) in sorted(cells.items()):
        points.append(point(at, low))
        if high - low > span / height:
            points.append(point(at, high))
    return "M" + "L".join(points)


def _measured(row: VmaMemory, measure: str) -> int:
    value: int = getattr(row, measure)
    return min(max(0, value), 1 << 63)


def _kib(value: float) -> int | None:
    return round(value / 1024) if math.isfinite(value) else None


def _differences(values: Iterable[int | None]) -> list[int | None]:
    last = 0
    found: list[int | None] = []
    for value in values:
        found.append(None if value is None else value - last)
        last = last if value is None else value
    return found
