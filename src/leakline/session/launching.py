"""A program that leakline starts itself, and leaves alone but for looking at it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

import msgspec

from leakline.errors import LeaklineError
from leakline.model.finding import Report
from leakline.present.text import printable
from leakline.sources.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from leakline.model.recording import RecordingSummary, Tick
    from leakline.session.diagnosing import DiagnosisOptions
    from leakline.session.interruption import Interruption
    from leakline.session.recording import Wish
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
    own = own_environment() if environment is None else environment
    try:
        return _popen(command, own)
    except OSError as error:
        return _refused(error, name or command[0])


def _popen(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # Descriptors that we were given are its own; those that Python opened close themselves (PEP 446).
    try:
        return subprocess.Popen(list(command), env=environment, close_fds=False)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        return subprocess.Popen(_by_shell(command), env=environment, close_fds=False)


def _by_shell(command: Sequence[str]) -> list[str]:
    """A file without a format that the kernel knows is a script, as for execvp(3)."""
    return ["/bin/sh", shutil.which(command[0]) or command[0], *command[1:]]


def _refused(error: OSError, name: str) -> Outcome:
    sys.stderr.write(f"leakline: cannot start {printable(name)}: {error.strerror}\n")
    return Outcome(status=127 if error.errno == errno.ENOENT else 126, reports=())


def start_traced(command: Sequence[str], environment: Mapping[str, str], trace: Callable[[int], None]) -> int | Outcome:
    """As `start`, but the program does nothing before `trace` has been called with its number; returns that.

    Raises:
        LeaklineError: what `trace` raises; the program was not started then.

    """
    ready, go = os.pipe()
    failed, fail = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(go)
        _become(command, environment, ready, fail)
    for end in (ready, fail):
        os.close(end)
    try:
        try:
            trace(pid)
            os.write(go, b".")
        finally:
            os.close(go)
        number = int.from_bytes(os.read(failed, 4), "little")
    except LeaklineError:
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(failed)
    return _refused(OSError(number, os.strerror(number)), command[0]) if number else pid


def _become(command: Sequence[str], environment: Mapping[str, str], ready: int, fail: int) -> NoReturn:
    """Wait for a byte, and become the program; without one, end."""
    try:
        if os.read(ready, 1):
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
                signal.signal(number, signal.SIG_DFL)
            try:
                os.execvpe(command[0], list(command), environment)  # noqa: S606
            except OSError as error:
                if error.errno != errno.ENOEXEC:
                    raise
                os.execve("/bin/sh", _by_shell(command), environment)  # noqa: S606
    except OSError as error:
        os.write(fail, (error.errno or errno.ENOENT).to_bytes(4, "little"))
    finally:
        os._exit(127)


def diagnose_command(
    procfs: ProcFs,
    command: Sequence[str],
    interruption: Interruption,
    say: Callable[[str], None],
    options: DiagnosisOptions,
    write: Callable[[Sequence[Report], IO[str]], None],
) -> Outcome:
    """Start a program, diagnose it while it runs, write the report to stderr (or where `write` puts it), and wait for its end."""
    from leakline.session.diagnosing import Diagnosis

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
