"""Lines of a screen: spans of text with the name of a style, each exactly as wide as it is meant to be."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.style import Style

Span = tuple[str, str]
"""Text, and the name of its style."""
Line = tuple[Span, ...]

# The sixteen colours that every terminal has, as its owner has set them.
_COLORED = {
    "": "",
    "dim": "dim",
    "bold": "bold",
    "head": "black on green",
    "cursor": "black on cyan",
    "label": "black on cyan",
    "frame": "bold cyan",
    "tagged": "bold yellow",
    "definite": "bold red",
    "growing": "bold magenta",
    "possible": "yellow",
    "outstanding": "yellow",
    "warning": "yellow",
    "good": "green",
    "bar": "green",
    "swap bar": "red",
    "headline": "bold",
    "reachable": "",
    "indirect": "",
}
_PLAIN = {"head": "bold underline", "cursor": "reverse", "label": "reverse", "tagged": "bold underline", "definite": "bold"}


def styles(*, color: bool) -> dict[str, Style]:
    """How each style looks."""
    chosen = (
        _COLORED if color else {name: _PLAIN.get(name, "bold" if name in ("frame", "growing", "bold") else "") for name in _COLORED}
    )
    return {name: Style.parse(text) for name, text in chosen.items()}


def fit(text: str, width: int, *, right: bool = False) -> str:
    """The text, cut or filled to a number of cells."""
    if not text.isascii():
        if right:
            text = " " * (width - cell_len(text)) + text
        return set_cell_size(text, max(width, 0))
    if len(text) > width:
        return text[: max(width, 0)]
    return text.rjust(width) if right else text.ljust(width)


def cells(text: str) -> int:
    """How many cells a text takes."""
    return len(text) if text.isascii() else cell_len(text)


def fit_line(spans: list[Span], width: int) -> Line:
    """Spans, cut or filled to a number of cells."""
    line: list[Span] = []
    left = width
    for text, style in spans:
        size = cells(text)
        if size > left:
            text, size = fit(text, left), left
        if size:
            line.append((text, style))
        left -= size
        if left <= 0:
            break
    if left > 0:
        line.append((" " * left, ""))
    return tuple(line)


def wrapped(text: str, width: int, most: int) -> list[str]:
    """Words on lines of at most so many cells; what does not fit on so many lines ends in `…`."""
    lines: list[str] = []
    line, width = "", max(width, 1)
    for word in text.split():
        if cells(word) > width:
            word = fit(word, width - 1) + "…"
        if line and cells(line) + 1 + cells(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    lines.append(line)
    if len(lines) > most:
        lines = lines[:most]
        lines[-1] = fit(lines[-1], min(cells(lines[-1]), width - 1)) + "…"
    return lines


def changed(before: Line | None, after: Line) -> tuple[int, int] | None:
    """From which cell to which (it not among them) two lines differ; None where they are equal."""
    if before == after:
        return None
    width = sum(cells(text) for text, _ in after)
    if before is None:
        return 0, width
    start = end = 0
    for one, other in zip(before, after, strict=False):
        if one != other:
            break
        start += cells(one[0])
    for one, other in zip(reversed(before), reversed(after), strict=False):
        if one != other:
            break
        end += cells(one[0])
    old = sum(cells(text) for text, _ in before)
    return (start, width - end) if old == width and start < width - end else (0, width)


def part(line: Line, start: int, end: int) -> list[Span]:
    """The cells of a line from one to another (it not among them)."""
    found: list[Span] = []
    at = 0
    for text, style in line:
        size = cells(text)
        if at < end and at + size > start:
            head, tail = max(start - at, 0), min(end - at, size)
            if (head, tail) != (0, size):
                # A wide character that the cut goes through becomes a space.
                text = fit(text, tail)
                text = text[head:] if text.isascii() else _behind(text, head)
            found.append((text, style))
        at += size
    return found


def _behind(text: str, width: int) -> str:
    place = 0
    while place < len(text) and cells(text[:place]) < width:
        place += 1
    return " " * (cells(text[:place]) - width) + text[place:]


def overlaid(lines: list[Line], box: list[Line], left: int, top: int) -> list[Line]:
    """Lines with a box in front of them."""
    found = list(lines)
    for number, front in enumerate(box):
        y = top + number
        if 0 <= y < len(found):
            width = sum(cells(text) for text, _ in front)
            whole = sum(cells(text) for text, _ in found[y])
            behind = part(found[y], left + width, whole)
            found[y] = fit_line([*part(found[y], 0, left), *front, *behind], whole)
    return found


def framed(title: str, body: list[Line], width: int) -> list[Line]:
    """Lines in a frame."""
    inner = width - 2
    head = fit(f"─ {title} " if title else "", min(cells(title) + 3, inner) if title else 0)
    lines: list[Line] = [((f"┌{head}{'─' * (inner - cells(head))}┐", "frame"),)]
    lines += [(("│", "frame"), *fit_line(list(line), inner), ("│", "frame")) for line in body]
    return [*lines, ((f"└{'─' * inner}┘", "frame"),)]
