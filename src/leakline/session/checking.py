"""A program that another leak checker runs: valgrind memcheck, AddressSanitizer, LeakSanitizer."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from leakline.analysis.checker_findings import checker_report
from leakline.errors import NotPossible, NotSupported, ParseError
from leakline.formats.memcheck import parse_memcheck
from leakline.formats.sanitizer import parse_sanitizer
from leakline.model.checker import CheckerLog
from leakline.model.finding import NotJudged, Report, Target
from leakline.model.names import readable
from leakline.session.launching import Outcome, start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Checker = Literal["valgrind", "asan", "lsan"]
CHECKERS: tuple[Checker, ...] = ("valgrind", "asan", "lsan")
_FRAMES = "stack_trace_format='    #%n %p %F %L %M'"  # with each frame's module
_NAMES = {"valgrind": "valgrind", "asan": "AddressSanitizer", "lsan": "LeakSanitizer"}


def run_checker(
    checker: Checker, command: Sequence[str], *, follow: bool, arguments: Sequence[str], say: Callable[[str], None]
) -> Outcome:
    """Run a program under a checker.

    Args:
        checker: which.
        command: the program.
        follow: its children too.
        arguments: further ones for valgrind.
        say: hears what is being done.

    Raises:
        NotPossible: the checker is not installed.
        NotSupported: it cannot check this program.

    """
    began = time.monotonic_ns()
    with tempfile.TemporaryDirectory(prefix="leakline-") as name:
        folder = Path(name)
        if checker == "valgrind":
            line, environment = [*_valgrind(folder, follow=follow), *arguments, *command], dict(os.environ)
        else:
            line, environment = list(command), _sanitized(checker, command[0], folder)
        say(f"running under {_NAMES[checker]}")
        program = start(line, environment, name=command[0])
        if not isinstance(program, subprocess.Popen):
            return program
        status = program.wait()
        logs, problems = _read(checker, folder)
    own = [log for log in logs if log.pid == program.pid]
    target = Target(pid=program.pid, command=readable(os.path.basename(command[0])), executable=shutil.which(command[0]))
    quiet = not own and checker != "valgrind" and not problems and status >= 0
    if quiet:  # sanitizers write nothing when there is nothing to say
        own = [_nothing(program.pid)]
    children = tuple(
        _report(log, Target(pid=log.pid, command=log.command or "?", executable=None), began, ())
        for log in logs
        if follow and log.pid != program.pid
    )
    report = _report(_merged(own), target, began, problems)
    return Outcome(status=128 - status if status < 0 else status, reports=(msgspec.structs.replace(report, children=children),))


def _nothing(pid: int) -> CheckerLog:
    return CheckerLog(checker=_NAMES["lsan"], pid=pid, command=None, records=(), other_errors=0, knows=("definite", "indirect"))


def _merged(logs: Sequence[CheckerLog]) -> CheckerLog | None:
    """The last look of a program that asked for several: what an earlier one found is in it too."""
    return logs[-1] if logs else None


def _valgrind(folder: Path, *, follow: bool) -> list[str]:
    if shutil.which("valgrind") is None:
        raise NotPossible("valgrind is not installed", hint="sudo apt-get install valgrind libc6-dbg")
    return [
        "valgrind",
        "--quiet",
        "--tool=memcheck",
        "--leak-check=full",
        "--show-leak-kinds=all",
        "--num-callers=64",
        "--xml=yes",
        f"--xml-file={folder}/%p.xml",
        f"--trace-children={'yes' if follow else 'no'}",
    ]


def _sanitized(checker: Checker, program: str, folder: Path) -> dict[str, str]:
    """The environment: the user's own options stay, ours come last."""
    environment = dict(os.environ)
    if checker == "asan":
        if not _holds(program, b"__asan_init"):
            raise NotSupported(
                f"not supported: {program} was not built with AddressSanitizer",
                hint="Build it with `cc -g -fsanitize=address`; or take --engine lsan, valgrind or agent.",
            )
        _add(environment, "ASAN_OPTIONS", "detect_leaks=1", f"log_path={folder}/log", _FRAMES)
    else:
        if not _holds(program, b"__lsan_init"):
            before = environment.get("LD_PRELOAD")
            runtime = _lsan_runtime()
            environment["LD_PRELOAD"] = f"{runtime}:{before}" if before else runtime
        _add(environment, "LSAN_OPTIONS", f"log_path={folder}/log", _FRAMES)
    _add(environment, "LSAN_OPTIONS", "exitcode=0")  # the status is the program's own
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


def _holds(program: str, word: bytes) -> bool:
    path = shutil.which(program)
    try:
        with open(path or program, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return data.find(word) >= 0
    except (OSError, ValueError):
        return False


def _read(checker: Checker, folder: Path) -> tuple[list[CheckerLog], list[str]]:
    logs: list[CheckerLog] = []
    problems: list[str] = []
    for path in sorted(folder.iterdir()):
        try:
            if checker == "valgrind":
                logs.append(parse_memcheck(path.read_bytes(), f"the report of process {path.stem}"))
                continue
            report = parse_sanitizer(path.read_bytes(), f"the report of process {path.suffix[1:]}")
        except ParseError as error:
            problems.append(error.message)
            continue
        logs += report.logs
        if report.failed:
            problems.append("LeakSanitizer gave up, as it does under a debugger")
    return logs, problems


def _report(log: CheckerLog | None, target: Target, began_ns: int, problems: Sequence[str]) -> Report:
    gaps = [NotJudged(name="the heap", bytes=None, share=None, why=why) for why in problems]
    if log is None:
        log = CheckerLog(checker="", pid=target.pid, command=None, records=(), other_errors=0, knows=())
        gaps = gaps or [NotJudged(name="the heap", bytes=None, share=None, why="the checker left no report")]
    return checker_report(log, target, time.monotonic_ns() - began_ns, gaps)
