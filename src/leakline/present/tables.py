"""Tables of records: columns from the records' notes, as text, CSV, JSON or JSON lines."""

from __future__ import annotations

import io
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any, Literal

import msgspec

from leakline.errors import InvalidRequest
from leakline.present.json import to_json
from leakline.present.text import UNKNOWN, amount, change, clock_time, harmless, printable

Format = Literal["table", "json", "jsonl", "csv"]
Line = tuple[str, str]
_Pad = Callable[[str, int], str]
_FEW = 20  # values; where these differ, as addresses do, all may


def _hints(record: type[msgspec.Struct]) -> dict[str, Any]:
    """The types of a record's fields. Where they need not be evaluated, that saves a millisecond."""
    own = record.__annotations__
    ready = len(own) == len(record.__struct_fields__) and not any(isinstance(hint, str) for hint in own.values())
    return own if ready else typing.get_type_hints(record, include_extras=True)


def units_of(record: type[msgspec.Struct]) -> dict[str, str]:
    """The unit of each column of a record: bytes, change, count, text, address or time."""
    units = {}
    for name, hint in _hints(record).items():
        notes = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, msgspec.Meta) and m.extra]
        if notes and notes[0].extra:
            units[name] = str(notes[0].extra["unit"])
    return units


def notes_of(record: type[msgspec.Struct]) -> dict[str, str]:
    """What each column of a record means."""
    notes = {}
    for name, hint in _hints(record).items():
        for meta in getattr(hint, "__metadata__", ()):
            if isinstance(meta, msgspec.Meta) and meta.description:
                notes[name] = meta.description
    return notes


def choose_columns(record: type[msgspec.Struct], asked: str | None, usual: Sequence[str]) -> list[str]:
    """The columns that were asked for, as `a,b`; `+a` adds to the usual ones.

    Raises:
        InvalidRequest: there is no such column.

    """
    if asked is None:
        return list(usual)
    known = units_of(record)
    names = [name.strip() for name in asked.removeprefix("+").split(",") if name.strip()]
    if not names:
        raise InvalidRequest("--columns names none", hint=f"There are: {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise InvalidRequest(f"no column {name!r}", hint=f"There are: {', '.join(known)}.")
    return [*usual, *(n for n in names if n not in usual)] if asked.startswith("+") else names


def _shown(unit: str, *, exact: bool, share_of: int | None) -> Callable[[Any], str]:
    """The text of one value of a column."""
    if unit == "bytes":
        if share_of:
            return lambda value: UNKNOWN if value is None else f"{100 * value / share_of:.2f} %"
        return (lambda value: UNKNOWN if value is None else str(value)) if exact else amount
    if unit == "change":
        return (lambda value: UNKNOWN if value is None else f"{value:+d}" if value else "0") if exact else change
    if unit == "address":
        return lambda value: UNKNOWN if value is None else f"{value:x}"
    if unit == "time":
        return lambda value: UNKNOWN if value is None else clock_time(value)
    return _shown_text


def _shown_text(value: object) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, tuple):
        return printable(", ".join(map(str, value))) or UNKNOWN
    return printable(str(value))


def _cells(head: str, values: Sequence[Any], foot: Sequence[str], shown: Callable[[Any], str], pad: _Pad | None) -> list[str]:
    """A column, of one width if padded. Where values come again, the text of each is made once."""
    if len(set(values[:_FEW])) == len(values[:_FEW]):
        cells = [head, *map(shown, values), *foot]
        if pad is None:
            return cells
        width = max(map(len, cells))
        return [pad(text, width) for text in cells]
    texts = {value: shown(value) for value in set(values)}
    if pad is not None:
        width = max(map(len, [head, *foot, *texts.values()]))
        head, *foot = (pad(text, width) for text in (head, *foot))
        texts = {value: pad(text, width) for value, text in texts.items()}
    return [head, *map(texts.__getitem__, values), *foot]


def _indented(shown: Callable[[Any], str]) -> Callable[[tuple[int, Any]], str]:
    return lambda placed: "  " * placed[0] + shown(placed[1])


def table_lines(
    rows: Sequence[msgspec.Struct],
    record: type[msgspec.Struct],
    columns: Sequence[str],
    *,
    exact: bool = False,
    share_of: int | None = None,
    total: msgspec.Struct | None = None,
    indent: Sequence[int] = (),
) -> Iterator[Line]:
    """A text table: numbers to the right, text to the left, the last column as wide as it is."""
    units = units_of(record)
    have = () if total is None else total.__struct_fields__
    laid_out = []
    for number, column in enumerate(columns, 1):
        shown = _shown(units[column], exact=exact, share_of=share_of)
        pad = str.rjust if units[column] != "text" else str.ljust if number < len(columns) else None
        foot = [] if total is None else [shown(getattr(total, column)) if column in have else ""]
        values = list(map(attrgetter(column), rows))
        if indent and number == len(columns):
            values, shown = list(zip(indent, values, strict=True)), _indented(shown)
        laid_out.append(_cells(column.replace("_", " "), values, foot, shown, pad))
    lines = list(map("  ".join, zip(*laid_out, strict=True)))
    yield lines[0], "headline"
    yield from zip(lines[1 : len(rows) + 1], repeat(""))
    if total is not None:
        yield "─" * max(len(lines[0]), 20), "dim"
        yield lines[-1].rstrip(), "headline"


def as_rows(rows: Sequence[msgspec.Struct], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows with the chosen columns only, plain values."""
    return [{column: getattr(row, column) for column in columns} for row in rows]


def encoded(
    form: Format,
    whole: msgspec.Struct,
    rows_in: str,
    rows: Sequence[msgspec.Struct],
    record: type[msgspec.Struct],
    columns: Sequence[str] | None,
) -> str:
    """JSON (the whole table), JSON lines or CSV (its rows).

    Args:
        form: which.
        whole: the table.
        rows_in: the field of the table that holds the rows.
        rows: the rows.
        record: what they are.
        columns: only these of each row; all if None.

    """
    if form == "json" and columns is None:
        return to_json(whole)
    if form == "json":
        every = {field: getattr(whole, field) for field in whole.__struct_fields__}
        every[rows_in] = as_rows(rows, columns or ())
        return to_json(every)
    plain = as_rows(rows, columns) if columns is not None else [msgspec.to_builtins(row) for row in rows]
    if form == "jsonl":
        return "".join(harmless(msgspec.json.encode(row).decode()) + "\n" for row in plain)
    import csv

    out = io.StringIO()
    heads = list(columns if columns is not None else record.__struct_fields__)
    writer = csv.DictWriter(out, heads, lineterminator="\n")
    writer.writeheader()
    for row in plain:
        writer.writerow({key: _harmless(value) for key, value in row.items()})
    return out.getvalue()


def _harmless(value: object) -> object:
    """A spreadsheet takes a text that begins so for a formula (OWASP, "CSV Injection")."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    dangerous = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) and not re.fullmatch(_PERMS, value)
    return f"'{value}" if dangerous else value


_PERMS = r"[r-][w-][x-][ps]|-"
