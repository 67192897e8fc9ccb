"""Tables of records: columns from the records' notes, as text, CSV, JSON or JSON lines."""

from __future__ import annotations

import csv
import io
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from leakline.errors import InvalidRequest
from leakline.present.json import harmless, to_json
from leakline.present.text import UNKNOWN, amount, printable

Format = Literal["table", "json", "jsonl", "csv"]
Line = tuple[str, str]


def units_of(record: type[msgspec.Struct]) -> dict[str, str]:
    """The unit of each column of a record: bytes, count, text or address."""
    units = {}
    for name, hint in typing.get_type_hints(record, include_extras=True).items():
        notes = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, msgspec.Meta) and m.extra]
        if notes and notes[0].extra:
            units[name] = str(notes[0].extra["unit"])
    return units


def notes_of(record: type[msgspec.Struct]) -> dict[str, str]:
    """What each column of a record means."""
    notes = {}
    for name, hint in typing.get_type_hints(record, include_extras=True).items():
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


def cell(value: object, unit: str, *, exact: bool, share_of: int | None = None) -> str:
    """One value as text."""
    if value is None:
        return UNKNOWN
    if unit == "bytes" and isinstance(value, int):
        if share_of:
            return f"{100 * value / share_of:.2f} %"
        return str(value) if exact else amount(value)
    if unit == "address" and isinstance(value, int):
        return f"{value:x}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or UNKNOWN
    return printable(str(value))


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
    cells = [
        [cell(getattr(row, column, None), units[column], exact=exact, share_of=share_of) for column in columns] for row in rows
    ]
    for depth, line in zip(indent, cells, strict=False):
        line[-1] = "  " * depth + line[-1]
    foot = None
    if total is not None:
        have = total.__struct_fields__
        foot = [cell(getattr(total, c) if c in have else "", units[c], exact=exact, share_of=share_of) for c in columns]
    heads = [column.replace("_", " ") for column in columns]
    every = [heads, *cells, *([foot] if foot else [])]
    widths = [max(len(line[i]) for line in every) for i in range(len(columns))]
    left = [units[column] == "text" for column in columns]

    def laid_out(line: Sequence[str]) -> str:
        parts = [
            text.ljust(width) if is_left else text.rjust(width) for text, width, is_left in zip(line, widths, left, strict=True)
        ]
        return "  ".join(parts).rstrip()

    yield laid_out(heads), "headline"
    for line in cells:
        yield laid_out(line), ""
    if foot is not None:
        yield "─" * max(len(laid_out(heads)), 20), "dim"
        yield laid_out(foot), "headline"


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
    dangerous = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) and not _PERMS.fullmatch(value)
    return f"'{value}" if dangerous else value


_PERMS = re.compile(r"[r-][w-][x-][ps]|-")
