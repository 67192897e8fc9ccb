"""Reports of LeakSanitizer, alone or within AddressSanitizer: text, of gcc's and clang's runtimes.

Source: compiler-rt/lib/lsan/lsan_common.cpp and sanitizer_common/sanitizer_stacktrace_printer.cpp (LLVM 14).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import msgspec

from leakline.errors import ParseError
from leakline.model.checker import CheckerLog, LeakRecord, SuppressedTotal
from leakline.model.names import readable
from leakline.model.stack import Frame

if TYPE_CHECKING:
    from collections.abc import Sequence

_BEGIN = re.compile(r"==(\d+)==ERROR: LeakSanitizer: detected memory leaks")
_LEAK = re.compile(r"(Direct|Indirect) leak of (\d+) byte\(s\) in (\d+) object\(s\) allocated from:")
_ERROR = re.compile(r"==(\d+)==ERROR: (?:Address|Leak)Sanitizer:? (?!detected memory leaks)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SUPPRESSED = re.compile(r"^ +(\d{1,18}) +(\d{1,18}) (.+)$")
_CHECKED = re.compile(r"==\d+==Processing thread \d+\.")
_ABORTED = re.compile(r"==(\d+)==ABORTING")
_FATAL = re.compile(r"LeakSanitizer has encountered a fatal error")
_FRAME = re.compile(r"\s+#\d+ 0x([0-9a-f]{1,16})(?: in)? ?(.*)$")
# What a frame's line ends in, the last first.
_BUILD_ID = re.compile(r"(.*?) ?\(BuildId: ([0-9a-f]+)\)$")
_PATH = re.compile(r"(.*?) ?\((/(?:[^()]|\([^()]*\))+)\+0x([0-9a-f]{1,16})\)$")
_MODULE = re.compile(r"(.*?) ?\(([^()]*)\+0x([0-9a-f]{1,16})\)$")
_PLACE = re.compile(r"(.+?):(\d{1,9})(?::\d+)?$")
_ALLOCATORS = re.compile(
    r"^(?:__interceptor_|___interceptor_)?(?:malloc|calloc|realloc|reallocarray|memalign|aligned_alloc|posix_memalign|valloc|pvalloc)$"
    r"|^operator new"
)
_LONGEST_NUMBER = 18
_LONGEST_LINE = 1 << 14
_MOST_TAILS = 8  # clang writes module and build-id twice, where a format asks for the module too


class SanitizerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a log holds."""

    logs: tuple[CheckerLog, ...]
    """One for each time that leaks were looked for and found."""
    failed: bool
    """LeakSanitizer gave up, as under ptrace."""
    problems: tuple[str, ...] = ()
    """Reports that could not be read whole."""
    checked: bool = False
    """Leaks were looked for at least once, which log_threads=1 makes it say."""
    aborted: tuple[int, ...] = ()
    """Processes that an error which is no leak has ended."""


class _Reading(msgspec.Struct):
    """What is open while lines come."""

    pid: int | None = None
    records: list[LeakRecord] = msgspec.field(default_factory=list)
    head: tuple[str, int, int] | None = None
    frames: list[Frame] = msgspec.field(default_factory=list)
    modules: dict[str, str] = msgspec.field(default_factory=dict)

    def finish_record(self) -> None:
        """The stack is at its end."""
        if self.head is not None:
            self.records.append(_record(self.head, self.frames))
        self.head, self.frames = None, []


def looks_like_sanitizer(data: bytes) -> bool:
    """Whether a log holds something that a sanitizer said."""
    return re.search(rb"==\d{1,18}==[^\n]{0,200}(?:Leak|Address)Sanitizer|SUMMARY: LeakSanitizer: ", data) is not None


