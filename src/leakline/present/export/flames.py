"""Findings as a flame graph: one SVG that takes no script, for eyes in light and dark rooms.

After https://www.brendangregg.com/flamegraphs.html: the callers lie below, the allocation on top, and the width is bytes. At the
bottom stand the processes, and on each its kinds, which are not added up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.sax.saxutils import escape

from leakline.model.finding import FindingKind, Report
from leakline.present.export.samples import frame_name, samples, without_stack
from leakline.present.text import amount, counted, frame_place, printable

_WIDTH, _MARGIN, _ROW = 1200, 16, 20
_HEAD, _FOOT = 74, 14
_LETTER = 6.75
"""The width of a letter of 11 pixels, in the widest of the fonts that may be there."""
_NARROWEST, _NARROWEST_FRAMED = 0.4, 5.0
_MOST_ROWS = 150
_MOST_PLACES = 3
_NOT_IN_XML = "[\ufffe\uffff]"
# Fills for each kind in a light and in a dark scheme, three shades each, so that neighbours differ; texts have contrasts over 4.5.
_KINDS: dict[FindingKind, tuple[str, str]] = {
    "definite": ("#f2a49b #f5b5ad #ee958b", "#8c2f27 #7d2a23 #9b352c"),
    "indirect": ("#f3c1a5 #f6cdb6 #efb594", "#7a4426 #6c3c22 #884c2b"),
    "possible": ("#f5d58c #f7dda2 #f2cd76", "#6f5417 #624a14 #7c5e1a"),
    "growing": ("#d9b8e8 #e1c6ed #d1aae3", "#643a78 #58336a #704186"),
    "outstanding": ("#aed3ee #bfdcf2 #9dcaea", "#27546f #224a62 #2c5e7c"),
    "reachable": ("#bfdcb8 #cce4c6 #b2d4aa", "#345c2c #2e5127 #3a6731"),
}
_RANKS: dict[str, int] = {kind: number for number, kind in enumerate(_KINDS)}
_OF_KIND = "kind"
"""In place of a module: no frame has this one, as theirs tell whether they are inlined."""


@dataclass
class _Node:
    """A frame below which several stacks may part."""

    name: str
    bytes: int = 0
    blocks: int = 0
    places: dict[str, None] = field(default_factory=dict)
    children: dict[tuple[str, str], _Node] = field(default_factory=dict)
    answers: bool = False

    def child(self, name: str, module: str) -> _Node:
        return self.children.setdefault((name, module), _Node(name))


class _Box(NamedTuple):
    node: _Node
    x: float
    width: float
    row: int
    kind: FindingKind | None
    total: int
    """Bytes of its process's findings of this kind."""


def to_svg(reports: Sequence[Report]) -> str:
    """The picture of all findings that have bytes; what hangs on the blocks is counted in."""
    root, sums = _tree(reports)
    boxes = list(_layout(root))
    rows = max((box.row for box in boxes), default=0) + 1
    height = _HEAD + _ROW * rows + _FOOT
    names = list(root.children)
    title = "no findings" if not names else names[0][0] if len(names) == 1 else f"{len(names)} processes"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{_text(title)}" font-family="DejaVu Sans, Liberation Sans, Arial, sans-serif" font-size="11">',
        f"<title>{_text(title)}</title>",
        f"<style>{_style()}</style>",
        '<rect class="paper" width="100%" height="100%"/>',
        f'<text class="ink" x="{_MARGIN}" y="28" font-size="17" font-weight="bold">{_text(title)}</text>',
        *_legend(sums),
        *(_box(box, height) for box in boxes),
    ]
    return "".join([*parts, "</svg>\n"])


def _tree(reports: Sequence[Report]) -> tuple[_Node, dict[FindingKind, int]]:
    root = _Node("")
    sums: Counter[FindingKind] = Counter()
    for sample in samples(reports):
        if sample.bytes <= 0:
            continue
        finding = sample.finding
        sums[sample.kind] += sample.bytes
        process = root.child(sample.process, "")
        path = [root, process, process.child(sample.kind, _OF_KIND)]
        answered = False
        for frame in reversed(finding.stack):
            path.append(path[-1].child(frame_name(frame), f"{frame.module} {frame.inlined}"))
            path[-1].places[frame_place(frame) + (" (inlined)" if frame.inlined else "")] = None
        for node, frame in zip(reversed(path), finding.stack, strict=False):
            if not answered and frame.location == finding.location:
                node.answers = answered = True
        if not finding.stack:
            path.append(path[-1].child(without_stack(finding), ""))
        for node in path:
            node.bytes += sample.bytes
            node.blocks += sample.blocks
    return root, sums


def _order(item: tuple[tuple[str, str], _Node]) -> tuple[int, int, str]:
    (name, module), node = item
    return (_RANKS[name] if module == _OF_KIND else 0, -node.bytes, name)


