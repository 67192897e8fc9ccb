"""Reading a recording: series with an even axis of time, restarts of a service as epochs of one series."""

from __future__ import annotations

import heapq
import sqlite3
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar, get_args

import numpy as np

from leakline.errors import ParseError
from leakline.model.recording import CounterKind, Moments, RecordedSeries
from leakline.store.extremes import extremes_of, telling_places
from leakline.store.rows import UNKNOWN
from leakline.store.schema import SHIFT, open_for_reading

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

T = TypeVar("T")
_ID = (1 << SHIFT) - 1
_MOST_POINTS = 2048
_QUANTILE = 0.25
SAME = 1 << 60
"""Stands for what a row leaves out."""
DAMAGE = "The file is damaged, or was made by somebody else."


class _Process(NamedTuple):
    number: int
    boot_id: str
    pid: int
    start_ticks: int
    user: str | None
    command: str
    cmdline: str | None
    first_tick: int
    last_tick: int | None


class _Rows(NamedTuple):
    """Rows of all processes or counters, in order of these, then of time."""

    numbers: Ints
    ticks: Ints
    values: Floats

    def of(self, number: int) -> tuple[Ints, Floats]:
        first, last = np.searchsorted(self.numbers, [number, number + 1])
        return self.ticks[first:last], self.values[first:last]


