"""Valgrind memcheck's text, as people keep it in logs (coregrind/m_errormgr.c, memcheck/mc_leakcheck.c of valgrind 3.19)."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import msgspec

from leakline.errors import ParseError
from leakline.formats.memcheck import module_address
from leakline.model.checker import CheckerLog, LeakRecord, LeakTotal, SuppressedTotal
from leakline.model.names import readable
from leakline.model.stack import Frame

if TYPE_CHECKING:
    from leakline.model.heap import BlockKind

# With --time-stamp=yes there is a time too; `**` begins what client requests print.
_LINE = re.compile(r"^(?:==|--|\*\*)(?:[\d:.]+ )?(\d{1,10})(?:==|--|\*\*)(?: (.*))?$")
_KINDS: dict[str, BlockKind] = {
    "definitely lost": "definite",
    "indirectly lost": "indirect",
    "possibly lost": "possible",
    "still reachable": "reachable",
}
_AMOUNT = r"(\d[\d,]{0,24})(?: \([+-][\d,]+\))?"  # in a second check: with what changed since the first
_RECORD = re.compile(
    rf"^{_AMOUNT} (?:\({_AMOUNT} direct, {_AMOUNT} indirect\) )?bytes? in {_AMOUNT} blocks? (?:is|are) ({'|'.join(_KINDS)}) in "
    r"(?:new )?loss record "
)
_TOTAL = re.compile(rf"^({'|'.join(_KINDS)}): {_AMOUNT} bytes? in {_AMOUNT} blocks?$")
_FRAME = re.compile(r"^   (?:at|by) 0x([0-9A-Fa-f]{1,16}): (.*)$")
_PLACE = re.compile(r"^(.*) \(([^()]+):(\d{1,9})\)$")
_OBJECT = re.compile(r"^(.*) \(in (.+)\)$")
_OTHER_ERRORS = re.compile(
    r"^(?:Invalid (?:read|write) of size|Conditional jump or move depends|Use of uninitialised value|Syscall param |"
    r"Invalid free\(\)|Mismatched free\(\)|Source and destination overlap|Argument '.*' of function|Illegal memory pool|"
    r"Jump to the invalid address)"
)
# With -s; rules for other errors tell no bytes.
_SUPPRESSED = re.compile(rf"^used_suppression: +\d{{1,12}} (.*?) suppressed: {_AMOUNT} bytes? in {_AMOUNT} blocks?$")
_ALL: tuple[BlockKind, ...] = ("definite", "indirect", "possible", "reachable")
_WITHOUT_SUMS: tuple[BlockKind, ...] = ("definite", "possible")  # with --quiet there are records alone
_NO_LEAKS = "All heap blocks were freed -- no leaks are possible"
_MOST = 1 << 62
_LONGEST_LINE = 1 << 14


class _Process(msgspec.Struct):
    """What has been read of one process."""

    pid: int
    version: str | None = None
    command: str | None = None
    records: list[LeakRecord] = msgspec.field(default_factory=list)
    totals: dict[BlockKind, LeakTotal] = msgspec.field(default_factory=dict)
    suppressed: list[SuppressedTotal] = msgspec.field(default_factory=list)
    head: LeakRecord | None = None
    frames: list[Frame] | None = None
    others: int = 0
    banner: bool = False
    checked: bool = False


def looks_like_memcheck_text(data: bytes) -> bool:
    """Whether a log holds lines of memcheck."""
    return (
        re.search(rb"(?m)^==(?:[\d:.]+ )?\d+== (?:Memcheck, a memory error|HEAP SUMMARY:|LEAK SUMMARY:|.* in loss record )", data)
        is not None
    )


def parse_memcheck_text(data: bytes, name: str) -> tuple[CheckerLog, ...]:
    """One log for each process in the text, as it was at its last leak check; other text around them is no matter.

    Raises:
        ParseError: there is none.

    """
    processes: dict[int, _Process] = {}
    for line in data.decode(errors="surrogateescape").splitlines():
        match = _LINE.match(line) if len(line) <= _LONGEST_LINE else None
        if match is not None:
            pid = int(match[1])
            _read(processes.setdefault(pid, _Process(pid)), match[2] or "", name)
    found = [process for process in processes.values() if process.banner or process.records or process.totals or process.checked]
    if not found:
        raise ParseError(f"{name} holds no report of valgrind memcheck", hint="valgrind --leak-check=full --log-file=FILE PROGRAM")
    for process in found:
        _finish(process)
    return tuple(_log(process, name) for process in found)


def _read(process: _Process, line: str, name: str) -> None:
    frame = _FRAME.match(line)
    if frame is not None:
        if process.frames is not None:
            process.frames.append(_frame(frame, process.command))
        return
    _finish(process)
    record, total = _RECORD.match(line), _TOTAL.match(line.strip())
    if record is not None:
        if process.totals:  # another check of the same process: what was lost before is in it too
            process.records, process.totals = [], {}
        process.head, process.frames = _record(record, name), []
    elif total is not None:
        kind = _KINDS[total[1]]
        process.totals[kind] = LeakTotal(kind=kind, bytes=_number(total[2], name), blocks=_number(total[3], name))
    elif line.startswith("Memcheck, a memory error detector"):
        process.banner = True
    elif line.startswith("Using Valgrind-"):
        process.version = readable(line.split()[1].removeprefix("Valgrind-"))
    elif line.startswith("Command: "):
        process.command = readable(os.path.basename(line.removeprefix("Command: ").split(" ")[0]))
    elif line == "LEAK SUMMARY:":
        process.checked = True
    elif line == _NO_LEAKS:
        process.checked, process.records, process.totals = True, [], {}
    elif (used := _SUPPRESSED.match(line)) is not None:
        size, blocks = _number(used[2], name), _number(used[3], name)
        process.suppressed.append(SuppressedTotal(rule=readable(used[1]), bytes=size, blocks=blocks))
    elif _OTHER_ERRORS.match(line):
        process.others += 1


def _finish(process: _Process) -> None:
    if process.head is not None:
        process.records.append(msgspec.structs.replace(process.head, stack=tuple(process.frames or ())))
    process.head = process.frames = None


def _record(match: re.Match[str], name: str) -> LeakRecord:
    size, direct, indirect, blocks, kind = match.groups()
    return LeakRecord(
        kind=_KINDS[kind],
        bytes=_number(direct or size, name),
        blocks=_number(blocks, name),
        indirect_bytes=_number(indirect or "0", name) if _KINDS[kind] == "definite" else None,
        stack=(),
    )


def _log(process: _Process, name: str) -> CheckerLog:
    records = [msgspec.structs.replace(record, stack=_without_allocator(record.stack)) for record in process.records]
    problems = []
    if process.banner and not process.checked:
        problems.append(f"{name}: process {process.pid} did not come to its leak check, or was killed before its end")
    elif process.totals and not records and any(total.blocks for total in process.totals.values() if total.kind != "reachable"):
        problems.append(f"{name}: process {process.pid} names no stacks: valgrind shows them with --leak-check=full")
    return CheckerLog(
        checker=f"valgrind {process.version}" if process.version else "valgrind",
        pid=process.pid,
        command=process.command,
        records=tuple(records),
        other_errors=process.others,
        knows=_ALL if process.checked else _WITHOUT_SUMS if records and not process.banner else (),
        totals=tuple(process.totals.values()),
        suppressed=tuple(process.suppressed),
        problems=tuple(problems),
    )


def _without_allocator(stack: tuple[Frame, ...]) -> tuple[Frame, ...]:
    return tuple(
        frame
        for frame in stack
        if not (frame.module or "").startswith("vgpreload_") and os.path.basename(frame.file or "") != "vg_replace_malloc.c"
    )


def _frame(match: re.Match[str], program: str | None) -> Frame:
    text, file, line, module = match[2], None, None, None
    if (place := _PLACE.match(text)) is not None:
        text, file, line = place.groups()
    elif (held := _OBJECT.match(text)) is not None:
        text, module = held[1], os.path.basename(held[2])
    return Frame(
        function=None if text == "???" else readable(text),
        file=None if file is None else readable(file),
        line=None if line is None else int(line),
        module=None if module is None else readable(module),
        address=module_address(int(match[1], 16), module, program),
    )


def _number(text: str, name: str) -> int:
    number = int(text.replace(",", "") or "0")
    if number >= _MOST:
        raise ParseError(f"{name} is not sound: {text}")
    return number
