"""The judgement of series, in a sentence each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from leakline.model.trend import SeriesTrend
from leakline.present.text import amount, change, counted, duration, printable, rate

Line = tuple[str, str]
_STYLES = {"LEAK": "definite", "GROWING": "growing", "UNDECIDED": "possible"}
_SHAPES = {
    "flat": "it is level",
    "one step": "one step explains it",
    "two steps": "two steps explain it",
    "settling": "it settles, as caches and warm-ups do",
    "settling and step": "it settles, and has one step",
    "logarithm": "it rises ever more slowly, as fragmentation does",
    "ramp, then flat": "it filled up and stays there, as a bounded cache does",
    "wave": "it comes and goes in a cycle",
    "wave of two harmonics": "it comes and goes in a cycle",
    "declining": "it declines",
}
_GATES = {
    "samples": "at least 30 samples",
    "growth": "growth of more than three pages",
    "confidence": "a probability of .95",
    "two looks": "the same answer a tenth of the samples ago",
    "warm-up": "an age past the warm-up (--warm-up)",
    "cycles": "three whole cycles",
    "reclaimable": "memory that the kernel cannot take back",
}


def describe_trends(trends: Sequence[SeriesTrend]) -> Iterator[Line]:
    """One line each: verdict, name, why."""
    width = max((len(trend.verdict) for trend in trends), default=0)
    for trend in trends:
        risk = "AT-RISK " if trend.at_risk else ""
        text = f"{trend.verdict:<{width}}  {printable(trend.name)}: {risk}{explain(trend)}"
        yield text, _STYLES.get(trend.verdict, "warning" if trend.at_risk else "")


def count_trends(trends: Sequence[SeriesTrend]) -> Iterator[Line]:
    """How many others there are, by verdict."""
    if trends:
        counts = Counter(trend.verdict for trend in trends)
        text = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.most_common())
        yield f"{len(trends):,} others: {text}. --all lists them.", "dim"


def explain(trend: SeriesTrend) -> str:
    """Why the verdict is what it is."""
    if trend.verdict == "INSUFFICIENT":
        return _insufficient(trend)
    speed = rate(trend.rate_bytes_per_second, trend.rate_interval)
    seen = f"{counted(trend.samples, 'sample')} over {duration(round(trend.duration_seconds * 1e9))}"
    likely = f"sustained growth has a probability of {probability_text(trend.probability)}"
    other = _SHAPES.get(trend.alternative or "", "")
    if trend.accuses:
        sentence = f"{change(trend.increase)} in {seen}; {likely}, at {speed}; without it: {other}"
        if trend.gates:
            sentence += f". For LEAK it takes {', '.join(_GATES[gate] for gate in trend.gates)}"
    elif trend.verdict == "UNDECIDED":
        sentence = f"{change(trend.increase)} in {seen}; {likely}, at {speed} if so; else {other}. More samples will tell"
    else:
        sentence = f"{other} ({change(trend.increase)} in {seen}; {likely})"
    if trend.limit_eta_seconds is not None and (trend.at_risk or trend.accuses):
        sentence += (
            f". The limit of {amount(trend.limit)} is reached in {long_time(trend.limit_eta_seconds)} if it goes on like this"
        )
    return sentence + "."


def _insufficient(trend: SeriesTrend) -> str:
    sentence = f"{counted(trend.samples, 'sample')}, {change(trend.increase)}"
    if trend.rate_bytes_per_second is not None and trend.increments:
        every = trend.duration_seconds / len(trend.increments)
        low, high = trend.rate_interval or (0.0, 0.0)
        each = trend.rate_bytes_per_second * every
        interval = f"90 % interval {amount(low * every)} to {amount(high * every)}, by {trend.samples} points only"
        sentence += f", {amount(each)} a sample ({interval})"
    steps = trend.increments
    if len(steps) > 1 and all(0 < b < a for a, b in pairwise(steps)):
        shown = ", ".join(amount(step) for step in steps)
        sentence += f". The increments shrink ({shown}): warm-up, cache fill and leak all fit"
    elif len(steps) > 1 and all(step > 0 for step in steps):
        sentence += ". As many rises come by chance too, and near the start of most programs"
    return sentence + ". It takes at least 5 samples for GROWING, 30 for LEAK."


def probability_text(value: float | None) -> str:
    """`.97`, `over .99`."""
    if value is None:
        return "-"
    return "over .99" if value > 0.99 else "under .01" if value < 0.01 else f"{value:.2f}".removeprefix("0")


def long_time(seconds: float) -> str:
    """`3 d`, `150 min`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
