"""The list of processes: what is on the screen, and what each key does to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from leakline.present.text import clock_time, compact, compact_rate, printable
from leakline.present.trends import explain
from leakline.tui.columns import SORTS, as_tree, command_of, header, layout_for, ordered, row_cells
from leakline.tui.lines import cells, fit, fit_line, overlaid, wrapped
from leakline.tui.parts import Menu, Timeline, key_line, memory_bars

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leakline.model.overview import Overview, ProcessRow
    from leakline.model.recording import ProcessIdentity
    from leakline.tui.lines import Line

Command = Literal["quit", "open", "help", "moved"]
_KEYS = (("F1", "Help"), ("F3", "Search"), ("F4", "Filter"), ("F5", "Tree"), ("F6", "SortBy"), ("u", "User"), ("⏎", "Open"))
_ALL_USERS = "all users"
_NOT_YET = "not judged yet: it takes 5 samples"
_UNREADABLE = "its mappings may not be read, so USS and PSS are unknown; as root, or with CAP_SYS_PTRACE, they are not"


class ProcessList:
    """The first screen.

    Args:
        history: what a process held so far, in so many points.
        title: of whose processes they are.
        sort: the column at first.
        user: whose processes at first; None for all.
        timeline: of a recording.
        whole: seconds that the recording spans.

    """

    def __init__(
        self,
        history: Callable[[ProcessIdentity, int], Sequence[float]],
        title: str,
        *,
        sort: str = "growth",
        user: str | None = None,
        timeline: Timeline | None = None,
        whole: float = 0.0,
    ) -> None:
        self._history, self._title = history, title
        self.sort, self.inverted, self.tree = sort, False, False
        self.filter, self.search, self.user = "", "", user
        self.tags: set[tuple[int, int]] = set()
        self.timeline, self._whole = timeline, whole
        self.frozen = False
        self.note: str | None = None
        """What stands in the place of the explanation: an error, the end of all."""
        self.overview: Overview | None = None
        self._shown: list[tuple[str, ProcessRow]] = []
        self._chosen: tuple[int, int] | None = None
        self._cursor = self._top = 0
        self._page = 10
        self._menu: Menu | None = None
        self._typing: Literal["search", "filter"] | None = None

    # What is shown

    def take(self, overview: Overview) -> None:
        """Show another moment."""
        self.overview = overview
        if self.tags and self.timeline is None:
            self.tags &= {row.key for row in overview.rows}
        self._arrange()

    def _arrange(self) -> None:
        """Filter and sort; the cursor stays with its process once it was moved."""
        rows = self.overview.rows if self.overview else ()
        if self.filter or self.user is not None:
            rows = [row for row in rows if self._fits(row)]
        rows = ordered(rows, self.sort, inverted=self.inverted)
        self._shown = as_tree(rows) if self.tree else [("", row) for row in rows]
        if self._chosen is None:
            self._cursor = 0
        else:
            places = (place for place, (_, row) in enumerate(self._shown) if row.key == self._chosen)
            self._cursor = max(0, next(places, min(self._cursor, len(self._shown) - 1)))

    def _fits(self, row: ProcessRow) -> bool:
        if self.user is not None and row.identity.user != self.user:
            return False
        if not self.filter:
            return True
        text = _searched(row)
        return any(word in text for word in self.filter.lower().split("|") if word)

    @property
    def chosen(self) -> ProcessRow | None:
        """The process under the cursor."""
        return self._shown[self._cursor][1] if self._cursor < len(self._shown) else None

    @property
    def rows(self) -> list[ProcessRow]:
        """Those that are shown, in order."""
        return [row for _, row in self._shown]

    # Keys

    def key(self, key: str) -> Command | None:
        """What a key does; what is left to be done by whoever holds the screen."""
        if self._typing is not None:
            self._type(key)
            return None
        if self._menu is not None:
            self._choose(self._menu, key)
            return None
        if key in ("q", "f10", "ctrl+c"):
            return "quit"
        if key == "enter":
            return "open" if self.chosen is not None else None
        if key in ("f1", "h", "?"):
            return "help"
        if self.timeline is not None and self.timeline.key(key):
            return "moved"
        self._act(key)
        return None

    def _act(self, key: str) -> None:
        moves = {"up": -1, "down": 1, "k": -1, "j": 1, "pageup": -self._page, "pagedown": self._page}
        moves |= {"home": -len(self._shown), "end": len(self._shown)}
        sorts = {"M": "uss", "P": "pss", "N": "pid", "G": "growth"}
        if key in moves:
            self._move(self._cursor + moves[key])
        elif key in ("f3", "/"):
            if key == "f3" and self.search:
                self._find(1)
            else:
                self._typing, self.search = "search", ""
        elif key == "n":
            self._find(1)
        elif key in ("f4", "\\"):
            self._typing = "filter"
        elif key in ("f5", "t"):
            self.tree = not self.tree
        elif key in ("f6", ">", "<", ".", ","):
            self._menu = Menu("Sort by", SORTS, SORTS.index(self.sort))
        elif key == "I":
            self.inverted = not self.inverted
        elif key in sorts:
            self.sort, self.inverted = sorts[key], False
        elif key == "u":
            users = sorted({row.identity.user or "-" for row in (self.overview.rows if self.overview else ())})
            names = [_ALL_USERS, *map(printable, users)]
            self._menu = Menu("User", names, names.index(self.user) if self.user in names else 0)
        elif key == " " and self.chosen is not None:
            self.tags ^= {self.chosen.key}
            self._move(self._cursor + 1)
        elif key == "U":
            self.tags.clear()
        elif key == "Z":
            self.frozen = not self.frozen
        elif key == "escape":
            self.filter = self.search = ""
        self._arrange()

    def _move(self, place: int) -> None:
        self._cursor = min(max(place, 0), max(len(self._shown) - 1, 0))
        self._chosen = self.chosen.key if self._cursor and self.chosen is not None else None

    def _type(self, key: str) -> None:
        mode = self._typing
        text = self.search if mode == "search" else self.filter
        if key in ("enter", "escape"):
            self._typing = None
            text = "" if key == "escape" else text
        elif key == "backspace":
            text = text[:-1]
        elif key == "ctrl+u":
            text = ""
        elif key in ("f3", "down") and mode == "search":
            self._find(1)
        elif key in ("shift+f3", "f15", "up") and mode == "search":
            self._find(-1)
        elif len(key) == 1 and key.isprintable() and len(text) < 80:
            text += key
        if mode == "search":
            grown, self.search = text != self.search, text
            if grown and text:
                self._find(0)
        else:
            self.filter = text
            self._arrange()

    def _find(self, step: int) -> None:
        """Go to the next process that is found, or the one before, from the cursor on and round."""
        count = len(self._shown)
        for offset in range(count):
            place = (self._cursor + step + (offset if step >= 0 else -offset)) % count
            if self.search and self.search.lower() in _searched(self._shown[place][1]):
                self._move(place)
                return

    def _choose(self, menu: Menu, key: str) -> None:
        if key in ("escape", "q"):
            self._menu = None
        elif key in ("enter", "f6", " "):
            self._menu = None
            chosen = menu.items[menu.chosen]
            if menu.title == "Sort by":
                self.sort, self.inverted = chosen, False
            else:
                users = {
                    printable(row.identity.user or "-"): row.identity.user for row in (self.overview.rows if self.overview else ())
                }
                self.user = None if menu.chosen == 0 else users.get(chosen, chosen)
            self._arrange()
        else:
            menu.key(key)

    # Lines

    def lines(self, width: int, height: int) -> list[Line]:
        """The whole screen."""
        layout = layout_for(width)
        told = 2 if height >= 18 else 1 if height >= 8 else 0
        rows = max(1, height - 3 - told - 1 - (self.timeline is not None))
        self._page = rows
        self._top = max(0, min(self._top, self._cursor, len(self._shown) - rows))
        self._top = max(self._top, self._cursor - rows + 1)
        lines = [
            self._headline(width),
            fit_line([*memory_bars(self.overview.memory if self.overview else None), *self._state()], width),
        ]
        lines.append(fit_line(list(header(layout, self.sort, inverted=self.inverted)), width))
        for place in range(self._top, self._top + rows):
            if place >= len(self._shown):
                lines.append(((" " * width, ""),))
                continue
            branch, row = self._shown[place]
            style = "cursor" if place == self._cursor else "tagged" if row.key in self.tags else None
            lines.append(fit_line(row_cells(row, layout, self._history(row.identity, layout.trend), branch, style), width))
        if self.timeline is not None and self.overview is not None:
            lines.append(self.timeline.line(self.overview.elapsed, self._whole, self.overview.time, width))
        told_lines = self._told(width, told)
        lines += told_lines
        lines.append(self._last_line(width))
        lines = lines[:height]
        if self._menu is not None:
            lines = overlaid(lines, self._menu.box(height - 4), 0, 2)
        return lines

    def _headline(self, width: int) -> Line:
        overview = self.overview
        if overview is None:
            return fit_line([("leakline top", "bold"), ("  looking ...", "")], width)
        grow = sum(row.trend is not None and row.trend.accuses for row in overview.rows)
        clock = clock_time(overview.time)[11:]
        count = len(overview.rows)
        many = f"{count:,} process{'' if count == 1 else 'es'}"
        spans = [("leakline top", "bold"), (f"  {printable(self._title)}  {clock}  {many}", "")]
        spans.append((f", {grow:,} grow", "growing" if grow else ""))
        if len(overview.rows) != len(self._shown):
            spans.append((f", {len(self._shown):,} shown", ""))
        if overview.unreadable:
            spans.append((f", {overview.unreadable:,} may not be read", "warning"))
        if self.frozen:
            spans.append(("  FROZEN (Z)", "warning"))
        return fit_line(spans, width)

    def _state(self) -> list[tuple[str, str]]:
        said = []
        if self.tags and self.overview is not None:
            tagged = [row for row in self.overview.rows if row.key in self.tags]
            held = sum(row.amounts.held or 0 for row in tagged)
            rate = sum(
                row.trend.rate_bytes_per_second or 0.0 for row in tagged if row.trend is not None and row.trend.is_noteworthy
            )
            said.append((f"  {len(self.tags)} tagged: {compact(held)} {compact_rate(rate)}", "tagged"))
        if self.filter and self._typing != "filter":
            said.append((f"  filter {printable(self.filter)}", "warning"))
        if self.user is not None:
            said.append((f"  user {printable(self.user)}", "warning"))
        return said

    def _told(self, width: int, most: int) -> list[Line]:
        if not most:
            return []
        style = ""
        if self.note is not None:
            text, style = self.note, "warning"
        else:
            text = self._why()
        lines = wrapped(text, width, most)
        return [fit_line([(line, style)], width) for line in [*lines, *[""] * (most - len(lines))]]

    def _why(self) -> str:
        row = self.chosen
        if row is None:
            return "no process is shown: Esc takes the filter away, u chooses another user" if self.overview else ""
        who = f"{printable(row.identity.command)} ({row.identity.pid}): "
        if row.trend is not None:
            return who + ("AT-RISK " if row.trend.at_risk else "") + f"{row.trend.verdict}: {explain(row.trend)}"
        return who + (_UNREADABLE if row.amounts.uss is None else _NOT_YET)

    def _last_line(self, width: int) -> Line:
        if self._typing is not None:
            label = "Search: " if self._typing == "search" else "Filter: "
            text = printable(self.search if self._typing == "search" else self.filter)
            more = "  F3 Next  Esc Cancel" if self._typing == "search" else "  ⏎ Keep  Esc Clear"
            room = max(width - len(label) - cells(more) - 1, 1)
            shown = text if cells(text) <= room else text[-room:]
            return fit_line([(label, "bold"), (shown, ""), ("█", ""), (fit(more, cells(more)), "dim")], width)
        keys = [*_KEYS, ("←→", "Time"), ("p", "Play")] if self.timeline is not None else list(_KEYS)
        return key_line([*keys, ("F10", "Quit")], width)


def _searched(row: ProcessRow) -> str:
    return f"{row.identity.pid} {row.identity.command} {command_of(row)}".lower()
