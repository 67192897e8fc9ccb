"""A program that leakline starts with its agent: it names the lost blocks at the end, with the stacks that allocated them."""

from __future__ import annotations

import os
import selectors
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from leakline.analysis.diagnosis import find_lost, find_outstanding
from leakline.errors import LeaklineError, NotSupported, ParseError
from leakline.formats.elf import Elf
from leakline.model.finding import NotJudged, Report, Target
from leakline.native.parts import AGENT, part_path
from leakline.session.attributing import attribute, outstanding
from leakline.session.imaging import Imager
from leakline.session.launching import Outcome, start
from leakline.session.reporting import build_report
from leakline.session.searching import Details, search
from leakline.session.symbolising import resolver_for, with_stacks
from leakline.session.targets import describe
from leakline.sources.agent import Agent
from leakline.sources.ptrace import ThreadState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leakline.sources.agent import AgentState
    from leakline.sources.heap_image import HeapImage
    from leakline.sources.procfs import ProcFs

Follow = Literal["all", "exec", "none"]
_PATIENCE_SECONDS = 120
_LONGEST_MESSAGE = 128
_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID
# Words of struct user_regs_struct (arch/x86/include/asm/user_64.h) that a function hands back as they were.
_KEPT_REGISTERS = {"rbx": 5, "rbp": 4, "r12": 3, "r13": 2, "r14": 1, "r15": 0}
_RSP, _FS_BASE, _REGISTERS = 19, 21, 27


