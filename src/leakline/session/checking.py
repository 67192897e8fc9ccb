"""A program that another leak checker runs: valgrind memcheck, AddressSanitizer, LeakSanitizer."""

from __future__ import annotations

import mmap
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from leakline.analysis.checker_findings import checker_report
from leakline.errors import NotPossible, NotSupported, ParseError
from leakline.formats.elf import Elf
from leakline.formats.memcheck import parse_memcheck
from leakline.formats.sanitizer import parse_sanitizer
from leakline.model.checker import CheckerLog
from leakline.model.finding import NotJudged, Report, Target
from leakline.model.names import readable
from leakline.session.launching import Outcome, own_environment, start
from leakline.session.passing_signals import passing_signals_on
from leakline.session.symbolising_logs import symbolised

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Checker = Literal["valgrind", "asan", "lsan"]
CHECKERS: tuple[Checker, ...] = ("valgrind", "asan", "lsan")
_FRAMES = "stack_trace_format='    #%n %p %F %L (%m+%o)'"  # with each frame's module
_SAY_SO = "log_threads=1"  # or a check that finds nothing could not be told from none
_DEFAULT_STATUS = 1  # of a program that AddressSanitizer ends
_NO_CHECK = "no leak check was made: the program ended by a signal or a system call of its own, or never asked for memory"
_CRASHED = (
    "the program crashed, perhaps by the preloaded LeakSanitizer: gcc 12's does that to programs that call signal(); "
    "take --engine agent or valgrind"
)
_NAMES = {"valgrind": "valgrind", "asan": "AddressSanitizer", "lsan": "LeakSanitizer"}


class CheckerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a checker."""

    follow: bool = True
    """Its children are checked too."""
    arguments: tuple[str, ...] = ()
    """Further ones, for valgrind."""
    suppressions: str = ""
    """Entries of valgrind's form, for valgrind itself: about errors that are no leaks."""


class _Found(msgspec.Struct):
    """What the logs of all processes hold."""

    logs: list[CheckerLog] = msgspec.field(default_factory=list)
    problems: list[str] = msgspec.field(default_factory=list)
    aborted: set[int] = msgspec.field(default_factory=set)


def run_checker(checker: Checker, command: Sequence[str], options: CheckerOptions, say: Callable[[str], None]) -> Outcome:
    """Run a program under a checker.

    Args:
        checker: which.
        command: the program.
        options: how.
        say: hears what is being done.

    Raises:
        NotPossible: the checker is not installed.
        NotSupported: it cannot check this program.

    """
    began = time.monotonic_ns()
    preloaded = False
    with tempfile.TemporaryDirectory(prefix="leakline-") as name:
        folder = Path(name)
        if checker != "asan" and _holds(command[0], b"__asan_init"):
            raise NotSupported(
                f"not supported: {command[0]} was built with AddressSanitizer, which suffers no other checker",
                hint="Take --engine asan; or build it without -fsanitize=address.",
            )
        if checker == "valgrind":
            line, environment = [*_valgrind(folder, options), *options.arguments, *command], own_environment()
        else:
            preloaded = checker == "lsan" and not _holds(command[0], b"__lsan_init")
            if preloaded:
                _require_dynamic(command[0])
            line, environment = list(command), _sanitized(checker, command[0], folder, preload=preloaded)
        say(f"running under {_NAMES[checker]}")
        with passing_signals_on() as recipient:
            program = start(line, environment, name=command[0])
            if not isinstance(program, subprocess.Popen):
                return program
            recipient.is_now(program.pid)
            status = program.wait()
            recipient.has_ended()
        found = _read(checker, folder)
    logs = symbolised(found.logs, say)
    own = next((log for log in reversed(logs) if log.pid == program.pid), None)
    if own is None and not found.problems and checker != "valgrind":
        found.problems.append(_CRASHED if preloaded and status in (-signal.SIGSEGV, 128 + signal.SIGSEGV) else _NO_CHECK)
    if own is not None and program.pid in found.aborted:
        found.problems.append("AddressSanitizer has ended the program before leaks were looked for")
        status = status or _status_of_errors()
    target = Target(pid=program.pid, command=readable(os.path.basename(command[0])), executable=shutil.which(command[0]))
    children = {log.pid: log for log in logs if options.follow and log.pid != program.pid}
    report = msgspec.structs.replace(
        _report(own, target, began, found.problems),
        children=tuple(
            _report(log, Target(pid=log.pid, command=log.command or "?", executable=None), began, ()) for log in children.values()
        ),
    )
    return Outcome(status=128 - status if status < 0 else status, reports=(report,))


def _status_of_errors() -> int:
    """The status that the user wants for a program that AddressSanitizer has ended; ours for leaks is in its place."""
    asked = re.findall(r"(?:^|[:, ])exitcode=(\d{1,3})", os.environ.get("ASAN_OPTIONS", ""))
    return int(asked[-1]) if asked else _DEFAULT_STATUS


