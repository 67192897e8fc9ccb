"""Thinning out old ticks: of a block of them one is left, with the value of each series that a quarter of them stay below.

That is what the detector reduces a block of samples to (leakline.analysis.floors), so a trend over months survives.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from leakline.store.schema import AMOUNTS, SHIFT

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

_BLOCKS = 24
_QUANTILE = 0.25
_Row = tuple[int | None, ...]
_ID = (1 << SHIFT) - 1


class Thinner:
    """Keeps the last ticks as they are, and a block of each twenty-fourth part before them.

    Args:
        connection: the recording.
        keep: ticks.

    """

    def __init__(self, connection: sqlite3.Connection, keep: int) -> None:
        self._connection = connection
        self._keep = max(keep, _BLOCKS)
        self._block = max(2, self._keep // _BLOCKS)
        self._whole = int(connection.execute("SELECT COUNT(*) FROM tick WHERE NOT thinned").fetchone()[0])

    def added(self) -> None:
        """A tick was written: thin out the oldest block once there are ticks enough behind it."""
        self._whole += 1
        while self._whole >= self._keep + self._block:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                thinned = self._thin()
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._whole -= thinned

    def _thin(self) -> int:
        run = self._connection.execute
        first = run("SELECT MIN(id) FROM tick WHERE NOT thinned").fetchone()[0]
        following = run("SELECT MIN(first_tick) FROM session WHERE first_tick > ?", (first,)).fetchone()[0]
        ticks = [
            number
            for (number,) in run("SELECT id FROM tick WHERE id >= ? ORDER BY id LIMIT ?", (first, self._block))
            if following is None or number < following
        ]
        last, count = ticks[-1], len(ticks)
        goes_on = run("SELECT COUNT(*) FROM tick WHERE id = ?", (last + 1,)).fetchone()[0] and last + 1 != following
        span = (first << SHIFT, (last + 1) << SHIFT)
        ends = dict(run("SELECT id, last_tick FROM process WHERE last_tick BETWEEN ? AND ?", (first, last)))
        columns = ", ".join((*AMOUNTS, "minor_faults", "major_faults"))
        processes = run(f"SELECT key, {columns} FROM process_row WHERE key >= ? AND key < ? ORDER BY key", span)  # noqa: S608
        self._replace("process_row", processes.fetchall(), span, ends, _held, goes_on=goes_on)
        counters = run("SELECT key, kib FROM counter_row WHERE key >= ? AND key < ? ORDER BY key", span)
        self._replace("counter_row", counters.fetchall(), span, {}, lambda row: row[0], goes_on=goes_on)
        run("UPDATE process SET first_tick = ? WHERE first_tick BETWEEN ? AND ?", (first, first, last))
        run("UPDATE process SET last_tick = ? WHERE last_tick BETWEEN ? AND ?", (first, first, last))
        middle = run("SELECT time, boottime FROM tick WHERE id = ?", (ticks[count // 2],)).fetchone()
        run("DELETE FROM tick WHERE id > ? AND id <= ?", (first, last))
        run("UPDATE tick SET time = ?, boottime = ?, stands_for = ?, thinned = 1 WHERE id = ?", (*middle, count, first))
        return count

    def _replace(
        self,
        table: str,
        rows: Sequence[tuple[int, *tuple[int | None, ...]]],
        span: tuple[int, int],
        ends: dict[int, int],
        measure: Callable[[_Row], int | None],
        *,
        goes_on: object,
    ) -> None:
        """One row for each process or counter at the first tick of the block; who goes on behind it, with another one there."""
        first, behind = span[0] >> SHIFT, span[1] >> SHIFT
        history: dict[int, list[tuple[int, _Row]]] = defaultdict(list)
        for key, *values in rows:
            history[key & _ID].append((key >> SHIFT, tuple(values)))
        kept, carried = [], []
        for number, changes in history.items():
            end = ends.get(number, behind - 1)
            kept.append(((first << SHIFT) + number, *_quarter(changes, end, measure)))
            if goes_on and number not in ends:
                carried.append(((behind << SHIFT) + number, *changes[-1][1]))
        holes = ", ".join("?" * (len(kept[0]) if kept else 1))
        self._connection.execute(f"DELETE FROM {table} WHERE key >= ? AND key < ?", span)  # noqa: S608
        self._connection.executemany(f"INSERT INTO {table} VALUES ({holes})", kept)  # noqa: S608
        self._connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({holes})", carried)  # noqa: S608


def _held(row: _Row) -> int | None:
    uss, rss, swap = row[0], row[2], row[3]
    return rss if uss is None else uss + (swap or 0)


def _quarter(changes: Sequence[tuple[int, _Row]], end: int, measure: Callable[[_Row], int | None]) -> _Row:
    """The row that a quarter of the time stays below."""
    lengths = [following - tick for (tick, _), (following, _) in zip(changes, [*changes[1:], (end + 1, ())], strict=True)]
    known = sorted(
        ((value, place) for place, (_, row) in enumerate(changes) if (value := measure(row)) is not None), key=lambda pair: pair[0]
    )
    if not known:
        return changes[-1][1]
    left = _QUANTILE * sum(max(lengths[place], 1) for _, place in known)
    for _, place in known:
        left -= max(lengths[place], 1)
        if left <= 0:
            return changes[place][1]
    return changes[known[-1][1]][1]
