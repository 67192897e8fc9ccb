"""The answer of a page: a card for each process that leaks, grows or died, else one that says that nothing was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from leakline.present.export.samples import all_reports
from leakline.present.findings import headline
from leakline.present.html.payload import name_of, prose, subject
from leakline.present.text import amount, change, counted, duration, exact_bytes, place, rate
from leakline.present.trends import explain, long_time, probability_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leakline.model.faults import FaultGroup, FaultReport
    from leakline.model.finding import Finding, Report
    from leakline.model.page import Page, PageRecording
    from leakline.model.trend import SeriesTrend

MOST_CARDS = 3
_RANK = {"leak": 0, "crash": 0, "grows": 1, "suspect": 2, "info": 3, "ok": 4}


class Figure(NamedTuple):
    """One number that matters."""

    label: str
    value: str
    note: str = ""


class Card(NamedTuple):
    """One answer."""

    level: str
    """leak, crash, grows, suspect, info, ok: the look."""
    word: str
    title: str
    text: str
    figures: tuple[Figure, ...]


def cards_of(page: Page) -> list[Card]:
    """The answers, the worst first."""
    trends = {trend.name: trend for recording in page.recordings for trend in _services(recording)}
    reports = [report for report in all_reports(page.reports) if report.findings or report.summary.definite is not None]
    found = [_report_card(report, trends) for report in reports]
    told = {_service_name(report) for report in reports if any(f.kind in ("definite", "growing") for f in report.findings)}
    found += [_crash_card(report, group) for report in page.faults for group in report.faults if group.crash is not None]
    for recording in page.recordings:
        suspects = [trend for trend in _services(recording) if trend.is_noteworthy or trend.at_risk]
        found += [_trend_card(trend, recording) for trend in suspects if trend.name not in told]
        found += [] if suspects else [_quiet_card(recording)]
    if not found:
        found += [
            _maps_card(table.command, table.pid, table.totals.rss, table.totals.uss, table.totals.count) for table in page.mappings
        ]
        found += [_faults_card(report) for report in page.faults]
    if any(card.level not in ("ok", "info") for card in found):
        found = [card for card in found if card.level != "ok"]
    return sorted(found, key=lambda card: _RANK[card.level])


def _services(recording: PageRecording) -> Iterator[SeriesTrend]:
    return (drawn.trend for drawn in recording.series if drawn.kind == "process")


def _service_name(report: Report) -> str:
    return "kernel" if report.target is None else f"{report.target.command} ({report.target.pid})"


def _report_card(report: Report, trends: dict[str, SeriesTrend]) -> Card:
    first = next(iter(report.findings), None)
    definite = next((f for f in report.findings if f.kind == "definite"), None)
    growing = next((f for f in report.findings if f.kind == "growing"), None)
    told = definite or growing or first
    said = headline(report)
    who = subject(report)
    title = said[:1].upper() + said[1:] if not who else f"{who} {said}" if said.startswith(("leaks", "grows")) else f"{who}: {said}"
    if definite is not None:
        level, word = "leak", "Leak"
    elif growing is not None:
        level, word = "grows", "Growing"
    elif first is not None and first.kind != "reachable":
        level, word = "suspect", "Not proved"
    elif report.summary.definite is None:
        level, word = "info", "Not looked at"
    else:
        level, word = "ok", "No leak found"
    return Card(
        level, word, title, "" if told is None else _because(told), tuple(_figures(report, told, trends.get(_service_name(report))))
    )


def _because(finding: Finding) -> str:
    text = prose(finding.evidence[0].text) if finding.evidence else ""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _figures(report: Report, told: Finding | None, trend: SeriesTrend | None) -> Iterator[Figure]:
    timed = next((f for f in report.findings if f.rate_bytes_per_second is not None), None)
    if told is not None and told.rate_bytes_per_second is not None:
        timed = told
    if timed is not None:
        yield Figure("Rate", rate(timed.rate_bytes_per_second), _interval(timed.rate_interval))
    elif trend is not None and trend.accuses:
        yield Figure("Rate", rate(trend.rate_bytes_per_second), _interval(trend.rate_interval))
    if told is not None:
        label = "Lost" if told.kind in ("definite", "indirect") else "More" if told.kind == "growing" else "Held"
        note = counted(told.blocks, "block") if told.blocks else ""
        if told.indirect_bytes:
            note += f", {amount(told.indirect_bytes)} more hang on them"
        yield Figure(label, amount(told.bytes), note)
        yield Figure("Confidence", told.confidence, _agreed(told))
    elif report.summary.reachable is not None:
        yield Figure("In use", amount(report.summary.reachable.bytes), counted(report.summary.reachable.blocks, "block"))
    if trend is not None:
        yield from _limit(trend)
    if report.cost.target_stopped_ns:
        yield Figure("Stood still for", duration(report.cost.target_stopped_ns), "all that the target noticed")


def _agreed(finding: Finding) -> str:
    return f"{counted(len(finding.evidence), 'reason')} given below"


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"90 %: {amount(interval[0])}/s to {amount(interval[1])}/s"


def _limit(trend: SeriesTrend) -> Iterator[Figure]:
    if trend.limit is not None and trend.limit_eta_seconds is not None and (trend.at_risk or trend.accuses):
        yield Figure("Limit reached in", long_time(trend.limit_eta_seconds), f"{amount(trend.limit)}, if it goes on like this")


def _trend_card(trend: SeriesTrend, recording: PageRecording) -> Card:
    name = name_of(trend.name)
    if trend.verdict == "LEAK":
        level, word, title = "leak", "Leak", f"{name} grows without end"
    elif trend.verdict == "GROWING":
        level, word, title = "grows", "Growing", f"{name} keeps growing"
    elif trend.verdict == "UNDECIDED":
        level, word, title = "suspect", "Undecided", f"{name} may be growing"
    else:
        level, word, title = "suspect", "At risk", f"{name} may reach its limit"
    figures = [
        Figure("Rate", rate(trend.rate_bytes_per_second), _interval(trend.rate_interval)),
        Figure("Grown by", change(trend.increase), f"in {long_time(trend.duration_seconds)}"),
        Figure("Probability", probability_text(trend.probability), "that the growth goes on"),
        *_limit(trend),
    ]
    return Card(level, word, title, f"{name_of(recording.name)}: {explain(trend)}", tuple(figures))


def _quiet_card(recording: PageRecording) -> Card:
    services = list(_services(recording))
    judged = [trend for trend in services if trend.verdict != "INSUFFICIENT"]
    figures = (
        Figure("Judged", f"{len(judged):,}", f"of {counted(len(services), 'process').replace('processs', 'processes')}"),
        Figure("Watched for", long_time(recording.duration), counted(recording.ticks, "sample")),
    )
    if not judged:
        return Card(
            "info",
            "Too early",
            "Too few samples to judge",
            "It takes at least 5 samples for a suspicion, 30 for a verdict.",
            figures,
        )
    return Card("ok", "No growth", "Nothing grows", f"No process in {name_of(recording.name)} is judged to grow on.", figures)


def _crash_card(report: FaultReport, group: FaultGroup) -> Card:
    crash = group.crash
    signal = crash.signal if crash is not None else "a signal"
    at = "" if group.location is None else f" at {place(group.location, group.stack)}"
    fatal = crash is not None and crash.fatal
    return Card(
        "crash",
        "Crash" if fatal else "Fault",
        f"{name_of(report.target.command)} {'died of' if fatal else 'got'} {signal}{at}",
        prose(group.explanation),
        (
            Figure("Cause", group.cause),
            Figure("Access", group.access or "-"),
            Figure("Address", "-" if group.address is None else f"{group.address:#x}"),
        ),
    )


def _maps_card(command: str, pid: int, rss: int, uss: int, count: int) -> Card:
    title = f"{name_of(command)} ({pid}) holds {amount(rss)}"
    figures = (
        Figure("Resident", amount(rss), exact_bytes(rss)),
        Figure("Its own", amount(uss), "USS"),
        Figure("Mappings", f"{count:,}"),
    )
    return Card("info", "Address space", title, "", figures)


def _faults_card(report: FaultReport) -> Card:
    minor, major = report.seen.minor, report.seen.major
    title = f"{name_of(report.target.command)} ({report.target.pid}) asked for {_count((minor or 0) + (major or 0))} pages"
    figures = (
        Figure("Minor", _count(minor), "no disk"),
        Figure("Major", _count(major), "waited for disk or swap"),
        Figure("Watched for", duration(round(report.seconds * 1e9))),
    )
    return Card("info", "Page faults", title, "", figures)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def ranked(reports: Sequence[Report]) -> list[tuple[Report, Finding]]:
    """All findings: the surest kind first, then those with a place, then the most bytes."""
    kinds = ("definite", "growing", "possible", "outstanding", "indirect", "reachable")
    found = [(report, finding) for report in all_reports(reports) for finding in report.findings]
    return sorted(
        found, key=lambda one: (kinds.index(one[1].kind), one[1].location is None, -(one[1].bytes + one[1].indirect_bytes))
    )
