"""The tables of a recording, and who may open one.

Amounts are in KiB, which is what the kernel counts in. A row of a process or counter stands until its next row: what does not
change takes no space.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from leakline.errors import InvalidRequest, ParseError
from leakline.store.rows import COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

APPLICATION_ID = 0x4C4B4C4E  # "LKLN"
VERSION = 1
SHIFT = 24
"""A row's key is its tick, shifted by so many bits, and its process or counter."""
TABLES = f"""\
CREATE TABLE session (
    id INTEGER PRIMARY KEY, first_tick INTEGER NOT NULL, boot_id TEXT NOT NULL, host TEXT NOT NULL, kernel TEXT NOT NULL,
    interval REAL NOT NULL, ticks_per_second INTEGER NOT NULL, memory_kib INTEGER NOT NULL
) STRICT;
CREATE TABLE tick (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, boottime REAL NOT NULL, fresh INTEGER NOT NULL, oldest REAL NOT NULL,
    stands_for INTEGER NOT NULL DEFAULT 1, thinned INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE process (
    id INTEGER PRIMARY KEY, boot_id TEXT NOT NULL, pid INTEGER NOT NULL, start_ticks INTEGER NOT NULL, ppid INTEGER NOT NULL,
    user TEXT, command TEXT NOT NULL, cmdline TEXT, cgroup TEXT, first_tick INTEGER NOT NULL, last_tick INTEGER,
    UNIQUE (boot_id, pid, start_ticks)
) STRICT;
CREATE TABLE process_row (key INTEGER PRIMARY KEY, {", ".join(f"{name} INTEGER" for name in COLUMNS)}) STRICT;
CREATE TABLE counter (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, process INTEGER REFERENCES process, reclaimable INTEGER NOT NULL
) STRICT;
CREATE TABLE counter_row (key INTEGER PRIMARY KEY, kib INTEGER) STRICT;
"""
_HINT = "`leakline record -o FILE` writes one."
_OPEN_HINT = (
    "A recording whose recorder was killed has -wal and -shm files beside it: copy them too, or read it where one may write."
)
_MAGIC = b"SQLite format 3\0"


def is_recording(path: Path) -> bool:
    """Whether a file looks like one: SQLite's, with our mark in its head (byte 68, https://www.sqlite.org/fileformat.html).

    Raises:
        InvalidRequest: it cannot be read.

    """
    try:
        with path.open("rb") as file:
            head = file.read(72)
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}") from error
    return head.startswith(_MAGIC)


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing; the recording may be going on.

    Raises:
        ParseError: it is no recording, or of a later version.

    """
    real = path.resolve()
    beside = real.with_name(real.name + "-wal")
    # Where nobody writes and nothing is left to be taken over, SQLite needs no files beside it, and so no permission to make them.
    mode = "mode=ro" if beside.exists() else "mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(f"{real.as_uri()}?{mode}", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise ParseError(f"{path}: {error}", hint=_OPEN_HINT) from error
    connection.text_factory = as_text
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        require_recording(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise ParseError(f"{path}: {error}", hint=_OPEN_HINT if "open" in str(error) else _HINT) from error
    except ParseError:
        connection.close()
        raise
    return connection


def as_text(data: bytes) -> str:
    """What is no UTF-8 becomes a replacement character: only a damaged file has any."""
    return data.decode("utf-8", "replace")


def require_recording(connection: sqlite3.Connection, path: Path) -> None:
    """Look whether it is a recording that we understand.

    Raises:
        ParseError: it is not.

    """
    try:
        _check(connection, path)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter for SQLite's own words about a damaged name
        raise ParseError(f"{path}: {error}", hint=_HINT) from error


def _check(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise ParseError(f"{path} is no recording", hint=_HINT)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise ParseError(
            f"{path} is a recording of version {version}; this leakline reads version {VERSION}", hint="Upgrade leakline."
        )
    with closing(sqlite3.connect(":memory:")) as ours:
        ours.executescript(TABLES)
        wanted = ours.execute("SELECT name, sql FROM sqlite_master WHERE type != 'index'").fetchall()
    there = connection.execute("SELECT name, sql FROM sqlite_master WHERE type != 'index'").fetchall()
    if not set(wanted) <= set(there) or any(str(sql).upper().startswith("CREATE TRIGGER") for _, sql in there):
        raise ParseError(f"{path}: its tables are not those of a recording", hint=_HINT)
