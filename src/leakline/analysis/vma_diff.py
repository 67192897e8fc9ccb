"""What changed between two looks at the mappings of a process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from leakline.model.mappings import VmaChange, VmaMemory

_AMOUNTS = ("size", "rss", "pss", "uss", "anonymous", "swap")


def diff_mappings(before: Sequence[VmaMemory], after: Sequence[VmaMemory]) -> list[VmaChange]:
    """Mappings that are new, gone or hold another amount, in order of address.

    A mapping is the same where it begins or ends at the same address, with the same permissions and the same name: heaps grow
    upwards, stacks downwards.
    """
    old = {(row.start, row.perms, row.path): row for row in before}
    old_ends = {(row.end, row.perms, row.path): row for row in before}
    pairs: list[tuple[VmaMemory | None, VmaMemory | None]] = []
    met: set[int] = set()
    for row in after:
        earlier = old.get((row.start, row.perms, row.path)) or old_ends.get((row.end, row.perms, row.path))
        if earlier is not None and earlier.start in met:
            earlier = None
        if earlier is not None:
            met.add(earlier.start)
        pairs.append((earlier, row))
    pairs += [(row, None) for row in before if row.start not in met]
    found = [_change(a, b) for a, b in pairs if a is None or b is None or any(getattr(a, f) != getattr(b, f) for f in _AMOUNTS)]
    return sorted(found, key=lambda change: change.start or 0)


def diff_groups(before: Iterable[VmaMemory], after: Iterable[VmaMemory], by: str) -> list[VmaChange]:
    """Differences of sums over mappings of the same kind, path or permissions, where there are any."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0] * (len(_AMOUNTS) + 1))
    sides: dict[str, set[int]] = defaultdict(set)
    for sign, rows in ((-1, before), (1, after)):
        for row in rows:
            name = str(getattr(row, by) or "[anon]")
            sides[name].add(sign)
            amounts = sums[name]
            amounts[-1] += sign
            for place, column in enumerate(_AMOUNTS):
                amounts[place] += sign * getattr(row, column)
    found = []
    for name, (*amounts, count) in sums.items():
        if any(amounts) or count:
            kind: Literal["new", "gone", "changed"] = "changed" if len(sides[name]) == 2 else "new" if 1 in sides[name] else "gone"
            sums_of = dict(zip(_AMOUNTS, amounts, strict=True))
            found.append(VmaChange(change=kind, start=None, end=None, perms=None, name=name, count=count, **sums_of))
    return found


def total_changes(changes: Sequence[VmaChange]) -> VmaChange:
    """Their sum."""
    sums = {column: sum(getattr(change, column) for change in changes) for column in _AMOUNTS}
    count = sum(change.count for change in changes)
    return VmaChange(change="changed", start=None, end=None, perms=None, name="total", count=count, **sums)


def _change(before: VmaMemory | None, after: VmaMemory | None) -> VmaChange:
    row = after or before
    if row is None:
        raise AssertionError
    sums = {column: (getattr(after, column) if after else 0) - (getattr(before, column) if before else 0) for column in _AMOUNTS}
    return VmaChange(
        change="changed" if before and after else "new" if after else "gone",
        start=row.start,
        end=row.end,
        perms=row.perms,
        name=row.path or row.kind,
        count=0 if before and after else 1 if after else -1,
        **sums,
    )
