"""Many series asked for in pieces: matchers that each name about a thousand of them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    Labels = Mapping[str, str]

_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$])")  # of RE2 (regexp.QuoteMeta of Go)
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MOST_OTHERS = 3
"""So many series are named for each that is wanted, where labels allow fewer."""
_LONGEST_MATCHER = 8000  # VictoriaMetrics takes queries of 16 KiB (-search.maxQueryLen)


class Shard(NamedTuple):
    """Some of the series."""

    matchers: tuple[str, ...]
    """In PromQL, to be joined by commas."""
    numbers: tuple[int, ...]
    """Which series these are; the matchers may name others too that have come since."""


def quoted(text: str) -> str:
    """A string of PromQL."""
    return json.dumps(text, ensure_ascii=False)


def is_plain(name: str) -> bool:
    """Whether a label's name needs no quotes in PromQL."""
    return _NAME.fullmatch(name) is not None


def shards(series: Sequence[Labels], size: int, chosen: Collection[int] | None = None) -> list[Shard]:
    """Cut series into pieces.

    Args:
        series: the labels of each.
        size: how many there are in a piece at most, where labels tell them apart.
        chosen: the numbers of those that are wanted, all if None; the matchers name few others.

    """
    wanted = range(len(series)) if chosen is None else chosen
    return list(_cut(series, range(len(series)), frozenset(wanted), size, Shard((), ())))


def _cut(series: Sequence[Labels], numbers: Sequence[int], wanted: frozenset[int], size: int, above: Shard) -> Iterator[Shard]:
    """Pieces of the series that the matchers above name, which are these numbers."""
    mine = [number for number in numbers if number in wanted]
    if not mine:
        return
    found = None
    if len(mine) > size or len(mine) * _MOST_OTHERS < len(numbers):
        found = _finest(series, numbers)
    if found is None:
        yield Shard(above.matchers, tuple(mine))
        return
    label, groups = found
    part: list[int] = []
    values: list[str] = []
    length = 0
    for value, members in sorted(groups.items()):
        inside = [number for number in members if number in wanted]
        if not inside:
            continue
        if len(inside) > size or len(inside) * _MOST_OTHERS < len(members):
            below = Shard((*above.matchers, f"{label}={quoted(value)}"), ())
            yield from _cut(series, members, wanted, size, below)
            continue
        escaped = _SPECIAL.sub(r"\\\1", value)
        if part and (len(part) + len(inside) > size or length + len(escaped) > _LONGEST_MATCHER):
            yield Shard((*above.matchers, _either(label, values)), tuple(part))
            part, values, length = [], [], 0
        part += inside
        values.append(escaped)
        length += len(escaped) + 1
    if part:
        yield Shard((*above.matchers, _either(label, values)), tuple(part))


def _either(label: str, values: Sequence[str]) -> str:
    return f"{label}=~{quoted('|'.join(values))}"


def _finest(series: Sequence[Labels], numbers: Sequence[int]) -> tuple[str, dict[str, list[int]]] | None:
    """The label by which the largest piece is smallest; of equals, the one with the fewest values."""
    names = {name for number in numbers for name in series[number] if is_plain(name)} - {"__name__"}
    best: tuple[tuple[int, int, str], str, dict[str, list[int]]] | None = None
    for name in names:
        groups: dict[str, list[int]] = defaultdict(list)
        for number in numbers:
            groups[series[number].get(name, "")].append(number)
        if len(groups) > 1:
            order = (max(map(len, groups.values())), len(groups), name)
            if best is None or order < best[0]:
                best = (order, name, groups)
    return None if best is None else (best[1], best[2])
