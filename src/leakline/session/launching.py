"""A program that leakline starts itself, and leaves alone but for looking at it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING

import msgspec

from leakline.errors import LeaklineError
from leakline.model.finding import Report
from leakline.session.diagnosing import Diagnosis, DiagnosisOptions
from leakline.sources.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from leakline.model.recording import RecordingSummary, Tick
    from leakline.session.interruption import Interruption
    from leakline.session.recording import Wish
    from leakline.sources.procfs import ProcFs

_STARTUP_SECONDS = 5.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How the program ended, and what was found."""

    status: int
    """As a shell has it: 128 + N where signal N ended it; 126 and 127 as env(1)."""
    reports: tuple[Report, ...]


def start(
    command: Sequence[str], environment: Mapping[str, str] | None = None, name: str | None = None
) -> subprocess.Popen[bytes] | Outcome:
    """Start a program, or say on stderr why it cannot be started, with the status that env(1) gives then.

    Args:
        command: the program and its arguments.
        environment: its own; ours if None.
        name: what to call it.

    """
    try:
        return subprocess.Popen(list(command), env=environment)
    except OSError as error:
        sys.stderr.write(f"leakline: cannot start {name or command[0]}: {error.strerror}\n")
        return Outcome(status=127 if isinstance(error, FileNotFoundError) else 126, reports=())


def diagnose_command(
    procfs: ProcFs,
    command: Sequence[str],
    interruption: Interruption,
    say: Callable[[str], None],
    options: DiagnosisOptions,
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
            reports = Diagnosis(procfs, interruption, say, options).run([program.pid])
            write(reports, sys.stderr)
        except LeaklineError as error:
            if program.poll() is None:
                say(f"{error.message}. {error.hint}")
            else:
                say("the program ended before anything could be said about it")
        status = program.wait()
    return Outcome(status=128 - status if status < 0 else status, reports=tuple(reports))


def record_command(
    command: Sequence[str],
    path: Path,
    wish: Wish,
    interruption: Interruption,
    say: Callable[[str], None],
    on_tick: Callable[[int, Tick], None],
) -> tuple[RecordingSummary, int] | Outcome:
    """Start a program, record it with all that it starts until it ends, the time is over or the first Ctrl-C, and wait for its end.

    Args:
        command: the program and its arguments.
        path: the recording.
        wish: what else; which processes it says itself.
        interruption: the first Ctrl-C; the program gets it too.
        say: hears what cannot be recorded.
        on_tick: hears of each tick that is safe.

    Returns:
        What was recorded, and the program's status as a shell has it; an outcome where it could not be started.

    Raises:
        LeaklineError: it could not be recorded; the program goes on to its end.

    """
    from leakline.session.recording import Recording
    from leakline.session.sampling import Choice

    program = start(command)
    if not isinstance(program, subprocess.Popen):
        return program

    def reap(count: int, tick: Tick) -> None:
        program.poll()  # else it stays as a zombie, and seems to be there
        on_tick(count, tick)

    chosen = msgspec.structs.replace(wish, choice=Choice.of([program.pid], children=True))
    try:
        summary = Recording(Machine(), path, chosen, interruption, say).run(reap)
    finally:
        status = program.wait()
    return summary, 128 - status if status < 0 else status


def _wait_for_libc(procfs: ProcFs, program: subprocess.Popen[bytes], interruption: Interruption) -> None:
    """Until the dynamic linker has done its work, and the program has a heap to look at, there is nothing to see."""
    until = time.monotonic() + _STARTUP_SECONDS
    while time.monotonic() < until and program.poll() is None and not interruption.asked:
        if procfs.executable(program.pid) != os.path.realpath(sys.executable) and any(
            vma.path == "[heap]" for vma in procfs.maps(program.pid)
        ):
            return
        interruption.wait(0.01)
