"""A program that leakline starts with its agent: it names the lost blocks at the end, with the stacks that allocated them."""

from __future__ import annotations

import errno
import os
import selectors
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from leakline.analysis.diagnosis import rank
from leakline.errors import LeaklineError, NotSupported, ParseError, TargetGone
from leakline.formats.elf import Elf
from leakline.model.finding import NotJudged, Report, Target
from leakline.native.parts import AGENT, part_path
from leakline.session.agent_checks import check_at_end, check_dying, without_check
from leakline.session.catching import Catcher, Death
from leakline.session.launching import Outcome, own_environment, start, start_traced
from leakline.session.passing_signals import passing_signals_on
from leakline.session.repeated_checks import RepeatedCheck
from leakline.session.scanning import BETWEEN_SCANS_SECONDS
from leakline.session.searching import Details
from leakline.session.targets import describe
from leakline.sources.agent import Agent, find_agent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leakline.session.imaging import Hold
    from leakline.sources.procfs import ProcFs

Follow = Literal["all", "exec", "none"]
_PATIENCE_SECONDS = 120
_LONGEST_MESSAGE = 128

_SIGKILL = 9

_NOT_YET = "it has not been looked at yet"
_RUNS_ON = "it still runs: `leakline check {pid}` looks at it"
_BY_ITSELF = "it ended without a word: by a system call of its own, or as a program that takes no agent"
_BY_SIGNAL = "signal {number} ended it, so that nothing could be looked at; with --catch-signals it is looked at before"
_WITHOUT_A_WORD = (
    "it ended without a word: by a signal, which --catch-signals would catch, by a system call of its own, "
    "or as a program that takes no agent"
)
_NOT_IN_TIME = "a signal ended it, and not all of its threads came to their end in time, or it could not be traced"
_TOO_QUICK = "it was gone, by a signal or a system call of its own, before leakline had heard of it"
_OUT_OF_MEMORY = "the kernel killed it for want of memory, which it takes away at once"
_NOT_LOADED = "the agent was not loaded: a static or setuid program, or one for another machine"


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a program."""

    follow: Follow = "all"
    """Which of its children report too: all, those that start another program, or none."""
    details: Details = Details()
    every: float | None = None
    """Seconds from look to look while it runs."""
    catch_signals: bool = False
    """Look at processes that a signal ends: they are traced all the time."""


class _Member(msgspec.Struct):
    """A process of the run."""

    pid: int
    start_ticks: int
    began_ns: int
    target: Target
    agent: Agent
    forked: bool
    lives: bool = True
    report: Report | None = None
    """Of its end."""
    latest: Report | None = None
    """Of looks while it ran."""
    why_not: str | None = None
    checks: RepeatedCheck | None = None


def require_preloadable(command: str) -> None:
    """Check that the loader will take the agent along.

    Raises:
        NotSupported: it is a static program, one for another machine, or one that runs with another user's rights.

    """
    path = shutil.which(command)
    if path is None:
        return  # to start it fails too, and says why
    with suppress(OSError):
        if _gains_rights(path):
            raise NotSupported(
                f"not supported: {command} runs with other rights than yours (setuid, setgid, capabilities), and so takes no agent",
                hint="Run it as that user, or scan it as root while it runs: `leakline scan PID`.",
            )
    with suppress(ParseError, OSError), Elf.open(path, command) as elf:
        if elf.bits != 64 or elf.machine != "EM_X86_64":
            raise NotSupported(f"not supported: {command} is no 64-bit x86 program", hint="valgrind can run it.")
        if not elf.has_interpreter and elf.type != "ET_REL":
            raise NotSupported(
                f"not supported: {command} is statically linked, and so takes no agent",
                hint="Link it dynamically; or run it under valgrind --soname-synonyms=somalloc=NONE --leak-check=full.",
            )


def _gains_rights(path: str) -> bool:
    """Whether the loader takes nothing from its user's environment (ld.so(8), "secure-execution mode")."""
    file = os.stat(path)
    if os.statvfs(path).f_flag & os.ST_NOSUID:
        return False
    if file.st_mode & stat.S_ISUID and file.st_uid != os.geteuid():
        return True
    if file.st_mode & stat.S_ISGID and file.st_mode & stat.S_IXGRP and file.st_gid != os.getegid():
        return True
    try:
        return bool(os.geteuid() and os.getxattr(path, "security.capability"))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


