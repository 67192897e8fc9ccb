"""How a process's amounts stand in a row: what has not changed since its last row is NULL, and takes no space.

Pss, rss and anon stand as what they have more than uss: in a process that grows these stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = ("uss", "pss_over", "rss_over", "swap", "anon_over", "file", "shmem", "page_tables", "minor_faults", "major_faults")
"""KiB, and counts of faults."""
UNKNOWN = -(1 << 60)
"""What could not be read."""
_OVER_USS = (1, 2, 4)

Amounts = tuple[int | None, ...]
"""Absolute, in the order of COLUMNS; None is unknown."""
Row = tuple[int | None, ...]


def row_of(before: Amounts | None, now: Amounts) -> Row:
    """The row that leads from one to the next; a whole one where there is none before."""
    written = _written(now)
    if before is None:
        return written
    return tuple(None if old == new else new for old, new in zip(_written(before), written, strict=True))


def amounts_after(before: Amounts | None, row: Row) -> Amounts:
    """What a row says after the one before it."""
    old = (None,) * len(COLUMNS) if before is None else _written(before)
    new = [o if r is None else r for o, r in zip(old, row, strict=True)]
    found: list[int | None] = [None if value == UNKNOWN else value for value in new]
    base = found[0] or 0
    for place in _OVER_USS:
        over = found[place]
        found[place] = None if over is None else over + base
    return tuple(found)


def _written(amounts: Sequence[int | None]) -> Row:
    base = amounts[0] or 0
    return tuple(UNKNOWN if value is None else value - base if place in _OVER_USS else value for place, value in enumerate(amounts))


def held(amounts: Amounts) -> int | None:
    """USS + swap; RSS where that is all that is known."""
    uss, rss, swap = amounts[0], amounts[2], amounts[3]
    return rss if uss is None else uss + (swap or 0)
