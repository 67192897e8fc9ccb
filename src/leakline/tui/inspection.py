"""One process: its mappings by kind over time, its page faults, and what a scan has found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from leakline.present.findings import describe_reports
from leakline.present.text import compact, compact_count, compact_rate, duration, hours, printable, sparkline
from leakline.present.trends import explain
from leakline.tui.columns import command_of
from leakline.tui.lines import cells, fit, fit_line, framed, overlaid, wrapped
from leakline.tui.parts import key_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.model.finding import Report
    from leakline.model.overview import FaultsOverTime, ProcessOverTime, ProcessRow
    from leakline.tui.lines import Line, Span
    from leakline.tui.parts import Timeline

Command = Literal["back", "quit", "help", "ask", "scan", "moved"]
_LOOKS = 2
_NAME = 20
_MOST_FINDINGS = 20
_SCAN_KEYS = (("F1", "Help"), ("s", "Scan"), ("↑↓", "Scroll"), ("Esc", "Back"), ("F10", "Quit"))
_REPLAY_KEYS = (("F1", "Help"), ("←→", "Time"), ("p", "Play"), ("↑↓", "Scroll"), ("Esc", "Back"), ("F10", "Quit"))
_INVITE = "s looks for lost blocks in its heap. For that the process stands still for a moment; you are told for how long before."
_NO_PROCESS = "a recording holds no heap to be scanned: on the live process `leakline scan PID` does that"


class ProcessPage:
    """The second screen.

    Args:
        row: the process, as it was last seen.
        timeline: of a recording.
        whole: seconds that the recording spans.

    """

    def __init__(self, row: ProcessRow, timeline: Timeline | None = None, whole: float = 0.0) -> None:
        self.row = row
        self.timeline, self._whole = timeline, whole
        self.depth: ProcessOverTime | None = None
        self.moment: tuple[float, float] | None = None
        """Of a recording: seconds since its beginning, and since 1970."""
        self.note: str | None = None
        self.report: Report | None = None
        self.asking: tuple[int, int] | None = None
        """How long a scan would hold it still at a time in nanoseconds, and what it copies in bytes, until it is answered."""
        self.scanning: str | None = None
        """What a scan does now."""
        self._top = 0
        self._most_top = 0
        self._to_findings = False
        self._page = 10

    def found(self, report: Report) -> None:
        """Show what a scan has found."""
        self.report, self.scanning, self._to_findings = report, None, True

    def key(self, key: str) -> Command | None:
        """What a key does; what is left to be done by whoever holds the screen."""
        if self.asking is not None:
            if key in ("y", "enter"):
                self.asking = None
                return "scan"
            if key in ("n", "escape", "q"):
                self.asking = None
            return "quit" if key in ("f10", "ctrl+c") else None
        if key in ("f10", "ctrl+c"):
            return "quit"
        if key in ("escape", "q", "backspace"):
            return "back"
        if key in ("f1", "h", "?"):
            return "help"
        if key == "s" and self.timeline is None and self.scanning is None:
            return "ask"
        if self.timeline is not None and self.timeline.key(key):
            return "moved"
        moves = {"up": -1, "down": 1, "k": -1, "j": 1, "pageup": -self._page, "pagedown": self._page, " ": self._page}
        moves |= {"home": -self._top, "end": self._most_top}
        self._top = min(max(self._top + moves.get(key, 0), 0), self._most_top)
        return None

    def lines(self, width: int, height: int) -> list[Line]:
        """The whole screen."""
        head = list(self._head(width))
        body = [*self._kinds(width), ((" " * width, ""),), *self._faults(width), ((" " * width, ""),)]
        findings_at = len(body)
        body += self._findings(width)
        below = 1 + (self.timeline is not None)
        room = max(1, height - len(head) - below)
        self._page, self._most_top = room, max(0, len(body) - room)
        self._top = min(findings_at if self._to_findings else self._top, self._most_top)
        self._to_findings = False
        shown = body[self._top : self._top + room]
        lines = [*head, *shown, *[((" " * width, ""),)] * (room - len(shown))]
        if self.timeline is not None and self.moment is not None:
            lines.append(self.timeline.line(self.moment[0], self._whole, self.moment[1], width))
        lines.append(key_line(_SCAN_KEYS if self.timeline is None else _REPLAY_KEYS, width))
        lines = lines[:height]
        if self.asking is not None:
            box = self._question(min(width, 76))
            lines = overlaid(lines, box, max(0, (width - min(width, 76)) // 2), max(0, (height - len(box)) // 2))
        return lines

    def _head(self, width: int) -> list[Line]:
        identity, amounts, trend = self.row.identity, self.row.amounts, self.row.trend
        who = f"{printable(identity.command)} ({identity.pid})"
        first: list[Span] = [(f" {who}", "head"), (f"  user {printable(identity.user or '-')}  parent {identity.ppid}", "head")]
        if identity.cgroup:
            first.append((f"  {printable(identity.cgroup)}", "head"))
        lines = [fit_line([*first, (" " * width, "head")], width), fit_line([(f" {command_of(self.row)}", "dim")], width)]
        held = "  ".join(
            f"{name} {compact(value)}"
            for name, value in (("USS", amounts.uss), ("PSS", amounts.pss), ("RSS", amounts.rss), ("swap", amounts.swap))
        )
        spans: list[Span] = [(f" {held}", "bold")]
        if trend is not None and trend.verdict != "INSUFFICIENT":
            style = {"LEAK": "definite", "GROWING": "growing", "UNDECIDED": "possible"}.get(trend.verdict, "good")
            spans.append(
                (f"  {'AT-RISK ' if trend.at_risk else ''}{trend.verdict} {compact_rate(trend.rate_bytes_per_second)}", style)
            )
        lines.append(fit_line(spans, width))
        told = "not judged: it takes 5 samples, and permission to read its mappings" if trend is None else explain(trend)
        told, style = (told, "") if self.note is None else (self.note, "warning")
        words = wrapped(told, width - 2, 2)
        lines += [fit_line([(f" {line}", style)], width) for line in [*words, *[""] * (2 - len(words))]]
        return lines

    def _kinds(self, width: int) -> list[Line]:
        depth = self.depth
        seconds = 0.0 if depth is None else depth.seconds
        lines = [_heading(f"Mappings by kind: what they hold (USS + swap), over {hours(seconds)}", width)]
        if depth is None:
            return [*lines, fit_line([(" looking ...", "dim")], width)]
        if depth.kinds_note is not None:
            lines += [fit_line([(f" {line}", "warning")], width) for line in wrapped(depth.kinds_note, width - 2, 2)]
        if not depth.kinds:
            return lines
        points = max(6, width - 58)
        titles = f" {'KIND':<20} {'COUNT':>6} {'SIZE':>5} {'RSS':>5} {'HELD':>5} {'CHANGE':>7}  {'TREND':<{points}}"
        lines.append(fit_line([(titles, "bold")], width))
        for kind in depth.kinds:
            change = kind.change
            grown = "-" if change is None else f"{'+' if change > 0 else ''}{compact(change)}"
            count = "-" if kind.mappings is None else f"{kind.mappings:,}"
            name = printable(kind.name)  # of a recording it may be a path, whose end tells more
            name = fit(name if cells(name) <= _NAME else f"…{name[1 - _NAME :]}", _NAME)
            columns = f" {name} {count:>6} {compact(kind.size):>5} {compact(kind.rss):>5} {compact(kind.held):>5} "
            style = "growing" if change is not None and change > 0 else ""
            line = sparkline(_last(kind.history, points))
            lines.append(fit_line([(columns, ""), (f"{grown:>7}  ", style), (fit(line, points), style or "good")], width))
        return lines

    def _faults(self, width: int) -> list[Line]:
        lines = [_heading("Page faults: minor need no I/O (first touch, copy on write), major read from disk or swap", width)]
        if self.depth is None:
            return lines
        points = max(6, width - 58)
        titles = f" {'KIND':<20} {'SINCE START':>12} {'PER SECOND':>12}{'':>7}  {'TREND':<{points}}"
        lines.append(fit_line([(titles, "bold")], width))
        for name, faults in (("minor", self.depth.minor), ("major", self.depth.major)):
            lines.append(fit_line(_fault_spans(name, faults, points), width))
        return lines

    def _findings(self, width: int) -> list[Line]:
        lines = [_heading("Findings", width)]
        if self.scanning is not None:
            return [*lines, fit_line([(f" {self.scanning}", "warning")], width)]
        if self.report is not None:
            for text, style in describe_reports([self.report], _MOST_FINDINGS):
                indent = " " * (len(text) - len(text.lstrip(" ")) + 1)
                lines += [fit_line([(indent + line, style)], width) for line in wrapped(text, width - len(indent), 4)]
            if any(finding.location is None for finding in self.report.findings):
                lines.append(fit_line([(f" next: `leakline diagnose {self.row.identity.pid}` looks for the line", "bold")], width))
            return lines
        told = _INVITE if self.timeline is None else _NO_PROCESS
        return [*lines, *(fit_line([(f" {line}", "")], width) for line in wrapped(told, width - 2, 3))]

    def _question(self, width: int) -> list[Line]:
        pause, size = self.asking or (0, 0)
        who = f"{printable(self.row.identity.command)} ({self.row.identity.pid})"
        text = (
            f"{who} will stand still {_LOOKS} times, for about {duration(pause)} each, while {compact(size)} of its memory "
            "are copied. It then runs on; the copy is searched."
        )
        body: list[Line] = [((f" {line}", ""),) for line in wrapped(text, width - 4, 6)]
        return framed(
            "Scan for lost blocks",
            [*body, ((" ", ""),), ((" y", "bold"), (" scan it   ", ""), ("n", "bold"), (" leave it", ""))],
            width,
        )


def _heading(text: str, width: int) -> Line:
    return fit_line([(f" {text}", "label"), (" " * width, "label")], width)


def _fault_spans(name: str, faults: FaultsOverTime | None, points: int) -> list[Span]:
    if faults is None:
        return [(f" {name:<20} {'-':>12} {'-':>12}", "")]
    columns = f" {name:<20} {faults.total:>12,} {compact_count(faults.rate):>12}{'':>7}  "
    return [(columns, ""), (fit(sparkline(_last(faults.history, points)), points), "good")]


def _last(values: Sequence[float], points: int) -> Sequence[float]:
    """So many of the values, equally far apart."""
    if len(values) <= points:
        return values
    return [values[round(place * (len(values) - 1) / (points - 1))] for place in range(points)]
