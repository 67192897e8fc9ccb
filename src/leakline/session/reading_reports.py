"""Files that hold findings, whoever made them: ours, valgrind's, the sanitizers', the kernel's."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.checker_findings import checker_report
from leakline.analysis.kmemleak_findings import kmemleak_report
from leakline.analysis.merge import merge_reports
from leakline.errors import InvalidRequest, LeaklineError, ParseError
from leakline.formats.kmemleak import looks_like_kmemleak, parse_kmemleak
from leakline.formats.memcheck import parse_memcheck
from leakline.formats.memcheck_text import looks_like_memcheck_text, parse_memcheck_text
from leakline.formats.sanitizer import looks_like_sanitizer, parse_sanitizer
from leakline.model.finding import NotJudged, Report, Target
from leakline.model.names import readable
from leakline.session.reporting import read_findings
from leakline.session.symbolising_logs import symbolised

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leakline.model.checker import CheckerLog

_LARGEST = 512 << 20
_HEAD = 1 << 14
# What runners put before each line: CI jobs the time, ctest -V the test's number, docker compose the service's name.
_PREFIX = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z )?(\d{1,6}: |[\w.-]{1,64} +\| )?")
_GAVE_UP = "LeakSanitizer gave up, as it does under a debugger"
_HINT = (
    "It reads recordings, findings (--json of leakline), valgrind's text and XML, logs of AddressSanitizer and LeakSanitizer, and "
    "/sys/kernel/debug/kmemleak. `leakline trend` judges series of other tools."
)


def read_reports(paths: Sequence[Path], say: Callable[[str], None]) -> list[Report]:
    """What the files hold; of several files one report for each program. What cannot be read is said, and left out.

    Args:
        paths: the files; `-` is standard input.
        say: hears what could not be read.

    Raises:
        LeaklineError: nothing could be read; where there is one file, why.

    """
    reports: list[Report] = []
    errors: list[LeaklineError] = []
    for path in paths:
        try:
            reports += read_file(path, say)
        except LeaklineError as error:
            errors.append(error)
            if len(paths) > 1:
                say(f"not read: {error.message}")
    if not reports and errors:
        if len(errors) == 1:
            raise errors[0]
        raise ParseError(f"none of the {len(errors)} files could be read", hint=_HINT)
    merged = reports if len(paths) == 1 else merge_reports(reports)
    if not merged:
        return []
    unread = tuple(NotJudged(name="a file", bytes=None, share=None, why=error.message) for error in errors)
    return [*merged[:-1], msgspec.structs.replace(merged[-1], not_judged=(*merged[-1].not_judged, *unread))]


def read_file(path: Path, say: Callable[[str], None]) -> list[Report]:
    """What one file holds.

    Raises:
        InvalidRequest: it cannot be opened.
        ParseError: it holds nothing that we read.

    """
    name = "standard input" if str(path) == "-" else readable(str(path))
    data, written = _content(path, name)
    start = data[:_HEAD].lstrip()
    if start.startswith(b"{") and b"leakline" in start:
        return _findings(data, name)
    if start.startswith(b"<") and b"<valgrindoutput>" in start:
        return _of_logs(_several_documents(data, name), say, written)
    if not data.strip() and path.name == "kmemleak":
        return [kmemleak_report(parse_kmemleak(b"", name))]
    plain = _without_prefixes(data)
    reports: list[Report] = []
    if looks_like_kmemleak(data):
        reports.append(kmemleak_report(parse_kmemleak(data, name)))
    logs: list[CheckerLog] = []
    if looks_like_memcheck_text(plain):
        logs += parse_memcheck_text(plain, name)
    if looks_like_sanitizer(plain):
        found = parse_sanitizer(plain, name)
        logs += _last_of_each(found.logs)
        if found.failed and not found.logs:
            raise ParseError(f"{name}: {_GAVE_UP}", hint="Run the program without ptrace, or as root in its container.")
        if logs:
            problems = (*found.problems, *([f"{name}: {_GAVE_UP}"] if found.failed else []))
            logs[-1] = msgspec.structs.replace(logs[-1], problems=(*logs[-1].problems, *problems))
    reports += _of_logs(logs, say, written)
    if not reports:
        raise ParseError(f"{name} {'is empty' if not data else 'holds nothing that leakline reads'}", hint=_HINT)
    return reports


def _without_prefixes(data: bytes) -> bytes:
    """The lines as the programs wrote them; those of each test or service together, as they may run side by side."""
    groups: dict[bytes, list[bytes]] = {}
    for line in data.split(b"\n"):
        prefix = _PREFIX.match(line)
        key, end = (prefix[2] or b"", prefix.end()) if prefix is not None else (b"", 0)
        groups.setdefault(key, []).append(line[end:])
    return b"\n".join(line for group in groups.values() for line in group)


def _content(path: Path, name: str) -> tuple[bytes, float | None]:
    try:
        if str(path) == "-":
            data, written = sys.stdin.buffer.read(_LARGEST + 1), None
        else:
            with path.open("rb") as file:
                written = os.fstat(file.fileno()).st_mtime
                data = file.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidRequest(f"cannot read {name}: {error.strerror}", hint="Check its name, and who may read it.") from error
    if len(data) > _LARGEST:
        raise ParseError(f"{name} is larger than {_LARGEST >> 20} MiB", hint="Keep only the checker's own log.")
    return data, written


def _findings(data: bytes, name: str) -> list[Report]:
    try:
        return list(read_findings(data).targets)
    except ParseError as error:
        raise ParseError(f"{name} holds no findings: {error.message}", hint=_HINT) from error


def _several_documents(data: bytes, name: str) -> list[CheckerLog]:
    """With --trace-children and one file valgrind writes one document behind the other."""
    end = b"</valgrindoutput>"
    documents = [part + end for part in data.split(end)[:-1]]
    rest = data.rpartition(end)[2]
    if rest.strip() or not documents:
        documents.append(rest)
    return [parse_memcheck(document.lstrip(), name) for document in documents]


def _last_of_each(logs: Sequence[CheckerLog]) -> list[CheckerLog]:
    """The last look of a process that looked several times: what an earlier one found is in it too."""
    last = {log.pid: log for log in logs}
    return list(last.values())


def _of_logs(logs: Sequence[CheckerLog], say: Callable[[str], None], written: float | None) -> list[Report]:
    return [
        checker_report(log, Target(pid=log.pid, command=log.command or _program(log) or "?", executable=None), 0, _gaps(log))
        for log in symbolised(logs, say, written)
    ]


def _program(log: CheckerLog) -> str | None:
    """The module that main is in."""
    frames = (frame for record in log.records for frame in record.stack)
    return next((frame.module for frame in frames if frame.function == "main" and frame.module is not None), None)


def _gaps(log: CheckerLog) -> list[NotJudged]:
    if log.knows or not log.other_errors:
        return []
    why = "the log tells of other errors alone: the program may have ended before leaks were looked for"
    return [NotJudged(name="the heap", bytes=None, share=None, why=why)]