class RecordingReader:
    """What is in a recording, which may be going on.

    Args:
        path: the file.
        stretches: give each series its extremes too, in so many stretches of time; 0 for none.

    Raises:
        ParseError: it is none, or is damaged.

    """

    def __init__(self, path: Path, stretches: int = 0) -> None:
        self._path = path
        self._stretches = stretches
        self._connection = open_for_reading(path)
        try:
            self._connection.execute("BEGIN")  # all that follows is of one moment
            self._load()
        except (sqlite3.Error, ValueError, OverflowError, TypeError) as error:
            self._connection.close()
            raise ParseError(f"{path}: {error}", hint=DAMAGE) from error
        except ParseError:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()

    def _load(self) -> None:
        run = self._connection.execute
        self._thinned = run("SELECT 1 FROM tick WHERE thinned LIMIT 1").fetchone() is not None
        table = np.array(run("SELECT id, time, boottime FROM tick ORDER BY id").fetchall() or np.empty((0, 3)), float)
        sessions = run("SELECT first_tick, boot_id, interval, ticks_per_second FROM session ORDER BY first_tick, id").fetchall()
        self.began = float(table[0, 1]) if len(table) else None
        """Seconds since 1970, by the machine's clock; None where nothing was recorded yet."""
        self.machine: tuple[str, str] | None = run("SELECT host, kernel FROM session ORDER BY first_tick DESC, id DESC").fetchone()
        """Host and kernel, of the last part."""
        if len(table) and not np.isfinite(table).all():
            raise ParseError(f"{self._path}: a tick without a time", hint=DAMAGE)
        self.ticks: Ints = table[:, 0].astype(np.int64)
        starts = [first for first, *_ in sessions]
        self._session_of: Ints = np.searchsorted(np.array(starts, np.int64), self.ticks, side="right") - 1
        if len(self.ticks) and (not sessions or self._session_of.min() < 0):
            raise ParseError(f"{self._path}: a tick of no session", hint=DAMAGE)
        self._boots = [boot for _, boot, _, _ in sessions]
        self._hertz = max(1, sessions[-1][3]) if sessions else 100
        self.interval = float(sessions[-1][2]) if sessions else 1.0
        self._boottimes: Floats = table[:, 2]
        self.times: Floats = self._axis(table[:, 1], table[:, 2])
        if not np.isfinite(self.times).all() or not np.isfinite(self.interval):
            raise ParseError(f"{self._path}: a tick without a time", hint=DAMAGE)
        self._available = self._left_at_the_end()

    def _axis(self, wall: Floats, boottime: Floats) -> Floats:
        """Seconds since the first tick: by the clock that never jumps within a boot, by the wall from boot to boot."""
        times = np.zeros(len(wall))
        offset = 0.0
        for at in range(len(wall)):
            boot = self._boots[self._session_of[at]]
            if at == 0:
                offset = -boottime[0]
            elif boot != self._boots[self._session_of[at - 1]]:
                passed = max(wall[at] - wall[at - 1], self.interval)
                offset = times[at - 1] + passed - boottime[at]
            times[at] = boottime[at] + offset
        return np.maximum.accumulate(times) if len(times) else times

    def _left_at_the_end(self) -> int | None:
        run, found = self._connection.execute, {}
        counters = run("SELECT id, name FROM counter WHERE kind = 'meminfo' AND name IN ('MemAvailable', 'SwapFree')").fetchall()
        for number, name in counters:
            last = run("SELECT kib FROM counter_row WHERE key & ? = ? ORDER BY key DESC LIMIT 1", (_ID, number)).fetchone()
            found[name] = last[0] if last else None
        available, swap = found.get("MemAvailable"), found.get("SwapFree")
        return None if available is None else (available + (swap or 0)) << 10

    def processes(self) -> list[RecordedSeries]:
        """USS + swap of each service: RSS where no more could be read."""
        return list(self._guarded(self._processes))

    def counters(
        self, kinds: Sequence[CounterKind], meminfo: Collection[str] | None = None, processes: Collection[str] | None = None
    ) -> list[RecordedSeries]:
        """Counters of the machine; of processes their groups of mappings, named by the process.

        Args:
            kinds: which kinds.
            meminfo: of that kind only these; all if None.
            processes: of mappings only those of these: `server (4711)`; all if None.

        """
        return list(self._guarded(lambda: self._counters(kinds, meminfo, processes)))

    def mapped_processes(self) -> list[str]:
        """Those whose mappings are recorded: `server (4711)`."""
        try:
            found = self._connection.execute(
                "SELECT DISTINCT command, pid FROM counter JOIN process ON process.id = process WHERE kind = 'mapping'"
            )
            return [f"{command} ({pid})" for command, pid in found]
        except sqlite3.Error as error:
            raise ParseError(f"{self._path}: {error}", hint=DAMAGE) from error

    def moments(self, kind: CounterKind, stretches: int, process: str | None = None, lead: str | None = None) -> Moments | None:
        """Counters of one kind at the same moments, so that they can be put on each other; None where there are none.

        Args:
            kind: of the machine, or `mapping`.
            stretches: of time; each gives the moment with the least and that with the most.
            process: of mappings whose: `server (4711)`.
            lead: the counter whose extremes are kept; None for those of the sum.

        """
        try:
            return self._moments(kind, stretches, process, lead)
        except (sqlite3.Error, ValueError, OverflowError, TypeError, IndexError) as error:
            raise ParseError(f"{self._path}: {error}", hint=DAMAGE) from error

    def _moments(self, kind: CounterKind, stretches: int, process: str | None, lead: str | None) -> Moments | None:
        whose = "kind = ? AND (? IS NULL OR process IN (SELECT id FROM process WHERE command || ' (' || pid || ')' = ?))"
        asked = [kind, process, process]
        of_these = f"SELECT id FROM counter WHERE {whose}"  # noqa: S608  our own words
        query = f"SELECT key, COALESCE(kib, -1) FROM counter_row WHERE key & {_ID} IN ({of_these})"  # noqa: S608
        rows = self._rows(query, asked)
        last = "(SELECT last_tick FROM process WHERE process.id = process)"
        chosen = self._connection.execute(f"SELECT id, name, {last} FROM counter WHERE {whose}", asked).fetchall()  # noqa: S608
        sums = np.full(len(self.times), np.nan)
        for number, name, last_tick in chosen:
            if lead is None or name == lead:
                places, values = self._expanded(*rows.of(number), last_tick)
                sums[places] = np.where(np.isnan(sums[places]), values, sums[places] + np.nan_to_num(values))
        at = telling_places(self.times, sums, stretches)
        if not len(at):
            return None
        found = {}
        for number, name, last_tick in chosen:
            places, values = self._expanded(*rows.of(number), last_tick)
            column = np.full(len(self.times), np.nan)
            column[places] = values
            found[name] = tuple(column[at].tolist())
        return Moments(tuple(self.times[at].tolist()), found)

    def _guarded(self, make: Callable[[], Iterator[T]]) -> Iterator[T]:
        try:
            yield from make()
        except (sqlite3.Error, ValueError, OverflowError, TypeError, IndexError) as error:
            raise ParseError(f"{self._path}: {error}", hint=DAMAGE) from error

    def _processes(self) -> Iterator[RecordedSeries]:
        return (series for _, series in self._services())

    def _services(self) -> Iterator[tuple[list[_Process], RecordedSeries]]:
        rows = self._process_rows()
        for lane in self._lanes():
            parts = [self._expanded(*rows.of(process.number), process.last_tick) for process in lane]
            chosen = [(epoch, part) for epoch, part in enumerate(parts) if np.isfinite(part[1]).any()]
            if chosen:
                process = lane[chosen[-1][0]]
                name = f"{process.command} ({process.pid})"
                yield lane, self._series("process", name, chosen, self._age(process, chosen[-1][1][0]), reclaimable=False)

    def _lanes(self) -> list[list[_Process]]:
        """Services: a process takes the place of one of the same user and command line that has ended before."""
        found = self._connection.execute(
            "SELECT id, boot_id, pid, start_ticks, user, command, cmdline, first_tick, last_tick FROM process "
            "ORDER BY first_tick, id"
        )
        lanes: list[list[_Process]] = []
        ended: dict[tuple[str | None, str, str | None], list[tuple[int, int]]] = defaultdict(list)
        for process in map(_Process._make, found):
            places = ended[process.user, process.command, process.cmdline]
            if places and places[0][0] < process.first_tick:
                place = heapq.heappop(places)[1]
                lanes[place].append(process)
            else:
                place = len(lanes)
                lanes.append([process])
            if process.last_tick is not None:
                heapq.heappush(places, (process.last_tick, place))
        return lanes

    def _age(self, process: _Process, at: Ints) -> float | None:
        if self._boots[self._session_of[at[-1]]] != process.boot_id:
            return None
        return float(max(0.0, self._boottimes[at[-1]] - process.start_ticks / self._hertz))

    def _counters(
        self, kinds: Sequence[CounterKind], meminfo: Collection[str] | None, processes: Collection[str] | None
    ) -> Iterator[RecordedSeries]:
        names = sorted(meminfo or ())
        wanted = f"SELECT id FROM counter WHERE kind IN ({', '.join('?' * len(kinds))})"  # noqa: S608
        if meminfo is not None:
            wanted += f" AND (kind != 'meminfo' OR name IN ({', '.join('?' * len(names))}))"
        query = f"SELECT key, COALESCE(kib, -1) FROM counter_row WHERE key & {_ID} IN ({wanted})"  # noqa: S608
        rows = self._rows(query, [*kinds, *names])
        known = self._connection.execute(
            "SELECT counter.id, kind, name, reclaimable, command, pid, last_tick FROM counter "
            "LEFT JOIN process ON process.id = process"
        )
        for number, kind, name, reclaimable, command, pid, last_tick in known:
            if kind not in kinds or kind not in get_args(CounterKind):
                continue
            if processes is not None and pid is not None and f"{command} ({pid})" not in processes:
                continue
            part = self._expanded(*rows.of(number), last_tick)
            if len(part[0]) and np.isfinite(part[1]).any():
                title = name if pid is None else f"{command} ({pid}) {name}"
                yield self._series(kind, title, [(0, part)], None, reclaimable=bool(reclaimable))

    def _rows(self, query: str, parameters: Sequence[str | None]) -> _Rows:
        table = np.fromiter(self._connection.execute(query, parameters), dtype=[("key", np.int64), ("kib", np.float64)])
        numbers, ticks, order = in_order(table["key"])
        values = np.where(table["kib"] < 0, np.nan, table["kib"] * 1024)
        return _Rows(numbers, ticks, values[order])

    def _process_rows(self) -> _Rows:
        """USS + swap, or RSS; what a row leaves out is as it was in the row before."""
        names = ("uss", "rss_over", "swap")
        columns = ", ".join(f"COALESCE({name}, {SAME})" for name in names)
        found = self._connection.execute(f"SELECT key, {columns} FROM process_row")  # noqa: S608  our own names
        table = np.fromiter(found, dtype=[("key", np.int64), *((name, np.float64) for name in names)])
        numbers, ticks, order = in_order(table["key"])
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        uss, over, swap = (carried(table[name][order], starts) for name in names)
        held = np.where(np.isnan(uss), over, uss + np.where(np.isnan(swap), 0.0, swap))
        return _Rows(numbers, ticks, held * 1024)

    def _expanded(self, ticks: Ints, values: Floats, last_tick: int | None) -> tuple[Ints, Floats]:
        """Places among the ticks, and values there: a row stands until the next one, or the end of its session."""
        known = np.searchsorted(self.ticks, ticks)
        there = known < len(self.ticks)
        known, values = known[there], values[there]
        if not len(known):
            return known, values
        end = len(self.ticks) if last_tick is None else int(np.searchsorted(self.ticks, last_tick, side="right"))
        places = np.arange(known[0], max(end, known[-1] + 1))
        source = np.searchsorted(known, places, side="right") - 1
        stands = self._session_of[places] == self._session_of[known[source]]
        return places[stands], values[source][stands]

    def _series(
        self,
        kind: str,
        name: str,
        parts: Sequence[tuple[int, tuple[Ints, Floats]]],
        age: float | None,
        *,
        reclaimable: bool,
    ) -> RecordedSeries:
        times = np.concatenate([self.times[places] for _, (places, _) in parts])
        values = np.concatenate([values for _, (_, values) in parts])
        epochs = np.concatenate([np.full(len(places), epoch) for epoch, (places, _) in parts])
        extremes = extremes_of(times, values, epochs, self._stretches) if self._stretches else None
        if len(times) > _MOST_POINTS or self._thinned:
            times, values, epochs = _reduced(times, values, epochs)
        several = len(parts) > 1
        return RecordedSeries(
            kind=kind,  # type: ignore[arg-type]
            name=name,
            times=tuple(times.tolist()),
            values=tuple(values.tolist()),
            epochs=tuple(epochs.tolist()) if several else None,
            age=age,
            reclaimable=reclaimable,
            available=self._available,
            extremes=extremes,
        )


