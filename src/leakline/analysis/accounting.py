"""Filtering, ordering and summing tables of memory."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

import msgspec

from leakline.errors import InvalidRequest
from leakline.model.mappings import VmaMemory, VmaTotals

if TYPE_CHECKING:
    from leakline.model.accounting import Group, ProcessMemory

Row = TypeVar("Row", bound=msgspec.Struct)
_SUMS = ("vss", "rss", "pss", "uss", "swap", "swap_pss")
_KEYS: dict[str, Callable[[ProcessMemory], str]] = {
    "user": lambda p: p.user or "-",
    "command": lambda p: p.command,
    "cgroup": lambda p: p.cgroup or "-",
}


def _pattern(option: str, expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise InvalidRequest(f"{option} {expression!r} is not a regular expression: {error}") from error


def select_processes(
    rows: Iterable[ProcessMemory],
    *,
    pids: Sequence[int] = (),
    name: str | None = None,
    user: str | None = None,
    cgroup: str | None = None,
) -> list[ProcessMemory]:
    """The rows that fit all that is given.

    Args:
        rows: all processes.
        pids: these; all if empty.
        name: an expression that the command, or the program's name in the command line, must contain.
        user: an expression that the owner must contain.
        cgroup: an expression that the control group must contain.

    Raises:
        InvalidRequest: an expression is none.

    """
    chosen = list(rows)
    if pids:
        chosen = [p for p in chosen if p.pid in pids]
    if name is not None:
        wanted = _pattern("--name", name)
        chosen = [p for p in chosen if wanted.search(p.command) or wanted.search(_program(p))]
    if user is not None:
        wanted = _pattern("--user", user)
        chosen = [p for p in chosen if p.user is not None and wanted.search(p.user)]
    if cgroup is not None:
        wanted = _pattern("--cgroup", cgroup)
        chosen = [p for p in chosen if p.cgroup is not None and wanted.search(p.cgroup)]
    return chosen


def _program(process: ProcessMemory) -> str:
    return os.path.basename((process.cmdline or "").split(" ", 1)[0])


def order(rows: Sequence[Row], column: str, *, ascending: bool) -> list[Row]:
    """Rows by a column; what is unknown counts as the least.

    Raises:
        InvalidRequest: there is no such column.

    """
    if rows and column not in rows[0].__struct_fields__:
        raise InvalidRequest(f"no column {column!r} to sort by", hint=f"There are: {', '.join(rows[0].__struct_fields__)}.")
    value = attrgetter(column)
    unknown = [row for row in rows if value(row) is None] if None in map(value, rows) else []
    known = [row for row in rows if value(row) is not None] if unknown else rows
    ordered = sorted(known, key=value, reverse=not ascending)
    return [*unknown, *ordered] if ascending else [*ordered, *unknown]


def select_groups(groups: Iterable[Group], expression: str) -> list[Group]:
    """Groups whose name the expression finds.

    Raises:
        InvalidRequest: it is none.

    """
    wanted = _pattern("--mapping", expression)
    return [group for group in groups if wanted.search(group.name)]


def total(name: str, rows: Sequence[ProcessMemory] | Sequence[Group], *, count: int | None = None) -> Group:
    """The sum; of what is unknown everywhere None, else of what is known, and how many rows are not in it.

    Args:
        name: of the sum.
        rows: what to sum.
        count: of processes, where the rows' own would count one more than once.

    """
    from leakline.model.accounting import Group

    sums = {}
    for column in _SUMS:
        values = [value for row in rows if (value := getattr(row, column)) is not None]
        sums[column] = sum(values) if values else None
    return Group(
        name=name,
        count=sum(row.count if isinstance(row, Group) else 1 for row in rows) if count is None else count,
        unreadable=sum(row.unreadable if isinstance(row, Group) else row.pss is None for row in rows),
        **sums,
    )


def group_processes(rows: Iterable[ProcessMemory], by: str) -> list[Group]:
    """Sums over processes of the same user, command or control group."""
    members: dict[str, list[ProcessMemory]] = defaultdict(list)
    for row in rows:
        members[_KEYS[by](row)].append(row)
    return [total(name, group) for name, group in members.items()]


def tree(rows: Sequence[ProcessMemory]) -> list[tuple[int, ProcessMemory]]:
    """Each process with its depth, behind its parent; siblings keep their order."""
    children: dict[int | None, list[ProcessMemory]] = defaultdict(list)
    pids = {row.pid for row in rows}
    for row in rows:
        children[row.ppid if row.ppid in pids and row.ppid != row.pid else None].append(row)
    placed: list[tuple[int, ProcessMemory]] = []
    waiting = [(0, row) for row in reversed(children[None])]
    while waiting:
        depth, row = waiting.pop()
        placed.append((depth, row))
        waiting += [(depth + 1, child) for child in reversed(children[row.pid])]
    return placed


_VMA_SUMS = ("size", "rss", "pss", "uss", "dirty", "swap")


def total_mappings(name: str, rows: Sequence[VmaMemory]) -> VmaTotals:
    """The sum over mappings. [vsyscall] is no memory of the process: its size is left out, as in VmSize."""
    counted = [row for row in rows if row.kind != "vsyscall"]
    sums = {column: sum(map(attrgetter(column), counted)) for column in _VMA_SUMS}
    return VmaTotals(name=name, count=len(rows), **sums)


def group_mappings(rows: Iterable[VmaMemory], by: str) -> list[VmaTotals]:
    """Sums over mappings of the same kind, path or permissions."""
    members: dict[str, list[VmaMemory]] = defaultdict(list)
    for row in rows:
        members[str(getattr(row, by) or "[anon]")].append(row)
    return [total_mappings(name, group) for name, group in members.items()]


def select_range(rows: Iterable[VmaMemory], expression: str) -> list[VmaMemory]:
    """Mappings that touch `START-END` or hold `ADDRESS` (hexadecimal).

    Raises:
        InvalidRequest: it is neither.

    """
    match = re.fullmatch(r"(?:0x)?([0-9a-fA-F]{1,16})(?:-(?:0x)?([0-9a-fA-F]{1,16}))?", expression)
    if match is None or (match[2] and int(match[2], 16) <= int(match[1], 16)):
        raise InvalidRequest(f"--range {expression!r} is neither an address nor two", hint="Such as 7f00a000-7f00b000.")
    start = int(match[1], 16)
    end = int(match[2], 16) if match[2] else start + 1
    return [row for row in rows if row.start < end and start < row.end]
