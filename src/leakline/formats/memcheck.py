"""Valgrind memcheck's XML output, protocol 4 (docs/internals/xml-output-protocol4.txt of valgrind 3.19)."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from leakline.errors import ParseError
from leakline.model.checker import CheckerLog, LeakRecord
from leakline.model.names import readable
from leakline.model.stack import Frame

if TYPE_CHECKING:
    from leakline.model.heap import BlockKind

_KINDS: dict[str, BlockKind] = {
    "Leak_DefinitelyLost": "definite",
    "Leak_IndirectlyLost": "indirect",
    "Leak_PossiblyLost": "possible",
    "Leak_StillReachable": "reachable",
}
_DIRECT = re.compile(r"^[\d,]+ \(([\d,]+) direct, ([\d,]+) indirect\) bytes")
_LOSS_RECORD = re.compile(r" in (?:new )?loss record ([\d,]+) of ([\d,]+)")
_VERSION = re.compile(r"Using Valgrind-(\S+)")
_ALLOCATOR = "/vgpreload_"
_MOST = 1 << 62
# Where valgrind loads a position-independent program on amd64; it has no randomised addresses (coregrind/m_ume/elf.c).
_PROGRAM_BASE, _PROGRAM_END = 0x108000, 0x400000


def parse_memcheck(data: bytes, name: str) -> CheckerLog:
    """What memcheck wrote with --xml=yes.

    Raises:
        ParseError: it is something else, or cut short, as where the program was killed.

    """
    try:
        root = ET.fromstring(data)  # noqa: S314
    except (ET.ParseError, ValueError) as error:
        raise ParseError(f"{name} is not valgrind's XML: {error}", hint="Was valgrind killed before its end?") from error
    if root.tag != "valgrindoutput" or root.findtext("tool") != "memcheck":
        raise ParseError(f"{name} is not the output of valgrind memcheck", hint="--tool=memcheck --xml=yes --xml-file=FILE")
    preamble = " ".join(line.text or "" for line in root.iterfind("preamble/line"))
    version = _VERSION.search(preamble)
    program = root.findtext("args/argv/exe")
    command = None if program is None else readable(os.path.basename(program))
    records: list[LeakRecord] = []
    others, last = 0, (0, 0)
    for entry in root.iterfind("error"):
        kind = _KINDS.get(entry.findtext("kind") or "")
        if kind is None:
            others += 1
        else:
            number = _LOSS_RECORD.search(entry.findtext("xwhat/text") or "")
            here = last if number is None else (_number(number[2], name), _number(number[1], name))
            if here[0] != last[0] or here[1] <= last[1]:  # another check of the same process: what was lost before is in it too
                records.clear()
            last = here
            records.append(_record(entry, kind, name, command))
    return CheckerLog(
        checker=f"valgrind {readable(version[1])}" if version else "valgrind",
        pid=_number(root.findtext("pid"), name),
        command=command,
        records=tuple(records),
        other_errors=others,
        knows=("definite", "indirect", "possible", "reachable"),
    )


def module_address(ip: int, module: str | None, program: str | None) -> int | None:
    """An address of a valgrind run in its module's own terms; None in libraries, whose place the log does not tell.

    Args:
        ip: the address, in the process.
        module: the name of the file that it lies in, if that is told.
        program: the name of the program.

    """
    if module is None or module != program:
        return None
    return ip - _PROGRAM_BASE if _PROGRAM_BASE <= ip < _PROGRAM_END else ip


def _record(error: ET.Element, kind: BlockKind, name: str, program: str | None) -> LeakRecord:
    size = _number(error.findtext("xwhat/leakedbytes"), name)
    direct = _DIRECT.match(error.findtext("xwhat/text") or "")
    indirect = 0
    if direct is not None:
        size, indirect = _number(direct[1], name), _number(direct[2], name)
    frames = [frame for frame in error.iterfind("stack/frame") if _ALLOCATOR not in (frame.findtext("obj") or "")]
    return LeakRecord(
        kind=kind,
        bytes=size,
        blocks=_number(error.findtext("xwhat/leakedblocks"), name),
        indirect_bytes=indirect if kind == "definite" else None,
        stack=tuple(_frame(frame, name, program) for frame in frames),
    )


def _frame(frame: ET.Element, name: str, program: str | None) -> Frame:
    folder, file, line, module = (frame.findtext(tag) for tag in ("dir", "file", "line", "obj"))
    function = frame.findtext("fn")
    module = None if module is None else readable(os.path.basename(module))
    return Frame(
        function=None if function is None else readable(function),
        file=None if file is None else readable(os.path.join(folder, file) if folder else file),
        line=None if line is None else _number(line, name),
        module=module,
        address=module_address(_number(frame.findtext("ip"), name, 16), module, program),
    )


def _number(text: str | None, name: str, base: int = 10) -> int:
    try:
        number = int((text or "").replace(",", ""), base)
    except ValueError as error:
        raise ParseError(f"{name} is not sound: {text!r} is no number") from error
    if not 0 <= number < (_MOST if base == 10 else 1 << 64):
        raise ParseError(f"{name} is not sound: {text!r}")
    return number
