"""Ranges of addresses: [start, end)."""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[int, int]


def subtract(ranges: Iterable[Range], without: Iterable[Range]) -> list[Range]:
    """Ranges less other ranges; sorted."""
    holes = sorted(without)
    result = []
    first = 0
    for start, end in sorted(ranges):
        while first < len(holes) and holes[first][1] <= start:
            first += 1
        at = start
        for index in range(first, len(holes)):
            hole_start, hole_end = holes[index]
            if hole_start >= end:
                break
            if hole_start > at:
                result.append((at, hole_start))
            at = max(at, hole_end)
        if at < end:
            result.append((at, end))
    return result


def union(ranges: Iterable[Range]) -> list[Range]:
    """The same addresses, sorted, without overlaps."""
    result: list[Range] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result
