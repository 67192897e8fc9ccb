"""Styled lines on a terminal, plain ones through a pipe."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import IO, Literal

Color = Literal["auto", "always", "never"]
_STYLES = {
    "headline": "bold",
    "definite": "bold red",
    "possible": "yellow",
    "outstanding": "yellow",
    "growing": "magenta",
    "reachable": "",
    "indirect": "",
    "dim": "dim",
    "warning": "yellow",
    "good": "green",
}


def wants_color(stream: IO[str], color: Color) -> bool:
    """Whether to use colours: as asked, else on a terminal where NO_COLOR (no-color.org) is not set."""
    if color != "auto":
        return color == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


Line = tuple[str, str] | list[tuple[str, str]]
"""A text with its style, or several that stand on one line. A style is a name of _STYLES, or a colour `#rrggbb`."""


def write_lines(lines: Iterable[Line], stream: IO[str], color: Color) -> None:
    """Write lines with their styles. Long ones are left to the terminal: what is cut cannot be searched for."""
    if not wants_color(stream, color):
        plain = [line[0] if isinstance(line, tuple) else "".join(text for text, _ in line).rstrip(" ") for line in lines]
        stream.write("\n".join([*plain, ""]))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, force_terminal=True, highlight=False, soft_wrap=True)
    for line in ([line] if isinstance(line, tuple) else line for line in lines):
        console.print(Text.assemble(*((text, style if style.startswith("#") else _STYLES.get(style, "")) for text, style in line)))
