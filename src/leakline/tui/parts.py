"""Parts of the screens: bars, menus, the line of keys, the time slider."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.present.text import clock_time, compact, hours
from leakline.tui.lines import cells, fit, fit_line, framed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.model.memory import SystemMemory
    from leakline.tui.lines import Line, Span

_BAR = 26


def memory_bars(memory: SystemMemory | None) -> list[Span]:
    """What of memory and swap is in use, as bars."""
    if memory is None:
        return [(fit("Mem[ not known ]", 2 * _BAR + 1), "dim")]
    free = memory.free if memory.available is None else memory.available
    swap = memory.swap_total - memory.swap_free
    return [
        *_bar("Mem", memory.total - free, memory.total, "bar"),
        (" ", ""),
        *_bar("Swp", swap, memory.swap_total, "swap bar"),
    ]


def _bar(name: str, used: int, total: int, style: str) -> list[Span]:
    room = _BAR - len(name) - 2
    label = f"{compact(used)}/{compact(total)}"
    full = round(room * min(max(used / total, 0.0), 1.0)) if total > 0 else 0
    text = ("|" * full).ljust(room)[: room - len(label)] + label
    return [(f"{name}[", "bold"), (text[:full], style), (text[full:], "dim"), ("]", "bold")]


def key_line(keys: Sequence[tuple[str, str]], width: int) -> Line:
    """Which key does what, as htop has it in its last line."""
    spans: list[Span] = []
    used = 0
    for place, (key, label) in enumerate(keys):
        # The last one is how to get out: it stays, whatever there is no room for.
        if place < len(keys) - 1 and used + cells(key + label) + 1 + sum(map(cells, keys[-1])) > width:
            continue
        spans += [(key, "bold"), (f"{label} ", "label")]
        used += cells(key + label) + 1
    return fit_line(spans, width)


class Menu:
    """A list to choose from.

    Args:
        title: above it.
        items: what can be chosen.
        chosen: which one stands out at first.

    """

    def __init__(self, title: str, items: Sequence[str], chosen: int = 0) -> None:
        self.title, self.items, self.chosen = title, list(items), chosen
        self._top = 0

    def key(self, key: str) -> None:
        """Move."""
        step = {"up": -1, "down": 1, "pageup": -8, "pagedown": 8, "home": -len(self.items), "end": len(self.items)}.get(key, 0)
        self.chosen = min(max(self.chosen + step, 0), len(self.items) - 1)

    def box(self, height: int) -> list[Line]:
        """It in a frame, no higher than that."""
        rows = max(1, min(len(self.items), height - 2))
        self._top = min(max(self._top, self.chosen - rows + 1), self.chosen)
        width = max([cells(self.title) + 4, *(min(cells(item), 40) + 4 for item in self.items)])
        body: list[Line] = []
        for place in range(self._top, min(self._top + rows, len(self.items))):
            style = "cursor" if place == self.chosen else ""
            body.append(((fit(f" {self.items[place]}", width - 2), style),))
        return framed(self.title, body, width)


class Timeline:
    """Where in a recording one is.

    Args:
        count: ticks.

    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.place = count - 1
        self.playing = False

    @property
    def stride(self) -> int:
        """Ticks from picture to picture while it plays: the whole takes a minute at most."""
        return max(1, -(-self._count // 300))

    def key(self, key: str) -> bool:
        """Move; whether the key is one of its own."""
        far = max(1, self._count // 20)
        steps = {"left": -1, "right": 1, "[": -far, "]": far, "{": -self._count, "}": self._count}
        steps |= {"shift+left": -far, "shift+right": far}
        if key == "p":
            self.playing = not self.playing
            if self.playing and self.place == self._count - 1:
                self.place = 0
        elif key in steps:
            self.playing = False
            self._go(self.place + steps[key])
        else:
            return False
        return True

    def advance(self) -> None:
        """Play on; it stops at the end."""
        self._go(self.place + self.stride)
        self.playing = self.playing and self.place < self._count - 1

    def _go(self, place: int) -> None:
        self.place = min(max(place, 0), self._count - 1)

    def line(self, elapsed: float, whole: float, wall: float, width: int) -> Line:
        """The slider."""
        sign = "▶" if self.playing else "■"
        before, after = f" {sign} {hours(elapsed)} ", f" {hours(whole)}  {clock_time(wall)} "
        room = max(3, width - cells(before) - cells(after) - 2)
        at = round((room - 1) * (self.place / (self._count - 1))) if self._count > 1 else 0
        return fit_line(
            [(before, "bold"), ("├" + "─" * at, "frame"), ("●", "tagged"), ("─" * (room - at - 1) + "┤", "frame"), (after, "dim")],
            width,
        )
