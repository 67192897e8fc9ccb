"""Writing a recording: each tick is one transaction, so that it is there whole or not at all."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections import defaultdict
from typing import TYPE_CHECKING, Self

from leakline.errors import InvalidRequest, NotPossible, ParseError
from leakline.store.rows import COLUMNS, row_of
from leakline.store.schema import APPLICATION_ID, SHIFT, TABLES, VERSION, as_text, require_recording
from leakline.store.thinning import Thinner

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from leakline.model.recording import CounterKind, CounterValue, ProcessAmounts, ProcessIdentity, RecordingStart, Tick
    from leakline.store.rows import Amounts

_Identity = tuple[int, int]
_CounterName = tuple[str, int | None]
_MOST_IDS = (1 << SHIFT) - 1
_MOST_TICKS = 1 << 38
_LEAST_SPACE = 1 << 16
_INSERT_PROCESS_ROW = f"INSERT INTO process_row VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"  # noqa: S608  our own names
_INSERT_PROCESS = (
    "INSERT INTO process (boot_id, pid, start_ticks, ppid, user, command, cmdline, cgroup, first_tick) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_SESSION = (
    "INSERT INTO session (first_tick, boot_id, host, kernel, interval, ticks_per_second, memory_kib) VALUES (?, ?, ?, ?, ?, ?, ?)"
)


class RecordingWriter:
    """Appends ticks to a recording.

    A tick is safe from the end of our process once `write` has returned, and from the end of the machine shortly after (WAL with
    synchronous=NORMAL, https://www.sqlite.org/pragma.html#pragma_synchronous).

    Args:
        path: the file.
        start: where and how.
        append: go on with a recording that is there.
        replace: begin it anew.
        keep: ticks that stay as they are, earlier ones are thinned out; None for all.

    Raises:
        InvalidRequest: the file is there and `append` was not asked for; or it cannot be written, or somebody else writes to it.
        ParseError: it is there, and is no recording.

    """

    def __init__(
        self, path: Path, start: RecordingStart, *, append: bool = False, replace: bool = False, keep: int | None = None
    ) -> None:
        self._path = path = path.resolve()
        self._start = start
        if path.exists() and not (append or replace):
            raise InvalidRequest(
                f"{path} exists", hint="Choose another file, go on with it by --append, or replace it with --force."
            )
        self._lock = self._locked()
        try:
            if replace:
                self._clear()
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.text_factory = as_text
            self._begin()
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._thinner = None if keep is None else Thinner(self._connection, keep)
        except sqlite3.Error as error:
            os.close(self._lock)
            raise self._refusal(error) from error
        except BaseException:
            os.close(self._lock)
            raise
        self._processes: dict[_Identity, int] = {}
        self._amounts: dict[int, Amounts] = {}
        self._identities: dict[int, ProcessIdentity] = {}
        self._counters: dict[str, dict[_CounterName, int]] = defaultdict(dict)
        for number, kind, name, process in self._connection.execute("SELECT id, kind, name, process FROM counter"):
            self._counters[kind][name, process] = number
        self._values: dict[int, int | None] = {}
        self.samples = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Put what stands in the log beside the file into it."""
        self._connection.close()
        os.close(self._lock)

    @property
    def ticks(self) -> int:
        """In the file."""
        return int(self._connection.execute("SELECT COALESCE(SUM(stands_for), 0) FROM tick").fetchone()[0])

    @property
    def processes(self) -> int:
        """In the file."""
        return int(self._connection.execute("SELECT COUNT(*) FROM process").fetchone()[0])

    def write(
        self,
        tick: Tick,
        processes: Iterable[tuple[ProcessIdentity, ProcessAmounts]],
        ended: Iterable[ProcessIdentity] = (),
        counters: dict[CounterKind, list[CounterValue]] | None = None,
    ) -> None:
        """Add a tick.

        Args:
            tick: when.
            processes: those that were read anew.
            ended: those that are no longer there.
            counters: all counters of each kind that was looked at.

        Raises:
            InvalidRequest: no space is left, or the file cannot be written; what was written before stays.
            NotPossible: the recording has had as many processes as it can have.

        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._write(tick, processes, ended, counters or {})
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            if self._thinner is not None:
                self._thinner.added()
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        except (OverflowError, TypeError, ValueError) as error:
            raise ParseError(f"{self._path}: {error}", hint="It was not written by leakline alone: begin a new one.") from error

    def _write(
        self,
        tick: Tick,
        processes: Iterable[tuple[ProcessIdentity, ProcessAmounts]],
        ended: Iterable[ProcessIdentity],
        counters: dict[CounterKind, list[CounterValue]],
    ) -> None:
        run = self._connection.execute
        number = run(
            "INSERT INTO tick (time, boottime, fresh, oldest) VALUES (?, ?, ?, ?)",
            (tick.time, tick.boottime, tick.fresh, tick.oldest),
        ).lastrowid
        assert number is not None  # noqa: S101  an INSERT has one
        for identity in ended:
            process = self._processes.pop((identity.pid, identity.start_ticks), None)
            if process is not None:
                run("UPDATE process SET last_tick = ? WHERE id = ?", (number - 1, process))
                self._amounts.pop(process, None)
                self._identities.pop(process, None)
        rows = []
        for identity, amounts in processes:
            process = self._process(identity, number)
            before, now = self._amounts.get(process), _in_kib(amounts)
            if before != now:
                self._amounts[process] = now
                rows.append(((number << SHIFT) + process, *row_of(before, now)))
        self._connection.executemany(_INSERT_PROCESS_ROW, rows)
        self.samples += len(rows)
        for kind, values in counters.items():
            self._write_counters(kind, values, number)

    def _write_counters(self, kind: CounterKind, values: list[CounterValue], number: int) -> None:
        rows: list[tuple[int, int | None]] = []
        met = set()
        for value in values:
            process = None if value.process is None else self._processes.get((value.process.pid, value.process.start_ticks))
            if value.process is not None and process is None:
                continue  # it ended before it was ever read
            name: _CounterName = (value.name, process)
            counter = self._counters[kind].get(name)
            if counter is None:
                counter = self._added(
                    "INSERT INTO counter (kind, name, process, reclaimable) VALUES (?, ?, ?, ?)",
                    (kind, *name, int(value.reclaimable)),
                )
                self._counters[kind][name] = counter
            met.add(counter)
            kib = value.value >> 10
            if self._values.get(counter, -1) != kib:
                self._values[counter] = kib
                rows.append(((number << SHIFT) + counter, kib))
        living = set(self._processes.values())
        for name, counter in list(self._counters[kind].items()):
            if counter in met:
                continue
            if self._values.get(counter) is not None:
                self._values[counter] = None  # it is gone
                rows.append(((number << SHIFT) + counter, None))
            if name[1] is not None and name[1] not in living:
                del self._counters[kind][name]
                self._values.pop(counter, None)
        self._connection.executemany("INSERT INTO counter_row VALUES (?, ?)", rows)

    def _process(self, identity: ProcessIdentity, number: int) -> int:
        key = (identity.pid, identity.start_ticks)
        process = self._processes.get(key)
        if process is None:
            known = self._connection.execute(
                "SELECT id FROM process WHERE boot_id = ? AND pid = ? AND start_ticks = ?", (self._start.boot_id, *key)
            ).fetchone()
            if known is not None:
                process = int(known[0])
                self._connection.execute("UPDATE process SET last_tick = NULL WHERE id = ?", known)
                self._rename(process, identity)
            else:
                what = (identity.ppid, identity.user, identity.command, identity.cmdline, identity.cgroup, number)
                process = self._added(_INSERT_PROCESS, (self._start.boot_id, *key, *what))
            self._processes[key] = process
            self._identities[process] = identity
        elif self._identities.get(process) != identity:  # it called exec
            self._rename(process, identity)
            self._identities[process] = identity
        return process

    def _rename(self, process: int, identity: ProcessIdentity) -> None:
        self._connection.execute(
            "UPDATE process SET user = ?, command = ?, cmdline = ?, cgroup = ? WHERE id = ?",
            (identity.user, identity.command, identity.cmdline, identity.cgroup, process),
        )

    def _added(self, statement: str, values: tuple[object, ...]) -> int:
        number = self._connection.execute(statement, values).lastrowid
        if number is None or number > _MOST_IDS:
            raise NotPossible(f"{self._path} holds as many processes as it can", hint="Go on in a new file.")
        return number

    def _begin(self) -> None:
        run = self._connection.execute
        # A disk that was full, or a kill, before there was anything in it leaves a file without tables.
        try:
            is_new = not run("PRAGMA application_id").fetchone()[0] and not run("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        except sqlite3.OperationalError:
            raise
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise ParseError(f"{self._path} is no recording: {error}", hint="Choose another file.") from error
        if not is_new:
            require_recording(self._connection, self._path)
        run("BEGIN IMMEDIATE")
        if is_new:
            for statement in TABLES.strip().rstrip(";").split(";\n"):
                run(statement)
            run(f"PRAGMA application_id = {APPLICATION_ID}")
            run(f"PRAGMA user_version = {VERSION}")
        last = run("SELECT COALESCE(MAX(id), 0) FROM tick").fetchone()[0]
        if not 0 <= last < _MOST_TICKS:
            raise ParseError(f"{self._path}: its last tick is number {last}")
        # Whoever was there at the last tick was seen until then; who is still there begins a new row.
        run("UPDATE process SET last_tick = ? WHERE last_tick IS NULL", (last,))
        s = self._start
        run(_INSERT_SESSION, (last + 1, s.boot_id, s.host, s.kernel, s.interval, s.ticks_per_second, s.memory >> 10))
        run("COMMIT")

    def _locked(self) -> int:
        """SQLite's own locks would let two recorders write in turn. Closed last: closing it drops SQLite's locks (POSIX)."""
        try:
            lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InvalidRequest(f"cannot write {self._path}: {error.strerror}", hint="Choose another file.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise InvalidRequest(f"{self._path} is being recorded to", hint="End that, or choose another file.") from error
        return lock

    def _clear(self) -> None:
        """Nobody else records to it: we hold its lock."""
        os.ftruncate(self._lock, 0)
        for beside in ("-wal", "-shm", "-journal"):
            self._path.with_name(self._path.name + beside).unlink(missing_ok=True)

    def _refusal(self, error: sqlite3.Error) -> InvalidRequest:
        space = os.statvfs(self._path.parent)
        is_full = "full" in str(error) or space.f_bavail * space.f_frsize < _LEAST_SPACE
        what = "the disk is full" if is_full else str(error)
        hint = "Free some space, and go on with --append." if is_full else "Choose another file."
        return InvalidRequest(f"cannot write {self._path}: {what}; what was written before is safe", hint=hint)


def _in_kib(a: ProcessAmounts) -> Amounts:
    sizes = (a.uss, a.pss, a.rss, a.swap, a.anon, a.file, a.shmem, a.page_tables)
    return (*(None if size is None else size >> 10 for size in sizes), a.minor_faults, a.major_faults)