def _nothing(pid: int, errors: int) -> CheckerLog:
    return CheckerLog(
        checker=_NAMES["lsan"], pid=pid, command=None, records=(), other_errors=errors, knows=("definite", "indirect")
    )


def _valgrind(folder: Path, options: CheckerOptions) -> list[str]:
    if shutil.which("valgrind") is None:
        raise NotPossible("valgrind is not installed", hint="sudo apt-get install valgrind libc6-dbg")
    (folder / "logs").mkdir()
    rules = folder / "suppressions"
    rules.write_text(options.suppressions, encoding="utf-8", errors="surrogateescape")
    return [
        "valgrind",
        "--quiet",
        "--tool=memcheck",
        "--leak-check=full",
        "--show-leak-kinds=all",
        "--num-callers=64",
        "--xml=yes",
        f"--xml-file={folder}/logs/%p.xml",
        f"--trace-children={'yes' if options.follow else 'no'}",
        "--error-exitcode=0",  # whatever VALGRIND_OPTS says: the status is the program's own
        *([f"--suppressions={rules}"] if options.suppressions else []),
    ]


def _sanitized(checker: Checker, program: str, folder: Path, *, preload: bool) -> dict[str, str]:
    """The environment: the user's own options stay, ours come last."""
    environment = own_environment()
    logs = folder / "logs"
    logs.mkdir()
    if checker == "asan":
        if not _holds(program, b"__asan_init"):
            raise NotSupported(
                f"not supported: {program} was not built with AddressSanitizer",
                hint="Build it with `cc -g -fsanitize=address`; or take --engine lsan, valgrind or agent.",
            )
        _add(environment, "ASAN_OPTIONS", "detect_leaks=1", f"log_path={logs}/log", _FRAMES)
    else:
        if preload:
            before = environment.get("LD_PRELOAD")
            runtime = _lsan_runtime()
            environment["LD_PRELOAD"] = f"{runtime}:{before}" if before else runtime
        _add(environment, "LSAN_OPTIONS", f"log_path={logs}/log", _FRAMES)
    _add(environment, "LSAN_OPTIONS", "exitcode=0", _SAY_SO)  # the status is the program's own
    return environment


def _add(environment: dict[str, str], name: str, *options: str) -> None:
    environment[name] = ":".join([*filter(None, [environment.get(name)]), *options])


def _lsan_runtime() -> str:
    """Gcc's LeakSanitizer, which can be preloaded into programs that were not built with it."""
    compiler = shutil.which("gcc")
    if compiler is not None:
        asked = subprocess.run([compiler, "-print-file-name=liblsan.so"], capture_output=True, text=True, check=False)
        path = asked.stdout.strip()
        if os.path.isabs(path) and os.path.exists(path):
            return path
    raise NotPossible("gcc's LeakSanitizer is not installed", hint="sudo apt-get install gcc, which brings liblsan0.")


def _require_dynamic(program: str) -> None:
    with suppress(ParseError, OSError), Elf.open(shutil.which(program) or program, program) as elf:
        if not elf.has_interpreter:
            raise NotSupported(
                f"not supported: {program} is statically linked, and so LeakSanitizer cannot be preloaded",
                hint="Build it with `cc -g -fsanitize=leak`; or take --engine valgrind.",
            )


def _holds(program: str, word: bytes) -> bool:
    path = shutil.which(program)
    try:
        with open(path or program, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return data.find(word) >= 0
    except (OSError, ValueError):
        return False


def _read(checker: Checker, folder: Path) -> _Found:
    found = _Found()
    for path in sorted((folder / "logs").iterdir()):
        try:
            if checker == "valgrind":
                found.logs.append(parse_memcheck(path.read_bytes(), f"the report of process {path.stem}"))
            else:
                _read_sanitizer(path, found)
        except ParseError as error:
            found.problems.append(error.message)
    return found


def _read_sanitizer(path: Path, found: _Found) -> None:
    report = parse_sanitizer(path.read_bytes(), f"the report of process {path.suffix[1:]}")
    logs = list(report.logs)
    pid = path.suffix[1:]
    if report.checked and pid.isdigit() and not any(log.knows for log in logs):
        logs = [_nothing(int(pid), sum(log.other_errors for log in logs))]
    found.logs += logs
    found.problems += report.problems
    found.aborted.update(report.aborted)
    if report.failed:
        found.problems.append("LeakSanitizer gave up, as it does under a debugger")


def _report(log: CheckerLog | None, target: Target, began_ns: int, problems: Sequence[str]) -> Report:
    gaps = [NotJudged(name="the heap", bytes=None, share=None, why=why) for why in problems]
    if log is None:
        log = CheckerLog(checker="", pid=target.pid, command=None, records=(), other_errors=0, knows=())
        gaps = gaps or [NotJudged(name="the heap", bytes=None, share=None, why="the checker left no report")]
    return checker_report(log, target, time.monotonic_ns() - began_ns, gaps)
