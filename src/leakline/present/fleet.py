"""The judgement of a fleet, in words and as a table of other programs."""

from __future__ import annotations

import csv
import io
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from leakline.present.text import UNKNOWN, amount, change, counted, printable
from leakline.present.trends import long_time, probability_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leakline.model.fleet import FleetReport, FleetTrend, RolloutTrend
    from leakline.present.screen import Line

NOTEWORTHY = {"LEAK": "definite", "GROWING": "growing", "UNDECIDED": "possible"}
_DAY = 86400
_COLUMNS = (
    *("name", "group", "release", "verdict", "discovered", "probability", "log_bayes_factor", "rate_bytes_per_second", "increase"),
    *("limit", "limit_eta_seconds", "at_risk", "epochs", "samples", "judged_by", "alternative"),
)


def describe_fleet(report: FleetReport, most: int) -> Iterator[Line]:
    """Releases first, then what grows, the worst first, then how much was seen.

    Args:
        report: the judgement.
        most: rows of each part.

    """
    found = [one for one in report.rollouts if one.discovered]
    for rollout in found[:most]:
        yield _rollout(rollout), "definite" if rollout.begins else "growing"
    if len(found) > most:
        yield f"{len(found) - most:,} more releases: -n shows them.", "dim"
    noteworthy = [one for one in report.services if one.verdict in NOTEWORTHY or one.at_risk]
    for service in noteworthy[:most]:
        yield _service(service), NOTEWORTHY.get(service.verdict, "warning" if service.at_risk else "")
    if len(noteworthy) > most:
        yield f"{len(noteworthy) - most:,} more that may grow: -n shows them.", "dim"
    yield from _counts(report)


def fleet_csv(report: FleetReport) -> str:
    """A row for each service."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in report.services:
        values = (getattr(one, name) for name in _COLUMNS)
        writer.writerow([printable(value) if isinstance(value, str) else value for value in values])
    return text.getvalue()


def when(seconds: float) -> str:
    """`2026-11-26 10:58 UTC`."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def daily(value: float | None) -> str:
    """`20.6 MiB/d`: what leaks for days is told by the day."""
    return UNKNOWN if value is None else f"{amount(value * _DAY)}/d"


def rollout_in_words(one: RolloutTrend) -> str:
    """What a release does, since when, how surely."""
    since = "" if one.since is None else f" since {when(one.since)}"
    speed = "" if one.rate_bytes_per_second is None else f", at {daily(one.rate_bytes_per_second)} each"
    before = f"; {printable(one.previous)} before it does not" if one.begins and one.previous is not None else ""
    return (
        f"grows{since} on about {one.leaking_share:.1%} of {counted(one.judged, 'instance')}{speed}"
        f" (probability {probability_text(one.probability)}){before}"
    )


def service_in_words(one: FleetTrend) -> str:
    """How fast, how surely, until when."""
    parts = [change(one.increase)]
    if one.rate_bytes_per_second is not None:
        low, high = one.rate_interval or (one.rate_bytes_per_second, one.rate_bytes_per_second)
        parts.append(f"{daily(one.rate_bytes_per_second)} (90 %: {daily(low)} to {daily(high)})")
    parts.append(f"probability {probability_text(one.probability)}")
    if one.release is not None:
        parts.append(f"release {printable(one.release)}")
    if one.epochs > 1:
        parts.append(f"{one.epochs} runs")
    if one.limit is not None and one.limit_eta_seconds is not None:
        parts.append(f"reaches its limit of {amount(one.limit)} in {long_time(one.limit_eta_seconds)}")
    if one.judged_by == "floors":
        parts.append("by floors alone")
    return ", ".join(parts)


def _rollout(one: RolloutTrend) -> str:
    return f"RELEASE  {printable(one.group)} {printable(one.release)}: {rollout_in_words(one)}."


def _service(one: FleetTrend) -> str:
    risk = "AT-RISK " if one.at_risk else ""
    sure = (
        "" if one.discovered or one.verdict not in ("LEAK", "GROWING") else "; one like it comes by chance in a fleet of this size"
    )
    return f"{one.verdict:<9}  {printable(one.name)}: {risk}{service_in_words(one)}{sure}."


def _counts(report: FleetReport) -> Iterator[Line]:
    seen = report.coverage
    counts = Counter(one.verdict for one in report.services)
    text = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.most_common())
    yield f"{seen.services:,} services of {seen.series:,} series from {when(report.start)} to {when(report.end)}: {text}.", ""
    sure = sum(one.discovered for one in report.services)
    yield (
        f"{counted(sure, 'discovery').replace('discoverys', 'discoveries')}: at most {report.false_discovery_rate:.0%} of what is"
        " called so is expected to be false.",
        "dim",
    )
    for reason in _distinct(seen.partial):
        yield f"partial: {printable(reason)}", "warning"


def _distinct(reasons: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(reasons))