def in_order(keys: Ints) -> tuple[Ints, Ints, Ints]:
    """Numbers and ticks of keys, by number and then by tick; and the order that makes them so."""
    numbers, ticks = keys & _ID, keys >> SHIFT
    order = np.lexsort((ticks, numbers))
    return numbers[order], ticks[order], order


def carried(column: Floats, starts: Ints) -> Floats:
    """The values with those that a row left out; NaN where they are unknown.

    Args:
        column: rows of all processes, one process after the other.
        starts: where each begins.

    """
    given = np.where(column == SAME, -1, np.arange(len(column)))
    given[starts] = starts  # a first row is whole, in a file of ours
    values = column[np.maximum.accumulate(given)]
    return np.where((values == UNKNOWN) | (values == SAME), np.nan, values)


def _reduced(times: Floats, values: Floats, epochs: Ints) -> tuple[Floats, Floats, Ints]:
    """At most _MOST_POINTS windows of equal time, with the value that a quarter of each stays below."""
    width = max(float(times[-1] - times[0]) / _MOST_POINTS, 1e-9)
    windows = np.floor((times - times[0]) / width).astype(np.int64) * (int(epochs.max()) + 1) + epochs
    known = np.isfinite(values)
    times, values, epochs, windows = times[known], values[known], epochs[known], windows[known]
    order = np.lexsort((values, windows))
    _, firsts, counts = np.unique(windows[order], return_index=True, return_counts=True)
    chosen = order[firsts + (_QUANTILE * (counts - 1)).astype(np.int64)]
    middles = order[firsts + counts // 2]
    place = np.argsort(times[middles], kind="stable")
    return times[middles][place], values[chosen][place], epochs[chosen][place]
