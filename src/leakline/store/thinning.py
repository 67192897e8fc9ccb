"""Thinning out old ticks: of a block of them one is left, with the value of each series that a quarter of them stay below.

That is what the detector reduces a block of samples to (leakline.analysis.floors), so a trend over months survives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.store.rows import COLUMNS, amounts_after, held, row_of
from leakline.store.schema import SHIFT

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

    from leakline.store.rows import Amounts, Row

_BLOCKS = 24
_QUANTILE = 0.25
_LEAST_TICKS = 5
_Keyed = tuple[int | None, ...]
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
        behind = ((last + 1) << SHIFT, (last + 2) << SHIFT)
        columns, between = ", ".join(COLUMNS), "WHERE key >= ? AND key < ? ORDER BY key"
        processes = _histories(run(f"SELECT key, {columns} FROM process_row {between}", span), amounts_after)  # noqa: S608
        changed = {key & _ID: tuple(row) for key, *row in run(f"SELECT key, {columns} FROM process_row {between}", behind)}  # noqa: S608
        kept, carried = [], []
        for number, history in processes.items():
            kept.append(((first << SHIFT) + number, *row_of(None, _quarter(history, ends.get(number, last), held))))
            if goes_on and number not in ends:
                now = history[-1][1] if number not in changed else amounts_after(history[-1][1], changed[number])
                carried.append((behind[0] + number, *row_of(None, now)))
        self._replace("process_row", span, kept, carried)
        counters = _histories(run(f"SELECT key, kib FROM counter_row {between}", span), lambda _before, row: row)  # noqa: S608
        changed = {key & _ID: tuple(row) for key, *row in run(f"SELECT key, kib FROM counter_row {between}", behind)}  # noqa: S608
        kept, carried = [], []
        for number, history in counters.items():
            value, now = _quarter(history, last, lambda row: row[0])[0], changed.get(number, history[-1][1])[0]
            kept.append(((first << SHIFT) + number, value))
            if goes_on and (value is not None or now is not None):  # what is gone is said once
                carried.append((behind[0] + number, now))
        self._replace("counter_row", span, kept, carried)
        self._drop_short(first, last)
        middle = run("SELECT time, boottime FROM tick WHERE id = ?", (ticks[count // 2],)).fetchone()
        run("DELETE FROM tick WHERE id > ? AND id <= ?", (first, last))
        run("UPDATE tick SET time = ?, boottime = ?, stands_for = ?, thinned = 1 WHERE id = ?", (*middle, count, first))
        return count

    def _drop_short(self, first: int, last: int) -> None:
        """Processes that came and went in the block, in less time than any judgement takes."""
        run = self._connection.execute
        short = run(
            "SELECT id FROM process WHERE first_tick >= ? AND last_tick <= ? AND last_tick - first_tick < ?",
            (first, last, _LEAST_TICKS),
        ).fetchall()
        for (process,) in short:
            run("DELETE FROM process_row WHERE key = ?", ((first << SHIFT) + process,))
            for (counter,) in run("SELECT id FROM counter WHERE process = ?", (process,)).fetchall():
                for tick in (first, last + 1):
                    run("DELETE FROM counter_row WHERE key = ?", ((tick << SHIFT) + counter,))
            run("DELETE FROM counter WHERE process = ?", (process,))
            run("DELETE FROM process WHERE id = ?", (process,))

    def _replace(self, table: str, span: tuple[int, int], kept: Sequence[_Keyed], carried: Sequence[_Keyed]) -> None:
        """One row for each process or counter at the first tick of the block, and a whole one behind it for who goes on."""
        self._connection.execute(f"DELETE FROM {table} WHERE key >= ? AND key < ?", span)  # noqa: S608
        if kept:
            holes = ", ".join("?" * len(kept[0]))
            self._connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({holes})", [*kept, *carried])  # noqa: S608


def _histories(rows: Iterable[_Keyed], after: Callable[[Amounts | None, Row], Amounts]) -> dict[int, list[tuple[int, Amounts]]]:
    """Of each process or counter the ticks at which it changed, and what it was then."""
    found: dict[int, list[tuple[int, Amounts]]] = {}
    for key, *row in rows:
        history = found.setdefault((key or 0) & _ID, [])
        history.append(((key or 0) >> SHIFT, after(history[-1][1] if history else None, tuple(row))))
    return found


def _quarter(changes: Sequence[tuple[int, Amounts]], end: int, measure: Callable[[Amounts], int | None]) -> Amounts:
    """The amounts that a quarter of the time stays below."""
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
