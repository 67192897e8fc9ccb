"""An address space drawn as a text book draws it: high addresses above, gaps as long as their logarithm."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from leakline.model.mappings import VmaMemory
from leakline.present.text import amount, counted, printable

_WIDTH = 46
_PAGE = 4096
_KERNEL = 0xFFFF_8000_0000_0000
_END = 1 << 64
_STYLES = {
    "text": "#56B4E9",
    "rodata": "#56B4E9",
    "data": "#0072B2",
    "bss": "#0072B2",
    "heap": "#D55E00",
    "malloc arena": "#D55E00",
    "mmapped malloc chunk": "#D55E00",
    "stack": "#009E73",
    "thread stack": "#009E73",
    "anon": "#E69F00",
    "jit": "#CC79A7",
    "guard": "dim",
    "reserved": "dim",
}


@dataclass
class _Box:
    """Neighbours that belong together."""

    name: str
    style: str
    start: int
    end: int
    count: int
    size: int
    rss: int
    swap: int
    folder: str | None
    """Where it is a file that is no program's."""


def picture_lines(rows: Sequence[VmaMemory]) -> Iterator[list[tuple[str, str]]]:
    """The drawing.

    Args:
        rows: mappings in order of address.

    """
    boxes = [box for box in _boxes(rows) if box.start < _KERNEL]
    yield _edge(_END, "┌", "┐")
    yield _inside("kernel half", "dim", "not readable from here")
    if any(row.kind == "vsyscall" for row in rows):
        yield _inside("[vsyscall]", "dim", "")
    yield _edge(_KERNEL, "├", "┤")
    yield from _gap(_KERNEL - (1 << 47), "not canonical: no address of 48 bits lies here")
    above = 1 << 47
    if boxes and boxes[-1].end > above:  # 57-bit addresses
        above = boxes[-1].end
    yield _edge(above, "├", "┤")
    for box in reversed(boxes):
        if box.end < above:
            yield from _gap(above - box.end, "")
            yield _edge(box.end, "├", "┤")
        elif box.end != above:
            yield _edge(box.end, "├", "┤")
        yield from _drawn(box)
        yield _edge(box.start, "├", "┤")
        above = box.start
    if above:
        yield from _gap(above, "")
    yield _edge(0, "└", "┘")


def _boxes(rows: Sequence[VmaMemory]) -> list[_Box]:
    boxes: list[_Box] = []
    for row in rows:
        name, last = _name(row), boxes[-1] if boxes else None
        folder = os.path.dirname(row.path) if row.kind == "file" and row.path else None
        if last is not None and row.start - last.end < 64 * _PAGE and _belongs(row, name, folder, last):
            if folder is not None and last.name != name:
                last.name = f"{folder}/*"
            last.end, last.count = row.end, last.count + 1
            last.size, last.rss, last.swap = last.size + row.size, last.rss + row.rss, last.swap + row.swap
        else:
            boxes.append(_Box(name, _STYLES.get(row.kind, ""), row.start, row.end, 1, row.size, row.rss, row.swap, folder))
    return boxes


def _belongs(row: VmaMemory, name: str, folder: str | None, box: _Box) -> bool:
    """A file's mappings, its bss and the holes between them are one thing to the eye; so are the files of one folder."""
    if row.kind == "bss":
        return box.end == row.start
    return box.name == name or (folder is not None and folder == box.folder)


def _name(row: VmaMemory) -> str:
    return f"thread stack of {row.tid}" if row.kind == "thread stack" else row.path or f"({row.kind})"


def _edge(address: int, left: str, right: str) -> list[tuple[str, str]]:
    return [(f"{address - (address == _END):016x} ", "dim"), (left + "─" * _WIDTH + right, "")]


def _inside(text: str, style: str, beside: str) -> list[tuple[str, str]]:
    name = printable(text)
    if len(name) > _WIDTH - 2:
        name = "…" + name[-(_WIDTH - 3) :]
    return [(" " * 17 + "│", ""), (f"{name:^{_WIDTH}}", style), ("│ ", ""), (beside, "dim")]


def _drawn(box: _Box) -> Iterator[list[tuple[str, str]]]:
    facts = f"{amount(box.size)}, {amount(box.rss)} resident"
    facts += f", {amount(box.swap)} in swap" if box.swap else ""
    facts += f", {counted(box.count, 'mapping')}" if box.count > 1 else ""
    height = 1 + int(max(0, math.log2(max(box.size, 1) / (1 << 20))) / 5)
    for line in range(height):
        yield _inside(box.name if line == height // 2 else "", box.style, facts if line == height // 2 else "")


def _gap(size: int, note: str) -> Iterator[list[tuple[str, str]]]:
    """One line for each factor of 1,024 pages, so that what is far looks far."""
    height = 1 + int(math.log2(max(size // _PAGE, 1)) / 10)
    for line in range(height):
        beside = f"{amount(size)} of nothing" + (f"; {note}" if note else "") if line == height // 2 else ""
        yield [(" " * 17 + "┊" + " " * _WIDTH + "┊ ", "dim"), (beside, "dim")]