def _layout(root: _Node) -> Iterator[_Box]:
    """Places the nodes: kinds by how bad they are, else the widest first. What is too narrow to see is left out."""
    scale = (_WIDTH - 2 * _MARGIN) / max(root.bytes, 1)
    waiting: list[tuple[_Node, float, int, FindingKind | None, int]] = [(root, _MARGIN, -1, None, 0)]
    while waiting:
        node, x, row, kind, total = waiting.pop()
        if row >= 0:
            yield _Box(node, x, node.bytes * scale, row, kind, total)
        if row + 1 >= _MOST_ROWS:
            continue
        for (name, module), child in sorted(node.children.items(), key=_order):
            if child.bytes * scale >= _NARROWEST:
                below = next((known for known in _KINDS if module == _OF_KIND and known == name), kind)
                waiting.append((child, x, row + 1, below, child.bytes if row == 0 else total))
            x += child.bytes * scale


def _style() -> str:
    light, dark = [], []
    for kind, (fills, dark_fills) in _KINDS.items():
        for shade, (fill, dark_fill) in enumerate(zip(fills.split(), dark_fills.split(), strict=True)):
            light.append(f".{kind}{shade}{{fill:{fill}}}")
            dark.append(f".{kind}{shade}{{fill:{dark_fill}}}")
    return (
        ".paper{fill:#fff}.ink{fill:#1f2328}.faint{fill:#59636e}.process{fill:#d8dee4}.answer{stroke:#1f2328;stroke-width:1.5}"
        + "".join(light)
        + "@media (prefers-color-scheme:dark){.paper{fill:#0d1117}.ink{fill:#f0f6fc}.faint{fill:#9198a1}.process{fill:#3d444d}"
        + ".answer{stroke:#f0f6fc}"
        + "".join(dark)
        + "}"
    )


def _legend(sums: dict[FindingKind, int]) -> Iterator[str]:
    if not sums:
        return
    text = "width: bytes, with what hangs on the blocks; a frame stands on its caller; framed: the place to look at"
    yield f'<text class="faint" x="{_WIDTH - _MARGIN}" y="28" text-anchor="end">{text}</text>'
    x = float(_MARGIN)
    for kind in _KINDS:
        if kind in sums:
            text = f"{kind} {amount(sums[kind])}"
            yield f'<rect class="{kind}0" x="{x:.1f}" y="42" width="12" height="12" rx="2"/>'
            yield f'<text class="ink" x="{x + 18:.1f}" y="52">{_text(text)}</text>'
            x += 18 + _LETTER * len(text) + 20


def _box(box: _Box, height: int) -> str:
    node = box.node
    y = height - _FOOT - _ROW * (box.row + 1)
    shade = sum(node.name.encode("utf-8", "replace")) % 3
    look = f"{box.kind}{shade if box.row > 1 else 0}" if box.kind else "process"
    framed = node.answers and box.width >= _NARROWEST_FRAMED
    if framed:
        look += " answer"
    inset = 0.75 if framed else 0.0
    width = max(box.width - 0.5 - 2 * inset, 0.1)
    place = f'x="{box.x + inset:.2f}" y="{y + inset:.2f}" width="{width:.2f}" height="{_ROW - 1 - 2 * inset:.2f}"'
    rectangle = f'<rect class="{look}" {place} rx="2"/>'
    label = _fitting(node, box.width - 8)
    text = f'<text class="ink" x="{box.x + 4:.2f}" y="{y + 13.5:.1f}">{_text(label)}</text>' if label else ""
    return f"<g><title>{_text(_tip(box))}</title>{rectangle}{text}</g>"


def _tip(box: _Box) -> str:
    node = box.node
    places = [*list(node.places)[:_MOST_PLACES], *(["…"] if len(node.places) > _MOST_PLACES else [])]
    where = f" at {', '.join(places)}" if places else ""
    blocks = f" in {counted(node.blocks, 'block')}" if node.blocks else ""
    share = f", {100 * node.bytes / box.total:.1f} % of what is {box.kind}" if box.row > 1 else ""
    return f"{node.name}{where}: {amount(node.bytes)}{blocks}{share}"


def _fitting(node: _Node, width: float) -> str:
    """The name, with its line where that is one and there is room, or as much of the name as fits."""
    most = int(width / _LETTER)
    name = printable(node.name)
    if len(node.places) == 1:
        whole = f"{name}  {next(iter(node.places))}"
        if len(whole) <= most:
            return whole
    if len(name) <= most:
        return name
    return f"{name[: most - 1]}…" if most >= 3 else ""


def _text(text: str) -> str:
    return escape(re.sub(_NOT_IN_XML, "\ufffd", printable(text)), {'"': "&quot;"})
