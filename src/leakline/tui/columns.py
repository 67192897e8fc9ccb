"""The columns of the list of processes: what stands in a cell, how it is sorted, what a narrow terminal leaves out."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from leakline.present.text import UNKNOWN, compact, compact_rate, compact_seconds, printable, sparkline
from leakline.session.judging import severity
from leakline.tui.lines import fit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leakline.model.overview import ProcessRow
    from leakline.tui.lines import Span

SORTS = ("growth", "uss", "pss", "rss", "swap", "faults", "pid", "user", "command")
_STYLES = {"LEAK": "definite", "GROWING": "growing", "UNDECIDED": "possible"}
_NARROW, _WIDE = 80, 100


class Layout(NamedTuple):
    """How wide the columns are that give way."""

    user: int
    trend: int
    """Points of the sparkline."""
    eta: bool
    """Whether there is room for when the limit is reached."""
    command: int


def layout_for(width: int) -> Layout:
    """Columns for a terminal."""
    eta = width >= _WIDE
    user = 7 if width < _WIDE else 9
    trend = 6 if width <= _NARROW else min(30, 6 + (width - _NARROW) // 3)
    taken = 7 + 1 + user + 1 + 4 * 5 + 8 + 11 + (8 if eta else 0) + trend + 1
    return Layout(user, trend, eta, max(0, width - taken))


def header(layout: Layout, sort: str, *, inverted: bool) -> list[Span]:
    """The names of the columns; the one that is sorted by stands out."""
    mark = "▵" if inverted else "▿"
    columns = [("pid", "PID", 7, True), ("user", "USER", layout.user, False)]
    columns += [(name, name.upper(), 4, True) for name in ("uss", "pss", "rss", "swap")]
    columns += [("growth", "GROWTH", 7, True), ("", "VERDICT", 10, False)]
    columns += [("", "FULL IN", 7, True)] if layout.eta else []
    columns += [("", "TREND", layout.trend, False), ("command", "COMMAND", layout.command, False)]
    spans = []
    for name, title, width, right in columns:
        chosen = name == sort
        text = fit(title[: width - 1] + mark if chosen and width > 1 else title, width, right=right)
        gap = "" if name == "command" else " "
        spans.append((text + gap, "label" if chosen else "head"))
    return spans


def row_cells(row: ProcessRow, layout: Layout, history: Sequence[float], branch: str, style: str | None) -> list[Span]:
    """One process.

    Args:
        row: which.
        layout: of the columns.
        history: what it held, for the sparkline.
        branch: of the tree, before its command.
        style: of the whole line, where it is chosen or tagged.

    """
    identity, amounts, trend = row.identity, row.amounts, row.trend
    user = printable(identity.user or UNKNOWN)
    user = user if len(user) <= layout.user else user[: layout.user - 1] + "+"
    judged = trend is not None and trend.verdict != "INSUFFICIENT"
    verdict = (trend.verdict + ("!" if trend.at_risk else "")) if judged and trend is not None else UNKNOWN
    rate = trend.rate_bytes_per_second if judged and trend is not None else None
    color = _STYLES.get(trend.verdict, "warning" if trend.at_risk else "") if judged and trend is not None else ""
    spans: list[Span] = [(f"{identity.pid:>7} {fit(user, layout.user)} ", "")]
    spans += [(f"{compact(value):>4} ", "") for value in (amounts.uss, amounts.pss, amounts.rss, amounts.swap)]
    spans += [(f"{compact_rate(rate):>7} ", color), (f"{verdict:<10} ", color or "dim")]
    if layout.eta:
        eta = trend.limit_eta_seconds if trend is not None and judged and (trend.accuses or trend.at_risk) else None
        spans.append((f"{compact_seconds(eta):>7} ", "warning" if trend is not None and trend.at_risk else "dim"))
    line = fit(sparkline(history), layout.trend, right=True) + " "
    spans += [(line, color or "good"), (branch, "dim"), (fit(short_command_of(row), layout.command - len(branch)), "")]
    return spans if style is None else [(text, style) for text, _ in spans]


def command_of(row: ProcessRow) -> str:
    """The command line; the command where there is none."""
    return printable(row.identity.cmdline or row.identity.command)


def short_command_of(row: ProcessRow) -> str:
    """The command line without the folder of its program."""
    program, space, rest = command_of(row).partition(" ")
    return f"{program.rpartition('/')[2] or program}{space}{rest}" if program.startswith("/") else f"{program}{space}{rest}"


def _growth(row: ProcessRow) -> tuple[object, ...]:
    trend = row.trend
    held = -(row.amounts.held or 0)
    if trend is None or not (trend.is_noteworthy or trend.at_risk):
        return 1, held
    return 0, *severity(trend)[:2], -(trend.rate_bytes_per_second or 0.0), held


_KEYS: dict[str, Callable[[ProcessRow], tuple[object, ...]]] = {
    "growth": _growth,
    "uss": lambda row: (-_known(row.amounts.uss),),
    "pss": lambda row: (-_known(row.amounts.pss),),
    "rss": lambda row: (-_known(row.amounts.rss),),
    "swap": lambda row: (-_known(row.amounts.swap), -_known(row.amounts.uss)),
    "faults": lambda row: (-row.amounts.major_faults, -row.amounts.minor_faults),
    "pid": lambda row: (row.identity.pid,),
    "user": lambda row: (row.identity.user or "",),
    "command": lambda row: (row.identity.command, row.identity.cmdline or ""),
}


def _known(value: int | None) -> int:
    return -1 if value is None else value


def ordered(rows: Sequence[ProcessRow], sort: str, *, inverted: bool) -> list[ProcessRow]:
    """Rows by a column: amounts the largest first, the worst verdict first, names from A; equal ones by number."""
    key = _KEYS[sort]
    return sorted(rows, key=lambda row: (*key(row), row.identity.pid), reverse=inverted)


def as_tree(rows: Sequence[ProcessRow]) -> list[tuple[str, ProcessRow]]:
    """Each process behind its parent, with what is drawn before its command; siblings keep their order."""
    pids = {row.identity.pid for row in rows}
    children: dict[int | None, list[ProcessRow]] = defaultdict(list)
    for row in rows:
        parent = row.identity.ppid
        children[parent if parent in pids and parent != row.identity.pid else None].append(row)
    placed: list[tuple[str, ProcessRow]] = []
    seen: set[int] = set()
    # A recording may say that two processes are each other's parents: then neither hangs on a root.
    for start in (children[None], rows):
        waiting = [("", "", row) for row in reversed(start)]
        while waiting:
            branch, below, row = waiting.pop()
            if row.identity.pid in seen:
                continue
            seen.add(row.identity.pid)
            placed.append((branch, row))
            young = children[row.identity.pid]
            for place, child in reversed(list(enumerate(young))):
                last = place == len(young) - 1
                waiting.append((below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), child))
    return placed
