"""A recording moment by moment: which processes there were, and what each held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from leakline.errors import ParseError
from leakline.model.memory import SystemMemory
from leakline.model.recording import ProcessAmounts, ProcessIdentity
from leakline.store.reader import DAMAGE, SAME, RecordingReader, carried, in_order
from leakline.store.rows import COLUMNS

if TYPE_CHECKING:
    from leakline.model.recording import RecordedSeries
    from leakline.store.reader import Floats, Ints

_MEMINFO = ("MemTotal", "MemFree", "MemAvailable", "SwapTotal", "SwapFree")
_OVER_USS = ("pss_over", "rss_over", "anon_over")
_COUNTS = ("minor_faults", "major_faults")
_END_OF_TIME = 253_370_764_800.0
"""The year 9999."""
_ENDLESS = np.iinfo(np.int64).max


class _Recorded(NamedTuple):
    """One process: its rows are those from `first` to `end`, in order of time."""

    identity: ProcessIdentity
    first: int
    end: int


class RecordedMoments:
    """Every process at every tick.

    Args:
        ticks: their numbers.
        walls: seconds since 1970 of each.
        sessions: the session of each.
        processes: with their rows, in order of these.
        lasts: the tick in which each was last seen.
        row_ticks: of each row.
        columns: bytes and counts of each row; NaN where unknown.
        counters: name of meminfo -> ticks and bytes.

    """

    def __init__(
        self,
        ticks: Ints,
        walls: Floats,
        sessions: Ints,
        processes: list[_Recorded],
        lasts: Ints,
        row_ticks: Ints,
        columns: dict[str, Floats],
        counters: dict[str, tuple[Ints, Floats]],
    ) -> None:
        self._ticks, self.walls, self._sessions = ticks, walls, sessions
        self._processes, self._lasts = processes, lasts
        self._firsts = np.array([row_ticks[one.first] for one in processes], np.int64)
        self._row_ticks, self._columns, self._counters = row_ticks, columns, counters
        self._of = {(one.identity.pid, one.identity.start_ticks): one for one in processes}

    def at(self, place: int) -> Iterator[tuple[ProcessIdentity, ProcessAmounts]]:
        """The processes at one tick."""
        tick = self._ticks[place]
        for number in np.flatnonzero((self._firsts <= tick) & (tick <= self._lasts)):
            process = self._processes[number]
            row = self._row_at(process, place)
            if row is not None:
                yield process.identity, self._amounts(row)

    def amounts_of(self, process: ProcessIdentity, place: int) -> ProcessAmounts | None:
        """What one process held at a tick; None where it was not there."""
        found = self._of.get((process.pid, process.start_ticks))
        row = None if found is None else self._row_at(found, place)
        return None if row is None else self._amounts(row)

    def first_place(self, process: ProcessIdentity) -> int:
        """The tick in which it was first seen."""
        found = self._of.get((process.pid, process.start_ticks))
        return 0 if found is None else int(np.searchsorted(self._ticks, self._row_ticks[found.first]))

    def memory(self, place: int) -> SystemMemory | None:
        """The machine's memory at a tick; None where it was not recorded."""
        found = {}
        for name, (ticks, values) in self._counters.items():
            row = int(np.searchsorted(ticks, self._ticks[place], side="right")) - 1
            if row >= 0 and np.isfinite(values[row]):
                found[name] = int(values[row])
        if "MemTotal" not in found or "MemFree" not in found:
            return None
        return SystemMemory(
            total=found["MemTotal"],
            free=found["MemFree"],
            available=found.get("MemAvailable"),
            swap_total=found.get("SwapTotal", 0),
            swap_free=found.get("SwapFree", 0),
        )

    def _row_at(self, process: _Recorded, place: int) -> int | None:
        """A row stands until the next one, or the end of its session."""
        ticks = self._row_ticks[process.first : process.end]
        row = process.first + int(np.searchsorted(ticks, self._ticks[place], side="right")) - 1
        if row < process.first:
            return None
        since = int(np.searchsorted(self._ticks, self._row_ticks[row]))
        return row if since < len(self._ticks) and self._sessions[since] == self._sessions[place] else None

    def _amounts(self, row: int) -> ProcessAmounts:
        values = [float(self._columns[name][row]) for name in COLUMNS]
        known = [None if value != value else int(value) for value in values]  # NaN is not itself
        return ProcessAmounts(*known[:-2], *(value or 0 for value in known[-2:]))  # type: ignore[arg-type]


class MomentsReader(RecordingReader):
    """What is in a recording, moment by moment.

    Raises:
        ParseError: it is none, or is damaged.

    """

    def services(self) -> list[tuple[list[tuple[int, int]], RecordedSeries]]:
        """The series of each service with number and start of the processes that were in it."""
        found = self._guarded(self._services)
        return [([(process.pid, process.start_ticks) for process in lane], series) for lane, series in found]

    def every_moment(self) -> RecordedMoments:
        """All of it.

        Raises:
            ParseError: the file is damaged.

        """
        (found,) = self._guarded(self._every_moment)
        return found

    def _every_moment(self) -> Iterator[RecordedMoments]:
        run = self._connection.execute
        listed = ", ".join(f"COALESCE({name}, {SAME})" for name in COLUMNS)
        types = [("key", np.int64), *((name, np.float64) for name in COLUMNS)]
        table = np.fromiter(run(f"SELECT key, {listed} FROM process_row"), dtype=types)  # noqa: S608  our own names
        numbers, ticks, order = in_order(table["key"])
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        columns = {name: carried(table[name][order], starts) for name in COLUMNS}
        base = np.nan_to_num(columns["uss"])
        for name in COLUMNS:
            columns[name] = columns[name] + base if name in _OVER_USS else columns[name]
            columns[name] = columns[name] if name in _COUNTS else columns[name] * 1024
        processes, lasts = [], []
        known = run("SELECT id, pid, start_ticks, ppid, user, command, cmdline, cgroup, last_tick FROM process ORDER BY id")
        for number, pid, start, ppid, user, command, cmdline, cgroup, last in known:
            first, end = np.searchsorted(numbers, [number, number + 1])
            if first < end:
                identity = ProcessIdentity(pid, start, ppid, user, command, cmdline, cgroup)
                processes.append(_Recorded(identity, int(first), int(end)))
                lasts.append(_ENDLESS if last is None else last)
        walls = np.array([time for (time,) in run("SELECT time FROM tick ORDER BY id")], float)
        if not ((walls >= 0) & (walls < _END_OF_TIME)).all():
            raise ParseError(f"{self._path}: a tick without a time", hint=DAMAGE)
        sessions = self._session_of
        yield RecordedMoments(
            self.ticks, walls, sessions, processes, np.array(lasts, np.int64), ticks, columns, dict(self._meminfo())
        )

    def _meminfo(self) -> Iterator[tuple[str, tuple[Ints, Floats]]]:
        run = self._connection.execute
        marks = ", ".join("?" * len(_MEMINFO))
        wanted = f"SELECT id FROM counter WHERE kind = 'meminfo' AND name IN ({marks})"  # noqa: S608  our own names
        rows = self._rows(f"SELECT key, COALESCE(kib, -1) FROM counter_row WHERE key & {(1 << 24) - 1} IN ({wanted})", _MEMINFO)  # noqa: S608
        for number, name in run(f"SELECT id, name FROM counter WHERE kind = 'meminfo' AND name IN ({marks})", _MEMINFO):  # noqa: S608
            yield name, rows.of(number)
