"""Recordings of many hosts as Parquet files, read by DuckDB: which series there are, the floors of their blocks, samples of a few.

Any file will do that has `time` (seconds since 1970), `bytes`, and columns of text, which are the labels of a series; `epoch` tells
its restarts apart, `limit_bytes` says what it may reach. `leakline export --parquet` writes such files.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import duckdb
import numpy as np

from leakline.errors import InvalidRequest, NotPossible, ParseError
from leakline.model.fleet_floors import FloorBatch, RawSeries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from leakline.model.fleet_floors import Window

_AT_ONCE = 20_000  # series: what DuckDB aggregates without spilling in some 200 MB
_QUANTILE = 0.25
_NUMBERS = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
    "FLOAT",
    "DOUBLE",
)
_MEMORY = "1GB"


class ExportedSeries(NamedTuple):
    """One series as it is written."""

    labels: Mapping[str, str]
    epochs: Sequence[int]
    """A number for each sample; it changes at a restart."""
    times: Sequence[float]
    """Seconds since 1970."""
    values: Sequence[float]
    """Bytes; NaN where unknown."""
    limit: int | None


class _Piece(NamedTuple):
    """Series that are aggregated at once: those of some files, or those whose hash leaves this remainder."""

    files: tuple[str, ...]
    divisor: int
    remainder: int


def write_parquet(path: Path, series: Iterable[ExportedSeries], labels: Sequence[str]) -> int:
    """Write a file, whole or not at all.

    Args:
        path: where.
        series: what.
        labels: the names of their labels, each a column.

    Returns:
        How many rows it has.

    Raises:
        InvalidRequest: it cannot be written.

    """
    new = path.with_name(f".{path.name}.new")
    names = ", ".join(f"{_quoted(name)} VARCHAR" for name in labels)
    marks = ", ".join("?" for _ in labels)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE row ({names}, epoch INTEGER, time DOUBLE, bytes DOUBLE, limit_bytes DOUBLE)")
        for one in series:
            connection.execute(
                f"INSERT INTO row SELECT {marks}, unnest(?::INTEGER[]), unnest(?::DOUBLE[]), unnest(?::DOUBLE[]), ?",
                [
                    *(one.labels.get(name) for name in labels),
                    list(one.epochs),
                    list(one.times),
                    [None if math.isnan(value) else value for value in one.values],
                    one.limit,
                ],
            )
        try:
            connection.execute(f"COPY row TO {_text(str(new))} (FORMAT parquet, COMPRESSION zstd)")
            new.replace(path)
        except (duckdb.Error, OSError) as error:
            new.unlink(missing_ok=True)
            raise InvalidRequest(f"cannot write {path}: {_first_line(error)}", hint="Choose another file.") from error
        return int(connection.execute("SELECT count(*) FROM row").fetchall()[0][0])


class ParquetStore:
    """Files that a pattern names. Use as a context manager.

    Args:
        pattern: a path with * and ?, or an address of a bucket: s3://, gs://, https://.
        matchers: label, one of = != =~ !~, and value: only such series.

    Raises:
        InvalidRequest: there are no such files.
        ParseError: they are no Parquet, or have other columns.
        NotPossible: DuckDB cannot reach the bucket.

    """

    def __init__(self, pattern: str, matchers: Sequence[tuple[str, str, str]] = ()) -> None:
        self._pattern = pattern
        self._matchers = [(label, operator, _compiled(value)) for label, operator, value in matchers]
        self._spill = tempfile.TemporaryDirectory(prefix="leakline-")
        self._connection = duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": self._spill.name})
        self.partial: list[str] = []
        """What is missing, and why."""
        self._hashes: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._pieces: list[_Piece] = []
        self._limits: list[tuple[dict[str, str], float]] = []
        try:
            self._files = self._find()
            self._labels = self._columns()
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        self._connection.close()
        self._spill.cleanup()

    @property
    def address(self) -> str:
        """The pattern."""
        return self._pattern

    def series(self, window: Window) -> list[dict[str, str]]:
        """The labels of each series that has samples in the window."""
        names = ", ".join(f"any_value({_quoted(name)})" for name in self._labels)
        limit = "arg_max(limit_bytes, time)" if self._has_limits else "NULL"
        rows = self._rows(
            f"SELECT h, min(filename), max(filename), {limit}{', ' if names else ''}{names}"  # noqa: S608  our own words
            f" FROM ({self._source(window, (*self._labels, *(['limit_bytes'] if self._has_limits else [])))}) GROUP BY h ORDER BY h"
        )
        found = []
        for row in rows:
            labels = {name: value for name, value in zip(self._labels, row[4:], strict=True) if value is not None}
            if all(_matches(labels.get(label, ""), operator, value) for label, operator, value in self._matchers):
                found.append((row, labels))
        self._hashes = np.array([row[0] for row, _ in found], np.uint64)
        self._limits = [(labels, float(row[3])) for row, labels in found if row[3]]
        self._pieces = self._cut([(row[1], row[2]) for row, _ in found])
        return [labels for _, labels in found]

    def floors(self, _series: Sequence[Mapping[str, str]], window: Window) -> Iterator[FloorBatch]:
        """The floors of all blocks, in batches: the next one is made while one is looked at."""
        with ThreadPoolExecutor(1) as pool:
            following = None
            for piece in [*self._pieces, None]:
                ready = following
                following = None if piece is None else pool.submit(self._batch, piece, window)
                if ready is not None:
                    yield ready.result()

    def points(self, _labels: Mapping[str, str], window: Window) -> int:
        """How many samples a series has, on average."""
        rows = self._rows(f"SELECT count(*) FROM ({self._source(window, ())})")  # noqa: S608
        return int(rows[0][0]) // max(len(self._hashes), 1)

    def samples(self, _series: Sequence[Mapping[str, str]], window: Window, chosen: Sequence[int]) -> Iterator[RawSeries]:
        """The samples of some series."""
        wanted = {"h": self._hashes[list(chosen)], "number": np.array(chosen, np.int64)}
        with self._connection.cursor() as cursor:
            cursor.register("wanted", wanted)
            source = self._source(window, ())
            query = f"SELECT number, time, bytes FROM ({source}) JOIN wanted USING (h) ORDER BY number, time"  # noqa: S608
            table = _numpy(cursor, query, [self._files])
        numbers, starts = np.unique(table["number"], return_index=True)
        times, values = np.split(table["time"], starts[1:]), np.split(table["bytes"], starts[1:])
        for number, when, what in zip(numbers.tolist(), times, values, strict=True):
            yield RawSeries(number, when, what)

    def limits(self, _window: Window) -> list[tuple[dict[str, str], float]]:
        """What services may reach, by their labels."""
        return self._limits

    def _find(self) -> list[str]:
        if "://" in self._pattern:
            try:
                self._connection.execute("LOAD httpfs")
            except duckdb.Error as error:
                hint = "INSTALL httpfs, in the duckdb of this Python; or copy the files here."
                raise NotPossible(
                    f"DuckDB cannot reach {self._pattern.split('://')[0]}://: {_first_line(error)}", hint=hint
                ) from error
            if not re.search(r"[*?\[]", self._pattern):
                return [self._pattern]
        try:
            found = [
                row[0] for row in self._connection.execute("SELECT file FROM glob(?) ORDER BY file", [self._pattern]).fetchall()
            ]
        except duckdb.Error as error:
            raise NotPossible(f"{self._pattern}: {_first_line(error)}", hint="Check --parquet.") from error
        if not found:
            raise InvalidRequest(f"there is no file {self._pattern}", hint="`leakline export RECORDING --parquet FILE` writes one.")
        return found

    def _columns(self) -> tuple[str, ...]:
        try:
            rows = self._connection.execute(
                "DESCRIBE SELECT * FROM read_parquet(?, union_by_name = true)", [self._files]
            ).fetchall()
        except duckdb.Error as error:
            raise ParseError(
                f"{self._pattern}: {_first_line(error)}", hint="They should be Parquet, all of the same columns."
            ) from error
        kinds = {row[0]: row[1] for row in rows}
        for name in ("time", "bytes"):
            if kinds.get(name) not in _NUMBERS:
                raise ParseError(
                    f"{self._pattern} has no column {name} of numbers", hint="docs/formats.md says what the columns are."
                )
        self._has_limits = kinds.get("limit_bytes") in _NUMBERS
        self._has_epochs = kinds.get("epoch") in _NUMBERS
        return tuple(name for name, kind in kinds.items() if kind == "VARCHAR" and name != "filename")

    def _source(self, window: Window, columns: Sequence[str]) -> str:
        """Rows of the window, with the hash of their labels."""
        hashed = [*map(_quoted, self._labels), *(["epoch"] if self._has_epochs else [])] or ["1"]
        more = "".join(f", {_quoted(name)}" for name in columns)
        return (
            f"SELECT hash({', '.join(hashed)}) AS h, CAST(time AS DOUBLE) AS time, CAST(bytes AS DOUBLE) AS bytes, filename{more}"  # noqa: S608
            f" FROM read_parquet(?, union_by_name = true, filename = true)"
            f" WHERE time >= {window.start!r} AND time < {window.end!r} AND isfinite(CAST(bytes AS DOUBLE))"
        )

    def _cut(self, files: Sequence[tuple[str, str]]) -> list[_Piece]:
        """Pieces of some ten thousand series: by file where no series lies in two, else by hash."""
        divisor = max(1, math.ceil(len(files) / _AT_ONCE))
        everything = tuple(self._files)
        if any(first != last for first, last in files):
            return [_Piece(everything, divisor, remainder) for remainder in range(divisor)]
        pieces: list[_Piece] = []
        part: list[str] = []
        held = 0
        for name, count in sorted(Counter(first for first, _ in files).items()):
            if part and held + count > _AT_ONCE:
                pieces.append(_Piece(tuple(part), 1, 0))
                part, held = [], 0
            if count > _AT_ONCE:
                divisor = math.ceil(count / _AT_ONCE)
                pieces += [_Piece((name,), divisor, remainder) for remainder in range(divisor)]
                continue
            part.append(name)
            held += count
        return [*pieces, _Piece(tuple(part), 1, 0)] if part else pieces

    def _batch(self, piece: _Piece, window: Window) -> FloorBatch:
        with self._connection.cursor() as cursor:
            block = f"CAST(floor((time - {window.start!r}) * 1000 / {window.width_ms}) AS INTEGER)"
            query = (
                f"SELECT h, {block} AS block, quantile_cont(bytes, {_QUANTILE}) AS floor FROM ({self._source(window, ())})"  # noqa: S608
                f" WHERE h % {piece.divisor} = {piece.remainder} GROUP BY ALL"
            )
            table = _numpy(cursor, query, [list(piece.files)])
        places = np.searchsorted(self._hashes, table["h"])
        known = places < len(self._hashes)
        known[known] = self._hashes[places[known]] == table["h"][known]
        places, blocks, values = places[known], table["block"][known], table["floor"][known]
        numbers, rows = np.unique(places, return_inverse=True)
        floors = np.full((len(numbers), window.blocks), np.nan)
        floors[rows, np.clip(blocks, 0, window.blocks - 1)] = values
        return FloorBatch(numbers.astype(np.int64), floors)

    def _rows(self, query: str) -> list[Any]:
        try:
            return self._connection.execute(query, [self._files]).fetchall()
        except duckdb.Error as error:
            raise _translated(error) from error


def _numpy(cursor: duckdb.DuckDBPyConnection, query: str, parameters: list[Any]) -> dict[str, NDArray[Any]]:
    try:
        found = cursor.execute(query, parameters).fetchnumpy()
    except duckdb.Error as error:
        raise _translated(error) from error
    return {name: np.ma.filled(column, np.nan) if np.ma.isMaskedArray(column) else column for name, column in found.items()}


def _translated(error: duckdb.Error) -> NotPossible | ParseError:
    if isinstance(error, duckdb.OutOfMemoryException):
        return NotPossible(
            f"there is no memory for so many series: {_first_line(error)}", hint="Fewer files, or a shorter --window."
        )
    return ParseError(
        f"the files cannot be read: {_first_line(error)}", hint="They are damaged, or not of the columns that they should have."
    )


def _compiled(value: str) -> re.Pattern[str] | str:
    try:
        return re.compile(value)
    except re.error:
        return value


def _matches(text: str, operator: str, value: re.Pattern[str] | str) -> bool:
    plain = value if isinstance(value, str) else value.pattern
    if operator in ("=", "!="):
        return (text == plain) == (operator == "=")
    if isinstance(value, str):
        raise InvalidRequest(f"--match {value!r} is not a regular expression")
    return (value.fullmatch(text) is not None) == (operator == "=~")


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:300]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
