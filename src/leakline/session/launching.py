"""A program that leakline starts itself, and leaves alone but for looking at it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from leakline.errors import LeaklineError
from leakline.model.finding import Report
from leakline.session.diagnosing import Diagnosis

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from leakline.session.interruption import Interruption
    from leakline.sources.procfs import ProcFs

_STARTUP_SECONDS = 5.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How the program ended, and what was found."""

    status: int
    """As a shell has it: 128 + N where signal N ended it; 126 and 127 as env(1)."""
    reports: tuple[Report, ...]


def own_environment() -> dict[str, str]:
    """The environment that we were started with: Python adds LC_CTYPE where the locale is C (PEP 538)."""
    environment = dict(os.environ)
    try:
        given = Path("/proc/self/environ").read_bytes()
    except OSError:
        return environment
    if not any(entry.startswith(b"LC_CTYPE=") for entry in given.split(b"\0")):
        environment.pop("LC_CTYPE", None)
    return environment


def start(
    command: Sequence[str], environment: Mapping[str, str] | None = None, name: str | None = None
) -> subprocess.Popen[bytes] | Outcome:
    """Start a program with our descriptors, or say on stderr why it cannot be, with the status that env(1) gives then.

    Args:
        command: the program and its arguments.
        environment: its own; ours if None.
        name: what to call it.

    """
    try:
        # Descriptors that we were given are its own; those that Python opened close themselves (PEP 446).
        return subprocess.Popen(list(command), env=own_environment() if environment is None else environment, close_fds=False)
    except OSError as error:
        sys.stderr.write(f"leakline: cannot start {name or command[0]}: {error.strerror}\n")
        return Outcome(status=127 if isinstance(error, FileNotFoundError) else 126, reports=())


def diagnose_command(
    procfs: ProcFs,
    command: Sequence[str],
    interruption: Interruption,
    say: Callable[[str], None],
    budget_seconds: float,
    write: Callable[[Sequence[Report], IO[str]], None],
) -> Outcome:
    """Start a program, diagnose it while it runs, write the report to stderr (or where `write` puts it), and wait for its end."""
    with interruption.listening():
        program = start(command)
        if not isinstance(program, subprocess.Popen):
            return program
        reports: Sequence[Report] = ()
        try:
            _wait_for_libc(procfs, program, interruption)
            reports = Diagnosis(procfs, interruption, say, budget_seconds).run([program.pid])
            write(reports, sys.stderr)
        except LeaklineError as error:
            if program.poll() is None:
                say(f"{error.message}. {error.hint}")
            else:
                say("the program ended before anything could be said about it")
        status = program.wait()
    return Outcome(status=128 - status if status < 0 else status, reports=tuple(reports))


def _wait_for_libc(procfs: ProcFs, program: subprocess.Popen[bytes], interruption: Interruption) -> None:
    """Until the dynamic linker has done its work, and the program has a heap to look at, there is nothing to see."""
    until = time.monotonic() + _STARTUP_SECONDS
    while time.monotonic() < until and program.poll() is None and not interruption.asked:
        if procfs.executable(program.pid) != os.path.realpath(sys.executable) and any(
            vma.path == "[heap]" for vma in procfs.maps(program.pid)
        ):
            return
        interruption.wait(0.01)