def parse_sanitizer(data: bytes, name: str) -> SanitizerReport:
    """The leak reports in a log; other text around them is no matter.

    Raises:
        ParseError: its only report is cut short, or not of this form.

    """
    logs: list[CheckerLog] = []
    problems: list[str] = []
    errors: dict[int, int] = {}
    reading = _Reading()
    suppressing = False
    suppressed: list[SuppressedTotal] = []
    text = _COLOUR.sub("", data.decode(errors="surrogateescape"))
    for line in text.splitlines():
        if len(line) > _LONGEST_LINE:
            continue
        begin, leak, error = _BEGIN.search(line), _LEAK.match(line), _ERROR.search(line)
        if error is not None:
            number = _number(error[1], name)
            errors[number] = errors.get(number, 0) + 1
        elif begin is not None:
            if reading.pid is not None:
                problems.append(f"{name} is cut short: a report of LeakSanitizer about process {reading.pid} has no end")
            reading = _Reading(pid=_number(begin[1], name))
        elif reading.pid is not None and leak is not None:
            reading.finish_record()
            reading.head = (leak[1], _number(leak[2], name), _number(leak[3], name))
        elif reading.head is not None and (frame := _FRAME.match(line)) is not None:
            reading.frames.append(_frame(frame, reading.modules))
        elif reading.pid is not None and line.startswith("SUMMARY: "):
            reading.finish_record()
            logs.append(_log(reading, errors.get(reading.pid, 0), suppressed))
            reading, suppressed = _Reading(), []
        elif line == "Suppressions used:":
            suppressing = True
        elif suppressing and (used := _SUPPRESSED.match(line)) is not None:
            blocks, size = _number(used[1], name), _number(used[2], name)
            suppressed.append(SuppressedTotal(rule=readable(f"leak:{used[3]}"), bytes=size, blocks=blocks))
        elif suppressing and line.strip() not in ("count      bytes template", ""):
            suppressing = False
    if reading.pid is not None:
        problems.append(f"{name} is cut short: a report of LeakSanitizer has no end")
    if problems and not logs:
        raise ParseError(problems[0])
    if not logs:
        # They tell nothing about leaks: the program may have been ended before these were looked for.
        checker = "AddressSanitizer" if "AddressSanitizer" in text else "LeakSanitizer"
        logs = [
            msgspec.structs.replace(_log(_Reading(pid=number), count, ()), checker=checker, knows=())
            for number, count in errors.items()
        ]
    if suppressed and logs:  # with nothing left to report the suppressions come last, or alone
        logs[-1] = msgspec.structs.replace(logs[-1], suppressed=(*logs[-1].suppressed, *suppressed))
    return SanitizerReport(
        logs=tuple(logs),
        failed=_FATAL.search(text) is not None,
        problems=tuple(problems),
        checked=_CHECKED.search(text) is not None,
        aborted=tuple(_number(match[1], name) for match in _ABORTED.finditer(text)),
    )


def _log(reading: _Reading, errors: int, suppressed: Sequence[SuppressedTotal]) -> CheckerLog:
    return CheckerLog(
        checker="LeakSanitizer",
        pid=reading.pid or 0,
        command=_program(reading.records),
        records=tuple(reading.records),
        other_errors=errors,
        knows=("definite", "indirect"),
        suppressed=tuple(suppressed),
        modules=tuple(reading.modules.items()),
    )


def _program(records: Sequence[LeakRecord]) -> str | None:
    """The program's name: of the module that main is in, where the frames tell it."""
    return next((f.module for record in records for f in record.stack if f.function == "main" and f.module is not None), None)


def _record(head: tuple[str, int, int], frames: list[Frame]) -> LeakRecord:
    kind, size, blocks = head
    return LeakRecord(
        kind="definite" if kind == "Direct" else "indirect",
        bytes=size,
        blocks=blocks,
        indirect_bytes=None,
        stack=without_allocator(frames),
    )


def without_allocator(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """A stack from the allocator's caller on: clang links its interceptors into the program."""
    first = next((at for at, frame in enumerate(frames) if not _ALLOCATORS.match(frame.function or "")), len(frames))
    return tuple(frames[first:])


def _frame(match: re.Match[str], modules: dict[str, str]) -> Frame:
    rest: str = match[2]
    address = build_id = module = file = line = None
    for _ in range(_MOST_TAILS):
        if (found := _BUILD_ID.match(rest)) is not None:
            rest, build_id = found.groups()
        elif (found := (_PATH.match(rest) or _MODULE.match(rest))) is not None:
            rest, path, address = found.groups()
            module = readable(os.path.basename(path))
            if path.startswith("/"):
                modules.setdefault(module, path)
        else:
            break
    before, _, last = rest.rpartition(" ")
    if (found := _PLACE.match(last)) is not None:
        rest, file, line = before, found[1], found[2]
    return Frame(
        function=readable(rest) if rest else None,
        file=None if file is None else readable(file),
        line=None if line is None else int(line),
        module=module or None,
        address=None if address is None else int(address, 16),
        build_id=build_id,
    )


def _number(text: str, name: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ParseError(f"{name} is not sound: {text[:40]!r}")
    return int(text)
