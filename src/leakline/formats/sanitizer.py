"""Reports of LeakSanitizer, alone or within AddressSanitizer: text, of gcc's and clang's runtimes.

Source: compiler-rt/lib/lsan/lsan_common.cpp and sanitizer_common/sanitizer_stacktrace_printer.cpp (LLVM 14).
"""

from __future__ import annotations

import os
import re

import msgspec

from leakline.errors import ParseError
from leakline.model.checker import CheckerLog, LeakRecord
from leakline.model.names import readable
from leakline.model.stack import Frame

_BEGIN = re.compile(r"==(\d+)==ERROR: LeakSanitizer: detected memory leaks")
_LEAK = re.compile(r"(Direct|Indirect) leak of (\d+) byte\(s\) in (\d+) object\(s\) allocated from:")
_ERROR = re.compile(r"==(\d+)==ERROR: (?:Address|Leak)Sanitizer: (?!detected memory leaks)")
_FATAL = re.compile(r"LeakSanitizer has encountered a fatal error")
_FRAME = re.compile(r"\s+#\d+ 0x([0-9a-f]{1,16})(?: in)? ?(.*)$")
# What a frame's line ends in, the last first.
_BUILD_ID = re.compile(r"(.*?) ?\(BuildId: ([0-9a-f]+)\)$")
_MODULE = re.compile(r"(.*?) ?\(([^()]+)\+0x([0-9a-f]{1,16})\)$")
_PLACE = re.compile(r"(.*?) ?([^ ]+?):(\d{1,9})(?::\d+)?$")
_ALLOCATORS = re.compile(
    r"^(?:__interceptor_|___interceptor_)?(?:malloc|calloc|realloc|reallocarray|memalign|aligned_alloc|posix_memalign|valloc|pvalloc)$"
    r"|^operator new"
)
_LONGEST_NUMBER = 18


class SanitizerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a log holds."""

    logs: tuple[CheckerLog, ...]
    """One for each time that leaks were looked for and found."""
    failed: bool
    """LeakSanitizer gave up, as under ptrace."""


def parse_sanitizer(data: bytes, name: str) -> SanitizerReport:
    """The leak reports in a log; other text around them is no matter.

    Raises:
        ParseError: a report is cut short, or not of this form.

    """
    logs: list[CheckerLog] = []
    pid: int | None = None
    records: list[LeakRecord] = []
    frames: list[Frame] | None = None
    head: tuple[str, int, int] | None = None
    errors: dict[int, int] = {}
    text = data.decode(errors="surrogateescape")

    def finish_record() -> None:
        nonlocal head, frames
        if head is not None:
            records.append(_record(head, frames or []))
        head, frames = None, None

    for line in text.splitlines():
        begin, leak, error = _BEGIN.search(line), _LEAK.match(line), _ERROR.search(line)
        if error is not None:
            number = _number(error[1], name)
            errors[number] = errors.get(number, 0) + 1
        elif begin is not None:
            pid, records = _number(begin[1], name), []
        elif pid is not None and leak is not None:
            finish_record()
            head, frames = (leak[1], _number(leak[2], name), _number(leak[3], name)), []
        elif frames is not None and (frame := _FRAME.match(line)) is not None:
            frames.append(_frame(frame))
        elif pid is not None and line.startswith("SUMMARY: "):
            finish_record()
            logs.append(_log(pid, records, errors.get(pid, 0)))
            pid, records = None, []
    if pid is not None:
        raise ParseError(f"{name} is cut short: a report of LeakSanitizer has no end")
    if not logs:
        logs = [_log(number, [], count) for number, count in errors.items()]
    return SanitizerReport(logs=tuple(logs), failed=_FATAL.search(text) is not None)


def _log(pid: int, records: list[LeakRecord], errors: int) -> CheckerLog:
    return CheckerLog(
        checker="LeakSanitizer",
        pid=pid,
        command=None,
        records=tuple(records),
        other_errors=errors,
        knows=("definite", "indirect"),
    )


def _record(head: tuple[str, int, int], frames: list[Frame]) -> LeakRecord:
    while frames and frames[0].function is not None and _ALLOCATORS.match(frames[0].function):
        frames = frames[1:]
    kind, size, blocks = head
    return LeakRecord(
        kind="definite" if kind == "Direct" else "indirect", bytes=size, blocks=blocks, indirect_bytes=None, stack=tuple(frames)
    )


def _frame(match: re.Match[str]) -> Frame:
    address, rest = match.groups()
    build_id = module = file = line = None
    if (found := _BUILD_ID.match(rest)) is not None:
        rest, build_id = found.groups()
    while (found := _MODULE.match(rest)) is not None:
        rest, module, address = found.groups()
    if (found := _PLACE.match(rest)) is not None:
        rest, file, line = found.groups()
    return Frame(
        function=readable(rest) if rest else None,
        file=None if file is None else readable(file),
        line=None if line is None else int(line),
        module=None if module is None else readable(os.path.basename(module)),
        address=int(address, 16),
        build_id=build_id,
    )


def _number(text: str, name: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ParseError(f"{name} is not sound: {text[:40]!r}")
    return int(text)