_WITHOUT_A_WORD = "it ended without a word: by a signal, or by a system call of its own"
_NOT_LOADED = "the agent was not loaded: a static or setuid program, or one that cleared its environment"


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a program."""

    follow: Follow = "all"
    """Which of its children report too: all, those that start another program, or none."""
    details: Details = Details()


class _Member(msgspec.Struct):
    """A process of the run."""

    pid: int
    began_ns: int
    target: Target
    report: Report | None = None
    why_not: str = _WITHOUT_A_WORD


def require_preloadable(command: str) -> None:
    """Check that the loader will take the agent along.

    Raises:
        NotSupported: it is a static program, one for another machine, or one that runs with another user's rights.

    """
    path = shutil.which(command)
    if path is None:
        return  # to start it fails too, and says why
    with suppress(OSError):
        mode = os.stat(path)
        if mode.st_mode & _SPECIAL_BITS and mode.st_uid != os.geteuid():
            raise NotSupported(
                f"not supported: {command} runs with another user's rights (setuid), and so takes no agent",
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


class Run:
    """One program, its children, and what they leave behind."""

    def __init__(self, procfs: ProcFs, options: RunOptions, say: Callable[[str], None]) -> None:
        self._procfs = procfs
        self._options = options
        self._say = say
        self._members: dict[int, _Member] = {}
        self._root = 0
        self._heard: set[int] = set()
        self._began_ns = time.monotonic_ns()

    def run(self, command: Sequence[str]) -> Outcome:
        """Start it, and wait for its end.

        Raises:
            NotPossible: leakline was installed without its agent.
            NotSupported: the program takes none.

        """
        require_preloadable(command[0])
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leakline-")))
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
            listener.bind(str(folder / "agent"))
            listener.listen(64)
            listener.setblocking(False)
            program = start(command, self._environment(folder / "agent"))
            if not isinstance(program, subprocess.Popen):
                return program
            self._root = program.pid
            self._serve(listener, program)
        status = program.wait()
        return Outcome(status=128 - status if status < 0 else status, reports=(self._report(program.pid, command[0]),))

    def _environment(self, path: Path) -> dict[str, str]:
        agent = str(part_path(AGENT))
        if " " in agent or ":" in agent:
            raise NotSupported(
                f"not supported: the loader cannot preload {agent}", hint="Install leakline in a path without blanks."
            )
        before = os.environ.get("LD_PRELOAD")
        return {
            **os.environ,
            "LD_PRELOAD": f"{agent}:{before}" if before else agent,
            "LEAKLINE_AGENT_SOCKET": str(path),
            "LEAKLINE_AGENT_FOLLOW": self._options.follow,
            "LEAKLINE_AGENT_PATIENCE": str(_PATIENCE_SECONDS),
        }

    def _serve(self, listener: socket.socket, program: subprocess.Popen[bytes]) -> None:
        """Answer the processes that report, until the program has ended."""
        end = os.pidfd_open(program.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(listener, selectors.EVENT_READ)
                selector.register(end, selectors.EVENT_READ)
                while True:
                    ready = {key.fileobj for key, _ in selector.select()}
                    if listener in ready:
                        self._answer(listener)
                    elif end in ready:
                        return
        finally:
            os.close(end)

    def _answer(self, listener: socket.socket) -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(1.0)
                word, pid, _, address = connection.recv(_LONGEST_MESSAGE).decode("ascii", "replace").split()
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                if int.from_bytes(peer[:4], "little") != int(pid):
                    return  # another's word for it, or another PID namespace's
                self._heard.add(int(pid))
                if self._options.follow != "none" or int(pid) == self._root:
                    with suppress(LeaklineError):
                        self._hear(word, int(pid), int(address, 16))
                connection.send(b".")

    def _hear(self, word: str, pid: int, address: int) -> None:
        agent = Agent(self._procfs, pid, address)
        state = agent.state()
        if pid not in self._members or word == "start":
            self._members[pid] = _Member(pid=pid, began_ns=time.monotonic_ns(), target=describe(self._procfs, pid))
        member = self._members[pid]
        if state.phase == "off":
            member.why_not = state.why_off
        elif word == "exit":
            try:
                member.report = self._check(member, agent, state)
            except LeaklineError as error:
                member.why_not = f"{error.message}. {error.hint}"

    def _check(self, member: _Member, agent: Agent, state: AgentState) -> Report:
        pid = member.pid
        began = time.monotonic_ns()
        if state.other_allocator:
            return self._outstanding(member, agent, state, began)
        image = _at_end(Imager(self._procfs, pid).take(leave_out=state.own), state)
        scan = search(image, resolver_for(self._procfs, pid, image.vmas), began, self._options.details)
        scan, trace = attribute(agent, scan, member.began_ns, began)
        scan = msgspec.structs.replace(scan, at_end=True, stopped_ns=0)
        placed, frames = with_stacks(self._procfs, pid, trace.allocations, self._say)
        trace = msgspec.structs.replace(trace, allocations=placed)
        if pid == self._root or scan.total("definite").blocks:
            self._say(
                f"process {pid} ({member.target.command}): {state.allocations:,} allocations, stacks known from "
                f"{state.memo_hits:,}, unwound for {state.memo_misses:,}; {state.shadow_enabled >> 20:,} MiB of tables; checked in "
                f"{(time.monotonic_ns() - began) / 1e6:.0f} ms"
            )
        return build_report(self._procfs, member.target, [scan], find_lost([scan], trace, frames), began_ns=member.began_ns)

    def _outstanding(self, member: _Member, agent: Agent, state: AgentState, began_ns: int) -> Report:
        """Under an allocator of which only the calls are known: what was not freed, lost or not."""
        trace = outstanding(agent, member.began_ns, began_ns)
        placed, frames = with_stacks(self._procfs, member.pid, trace.allocations, self._say)
        trace = msgspec.structs.replace(trace, allocations=placed)
        why = f"{state.why_off}: what was not freed is known, but not which of it is lost"
        report = build_report(
            self._procfs,
            member.target,
            [],
            find_outstanding(trace, [], frames),
            began_ns=member.began_ns,
            gaps=[NotJudged(name="the heap", bytes=None, share=None, why=why)],
        )
        return msgspec.structs.replace(report, bytes_are="requested")

    def _report(self, pid: int, name: str) -> Report:
        # With `exec` a child that only forked is no part of the run: it keeps silent at its end.
        children = tuple(
            member.report or self._without(member.target, member.why_not, member.began_ns)
            for member in self._members.values()
            if member.pid != pid and (member.report is not None or self._options.follow == "all")
        )
        member = self._members.get(pid)
        if member is None:
            target = Target(pid=pid, command=name, executable=shutil.which(name))
            report = self._without(target, _WITHOUT_A_WORD if pid in self._heard else _NOT_LOADED, self._began_ns)
        else:
            report = member.report or self._without(member.target, member.why_not, member.began_ns)
        return msgspec.structs.replace(report, children=children)

    @staticmethod
    def _without(target: Target, why: str, began_ns: int) -> Report:
        """What is said of a process that could not be checked."""
        return build_report(
            None,
            target,
            [],
            [],
            began_ns=began_ns,
            gaps=[NotJudged(name="the heap", bytes=None, share=None, why=why)],
        )


def _at_end(image: HeapImage, state: AgentState) -> HeapImage:
    """With the thread that waits as it was before it began to: on its own stack, with the registers that its callers may use."""

    def before(thread: ThreadState) -> ThreadState:
        if thread.tid != state.waiting_tid:
            return thread
        registers = [0] * _REGISTERS
        for place, value in zip(_KEPT_REGISTERS.values(), state.waiting_registers, strict=True):
            registers[place] = value
        registers[_RSP], registers[_FS_BASE] = state.waiting_stack_pointer, thread.thread_pointer
        return ThreadState(tid=thread.tid, registers=tuple(registers), xsave=b"")

    return msgspec.structs.replace(image, threads=tuple(map(before, image.threads)))