class Run:
    """One program, its children, and what they leave behind.

    Args:
        procfs: where they are.
        options: how to run it.
        say: hears what is being done.
        publish: gets a report whenever all have been looked at while they run (`RunOptions.every`).

    """

    def __init__(
        self,
        procfs: ProcFs,
        options: RunOptions,
        say: Callable[[str], None],
        publish: Callable[[Report], None] = lambda _report: None,
    ) -> None:
        self._procfs = procfs
        self._options = options
        self._say = say
        self._publish = publish
        self._members: dict[int, _Member] = {}
        self._root = 0
        self._name = ""
        self._ended: int | None = None
        self._earlier: list[_Member] = []
        self._heard: set[int] = set()
        self._missed: set[int] = set()
        self._began_ns = time.monotonic_ns()
        self._oom_kills = procfs.oom_kills()
        self._catcher = Catcher(procfs, self._die, children=options.follow != "none") if options.catch_signals else None

    def run(self, command: Sequence[str]) -> Outcome:
        """Start it, and wait for its end.

        Raises:
            NotPossible: leakline was installed without its agent, or cannot trace the program to catch signals.
            NotSupported: the program takes none.

        """
        require_preloadable(command[0])
        self._name = command[0]
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leakline-")))
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
            listener.bind(str(folder / "agent"))
            listener.listen(64)
            listener.setblocking(False)
            recipient = stack.enter_context(passing_signals_on())
            caught = stack.enter_context(nullcontext() if self._catcher is None else self._catcher.listening())
            environment = self._environment(folder / "agent")
            if self._catcher is None:
                program: subprocess.Popen[bytes] | int | Outcome = start(command, environment)
            else:
                program = start_traced(command, environment, self._catcher.begin)
            if isinstance(program, Outcome):
                return program
            self._root = program if isinstance(program, int) else program.pid
            recipient.is_now(self._root)
            status = self._serve(listener, None if isinstance(program, int) else program, caught)
            recipient.has_ended()
            self._ended = status
        return Outcome(status=128 - status if status < 0 else status, reports=(self._report(status),))

    def _environment(self, path: Path) -> dict[str, str]:
        agent = str(part_path(AGENT))
        if " " in agent or ":" in agent:
            raise NotSupported(
                f"not supported: the loader cannot preload {agent}", hint="Install leakline in a path without blanks."
            )
        environment = own_environment()
        before = environment.get("LD_PRELOAD")
        return {
            **environment,
            "LD_PRELOAD": agent if before is None else f"{agent}:{before}",
            "LEAKLINE_AGENT_SOCKET": str(path),
            "LEAKLINE_AGENT_FOLLOW": self._options.follow,
            "LEAKLINE_AGENT_PATIENCE": str(_PATIENCE_SECONDS),
        }

    def _serve(self, listener: socket.socket, program: subprocess.Popen[bytes] | None, caught: socket.socket | None) -> int:
        """Answer and look at its processes until the program has ended: its status, negative for a signal."""
        rounds = _Rounds(self._options.every)
        end = os.pidfd_open(self._root)
        try:
            with selectors.DefaultSelector() as selector:
                for source in (listener, end, *(() if caught is None else (caught,))):
                    selector.register(source, selectors.EVENT_READ)
                while True:
                    ready = {key.fileobj for key, _ in selector.select(self._until_next(rounds))}
                    if listener in ready:
                        self._answer(listener)
                        continue
                    if self._catcher is not None and caught is not None:
                        _drain(caught)
                        self._catcher.serve()
                        self._catcher.give_up()
                        if self._catcher.status is not None:
                            return os.waitstatus_to_exitcode(self._catcher.status)
                    elif program is not None and end in ready:
                        return program.wait()
                    self._look_where_due(rounds)
        finally:
            os.close(end)

    def _until_next(self, rounds: _Rounds) -> float | None:
        times = [t for t in (rounds.next_at, self._catcher.deadline if self._catcher else None) if t is not None]
        return max(min(times) - time.monotonic(), 0.0) if times else None

    def _answer(self, listener: socket.socket) -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection, suppress(ValueError):
                connection.settimeout(1.0)
                word, pid, _, address = connection.recv(_LONGEST_MESSAGE).decode("ascii", "replace").split()
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                if int.from_bytes(peer[:4], "little") != int(pid):
                    return  # another's word for it, or another PID namespace's
                self._heard.add(int(pid))
                if self._options.follow != "none" or int(pid) == self._root:
                    try:
                        self._hear(word, int(pid), int(address, 16))
                    except LeaklineError:
                        self._missed.add(int(pid))
                connection.send(b".")

    def _hear(self, word: str, pid: int, address: int) -> None:
        agent = Agent(self._procfs, pid, address)
        state = agent.state()
        if pid not in self._members or word == "start":
            self._begin(pid, agent, forked=state.forked)
        member = self._members[pid]
        if state.phase == "off":
            member.why_not = state.why_off
        elif word == "exit":
            self._check(
                member,
                lambda: check_at_end(
                    self._procfs,
                    member.target,
                    agent,
                    self._options.details,
                    started_ns=member.began_ns,
                    hold=self._hold(pid),
                    say=self._say,
                ),
            )

    def _begin(self, pid: int, agent: Agent, *, forked: bool) -> None:
        """A process, or the next program in one."""
        start_ticks = self._procfs.stat(pid).start_ticks
        before = self._members.get(pid)
        if before is not None and before.report is not None:
            if before.start_ticks == start_ticks:
                return  # its word for it was overtaken by its death
            self._earlier.append(before)  # it had ended: the number is another's now
        target = describe(self._procfs, pid)
        self._members[pid] = _Member(
            pid=pid, start_ticks=start_ticks, began_ns=time.monotonic_ns(), target=target, agent=agent, forked=forked
        )
        if self._catcher is not None and pid != self._root:
            self._catcher.seize(pid)

    def _check(self, member: _Member, check: Callable[[], Report]) -> None:
        try:
            report = check()
            growing = [] if member.checks is None else member.checks.growing()
            member.report = msgspec.structs.replace(report, findings=tuple(rank([*report.findings, *growing])))
        except LeaklineError as error:
            member.why_not = f"{error.message}. {error.hint}"

    def _die(self, pid: int, death: Death) -> None:
        """A process that a signal ends stands still for the last time."""
        try:
            agent = find_agent(self._procfs, pid, self._procfs.maps(pid))
            state = None if agent is None else agent.state()
        except LeaklineError as error:
            if pid in self._members:
                self._members[pid].why_not = f"{error.message}. {error.hint}"
            return
        if agent is None or state is None:
            return
        if pid not in self._members or self._members[pid].agent.address != agent.address:
            self._begin(pid, agent, forked=state.forked)  # its own word for it is still on its way
        member = self._members[pid]
        if state.phase == "off":
            member.why_not = state.why_off
        if member.report is not None or member.why_not is not None or not self._is_part(member):
            return
        if death.signal == _SIGKILL and self._procfs.oom_kills() != self._oom_kills:
            member.why_not = _OUT_OF_MEMORY
            return
        self._check(
            member,
            lambda: check_dying(
                self._procfs,
                member.target,
                member.agent,
                death,
                self._options.details,
                signal=death.signal,
                started_ns=member.began_ns,
                say=self._say,
            ),
        )

    def _look_where_due(self, rounds: _Rounds) -> None:
        if rounds.next_at is None or time.monotonic() < rounds.next_at:
            return
        is_last = rounds.advance()
        for member in self._members.values():
            if member.report is not None or not member.lives or not self._is_part(member):
                continue
            try:
                self._look(member, is_last=is_last)
            except TargetGone:
                member.lives = False
            except LeaklineError as error:
                self._say(f"process {member.pid}: {error.message}")
        if is_last:
            self._say(f"after {time.monotonic() - self._began_ns / 1e9:.1f} s:")
            self._publish(self._report(None))

    def _look(self, member: _Member, *, is_last: bool) -> None:
        state = member.agent.state()
        if state.phase != "recording" or state.other_allocator:
            return
        if member.checks is None:
            member.checks = RepeatedCheck(self._procfs, member.target, self._options.details, self._hold(member.pid))
        member.checks.look(is_first=not is_last)
        if is_last:
            member.latest = member.checks.report(self._say)

    def _hold(self, pid: int) -> Hold | None:
        catcher = self._catcher
        return None if catcher is None else lambda: catcher.held(pid)

    def _report(self, status: int | None) -> Report:
        """On all of them; `status` is the program's, None while it runs."""
        children = tuple(
            self._report_of(member, None)
            for member in (*self._earlier, *self._members.values())
            if member.pid != self._root and self._is_part(member)
        )
        if self._options.follow == "all":
            children += tuple(
                without_check(Target(pid=pid, command="?", executable=None), _TOO_QUICK, self._began_ns)
                for pid in sorted(self._missed - self._members.keys() - {self._root})
            )
        member = self._members.get(self._root)
        if member is None:
            target = Target(pid=self._root, command=self._name, executable=shutil.which(self._name))
            why = self._why_not(self._root, status) if self._root in self._heard else _NOT_LOADED
            report = without_check(target, why, self._began_ns)
        else:
            report = self._report_of(member, status)
        return msgspec.structs.replace(report, children=children)

    def _is_part(self, member: _Member) -> bool:
        """With `exec` a child that only forked is no part of the run: it keeps silent at its end."""
        return self._options.follow == "all" or (not member.forked and (self._options.follow == "exec" or member.pid == self._root))

    def _report_of(self, member: _Member, status: int | None) -> Report:
        if member.report is not None:
            return member.report
        if status is None and member.latest is not None and member.why_not is None:
            return member.latest
        why = member.why_not or self._why_not(member.pid, status)
        if member.latest is None:
            return without_check(member.target, why, member.began_ns)
        gap = NotJudged(name="the end", bytes=None, share=None, why=f"{why}; this is what the last look saw")
        return msgspec.structs.replace(member.latest, not_judged=(*member.latest.not_judged, gap))

    def _why_not(self, pid: int, status: int | None) -> str:
        if pid == self._root and status is not None:
            if status >= 0:
                return _BY_ITSELF
            return _BY_SIGNAL.format(number=-status) if self._catcher is None else _NOT_IN_TIME
        with suppress(LeaklineError):
            if not self._procfs.stat(pid).is_zombie:
                return _NOT_YET if self._ended is None else _RUNS_ON.format(pid=pid)
        return _WITHOUT_A_WORD if self._catcher is None else _NOT_IN_TIME


class _Rounds:
    """When to look while the program runs: twice each time, since two looks that agree are sure."""

    def __init__(self, every: float | None) -> None:
        self._every = every
        self._began = time.monotonic()
        self._between_looks = False
        self.next_at = None if every is None else self._began + every
        """CLOCK_MONOTONIC in seconds; None for never."""

    def advance(self) -> bool:
        """A look is being taken: whether it is the second one."""
        if self._every is None:
            return False
        now = time.monotonic()
        is_second = self._between_looks
        self._between_looks = not is_second
        if is_second:  # those that were missed are left out
            self.next_at = self._began + (int((now - self._began) / self._every) + 1) * self._every
        else:
            self.next_at = now + BETWEEN_SCANS_SECONDS
        return is_second


def _drain(source: socket.socket) -> None:
    with suppress(BlockingIOError):
        while source.recv(4096):
            pass
