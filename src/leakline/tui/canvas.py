"""The one widget: it keeps the lines that are on the terminal, and repaints the cells that change."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from leakline.tui.lines import changed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.style import Style

    from leakline.tui.lines import Line


class Canvas(Widget):
    """Lines on the whole screen.

    Args:
        styles: how each named style looks.

    """

    can_focus = True
    ALLOW_SELECT: ClassVar[bool] = False
    DEFAULT_CSS = "Canvas { width: 100%; height: 100%; }"

    def __init__(self, styles: Mapping[str, Style]) -> None:
        super().__init__()
        self._looks = styles
        self._lines: list[Line] = []
        self._strips: dict[int, Strip] = {}

    def show(self, lines: Sequence[Line]) -> None:
        """Put lines on the screen, from the top."""
        before, self._lines = self._lines, list(lines)
        regions = []
        for y, line in enumerate(self._lines):
            span = changed(before[y] if y < len(before) else None, line)
            if span is not None:
                self._strips.pop(y, None)
                regions.append(Region(span[0], y, span[1] - span[0], 1))
        for y in range(len(self._lines), len(before)):
            self._strips.pop(y, None)
            regions.append(Region(0, y, self.size.width, 1))
        if regions:
            self.refresh(*regions)

    def forget(self) -> None:
        """Paint everything anew next time."""
        self._lines, self._strips = [], {}

    @property
    def shown(self) -> list[Line]:
        """The lines that are on the screen."""
        return list(self._lines)

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join("".join(text for text, _ in line).rstrip() for line in self._lines)

    def render_line(self, y: int) -> Strip:
        """One line."""
        strip = self._strips.get(y)
        if strip is None:
            spans = self._lines[y] if y < len(self._lines) else ()
            strip = Strip([Segment(text, self._looks.get(style) or self._looks[""]) for text, style in spans])
            strip = self._strips[y] = strip.adjust_cell_length(self.size.width)
        return strip

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines of a part: there is no box, padding or background to be drawn around them."""
        return [self.render_line(y).crop(crop.x, crop.right) for y in crop.line_range]
