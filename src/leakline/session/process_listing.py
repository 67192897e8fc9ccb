"""One look at all processes for `ps --json`, without the library of records: to load it takes as long as to read 50 processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.present.process_json import process_table_json
from leakline.sources.process_table import FIELDS, ProcessTableReader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leakline.present.process_json import Value
    from leakline.sources.machine import Machine
    from leakline.sources.process_table import Fields

_SUMS = ("vss", "rss", "pss", "uss", "swap", "swap_pss")


def list_processes(machine: Machine, sort: str, *, ascending: bool) -> tuple[str, dict[str, int], bool | None]:
    """All processes.

    Args:
        machine: whose.
        sort: the column to order by, one of FIELDS; what is unknown counts as the least.
        ascending: the largest last.

    Returns:
        The table as JSON, how much was seen, and whether this kernel only estimates PSS.

    """
    reader = ProcessTableReader(machine, ["started"])
    rows = _ordered(reader.read_fields(), FIELDS.index(sort), ascending=ascending)
    seen, estimated = reader.seen(), machine.kernel_option("NO_PAGE_MAPCOUNT")
    rest: dict[str, Value | Mapping[str, Value]] = {
        "totals": _totals(rows),
        "coverage": seen,
        "max_map_count": machine.max_map_count(),
        "pss_is_estimate": estimated,
    }
    return process_table_json(FIELDS, rows, "leakline.ps/1", rest), seen, estimated


def _ordered(rows: list[Fields], place: int, *, ascending: bool) -> list[Fields]:
    known = [row for row in rows if row[place] is not None]
    unknown = [row for row in rows if row[place] is None]
    known.sort(key=lambda row: row[place], reverse=not ascending)
    return [*unknown, *known] if ascending else [*known, *unknown]


def _totals(rows: list[Fields]) -> dict[str, Value]:
    pss = FIELDS.index("pss")
    found: dict[str, Value] = {"name": "total", "count": len(rows), "unreadable": sum(row[pss] is None for row in rows)}
    for name in _SUMS:
        place = FIELDS.index(name)
        values = [row[place] for row in rows if row[place] is not None]
        found[name] = sum(values) if values else None
    return found
