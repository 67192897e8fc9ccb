"""Stopping a process for a moment by ptrace(2), and letting it go as if nothing had been.

PTRACE_SEIZE sends no signal, and the kernel lets the threads run on if we die, whatever the moment.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from leakline.errors import NotPossible, PermissionNeeded, TargetGone
from leakline.model.registers import PLACES
from leakline.native.stopping import Stopped, Stopper

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from leakline.model.vma import Vma
    from leakline.sources.procfs import ProcFs

_ORIG_RAX, _RIP, _RSP, _FS_BASE = (PLACES[name] for name in ("orig_rax", "rip", "rsp", "fs_base"))
# Arguments of a system call from the fourth on.
_LATER_ARGUMENTS = tuple(PLACES[name] for name in ("r10", "r8", "r9"))
# How many arguments system calls take in which threads wait for long (arch/x86/entry/syscalls/syscall_64.tbl):
# read write poll pause nanosleep accept wait4 select rt_sigtimedwait rt_sigsuspend clock_nanosleep epoll_wait ppoll accept4.
_ARGUMENTS = {0: 3, 1: 3, 7: 3, 34: 0, 35: 2, 43: 3, 61: 4, 23: 5, 128: 4, 130: 2, 230: 4, 232: 4, 271: 5, 288: 4}
_MOST_URGENT = -20
# munmap and brk (arch/x86/entry/syscalls/syscall_64.tbl): malloc notes what is left when they have returned.
_OF_MALLOC = 11, 12


class ThreadState(msgspec.Struct, frozen=True, kw_only=True):
    """A stopped thread's registers."""

    tid: int
    registers: tuple[int, ...]
    """struct user_regs_struct, 27 words."""
    xsave: bytes
    """The XSAVE area."""
    has_red_zone: bool = True
    """Whether words below the stack pointer may be in use; not where these are the registers of who has called a function."""

    @property
    def extended(self) -> tuple[int, ...]:
        """The XSAVE area in words: vector registers may hold the only pointer to a block."""
        return _words(self.xsave)

    @property
    def lasting(self) -> tuple[int, ...]:
        """Of a thread in a system call: the registers that survive the call of a function, and the arguments of this one."""
        arguments = _ARGUMENTS.get(self.registers[_ORIG_RAX], 6)
        left_over = _LATER_ARGUMENTS[max(arguments - 3, 0) :]
        return tuple(word for index, word in enumerate(self.registers) if index not in left_over)

    @property
    def stack_pointer(self) -> int:
        """Rsp."""
        return self.registers[_RSP]

    @property
    def thread_pointer(self) -> int:
        """fs_base: the address of glibc's struct pthread; 0 before a thread has one."""
        return self.registers[_FS_BASE]

    @property
    def instruction_pointer(self) -> int:
        """Rip."""
        return self.registers[_RIP]

    @property
    def in_system_call(self) -> bool:
        """Whether it was stopped in a system call, and not while it ran code of its own."""
        return self.registers[_ORIG_RAX] < 1 << 63

    def may_be_in_malloc(self, libc: Iterable[Vma]) -> bool:
        """Whether it runs libc's own code, or changes the break or unmaps memory, as malloc does with its lists half written.

        Args:
            libc: mappings of libc's code.

        """
        if self.in_system_call:
            return self.registers[_ORIG_RAX] in _OF_MALLOC
        return any(self.instruction_pointer in vma for vma in libc)


def _words(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])


class StoppedProcess:
    """All threads of a process, and of those that share its memory, standing still until `release`."""

    def __init__(self, procfs: ProcFs, pid: int, sharers: Sequence[int] = ()) -> None:
        self._procfs = procfs
        self._pid = pid
        self._pids = (pid, *sharers)
        self._stopper = Stopper()
        self._children = {child for child in self._pids if _is_our_child(procfs, child)}
        self._stopped: dict[int, int] = {}  # thread id -> the signal to hand on when it goes
        self._waiting: set[int] = set()
        self._states: list[ThreadState] = []
        self.began_ns = 0
        self.stopped_ns = 0

    @property
    def threads(self) -> tuple[ThreadState, ...]:
        """Those that stand still, the first thread first."""
        return tuple(self._states)

    def stop(self, deadline_seconds: float) -> None:
        """Stop every thread, those too that appear meanwhile.

        Raises:
            NotPossible: a thread did not stop in time, or somebody else traces it; whatever was stopped runs again.

        """
        until = time.monotonic_ns() + int(deadline_seconds * 1e9)
        for tid in self._listed():
            self._await_stoppable(tid, until)
        while new := [tid for tid in self._listed() if tid not in self._stopped]:
            seized = [tid for tid in new if self._seize(tid)]
            self._waiting.update(seized)
            for tid in seized:
                self._wait(tid, until)
            if not seized:
                break  # all that is left is a first thread that has ended
        if not self._stopped:
            raise TargetGone(f"process {self._pid} is gone")

    def glance(self, deadline_seconds: float) -> None:
        """Read the registers of each thread, which alone stands still meanwhile.

        Raises:
            NotPossible: as for `stop`.
            TargetGone: the process has ended.

        """
        until = time.monotonic_ns() + int(deadline_seconds * 1e9)
        for tid in self._listed():
            self._await_stoppable(tid, until)
            found, stood = self._stopper.glance(tid, ours=tid in self._children, until_ns=until)
            self.stopped_ns += stood
            if not isinstance(found, Stopped):
                self._explain(tid, found)
            elif found.result == "late":
                self._waiting.add(tid)
                raise self._unstoppable(tid)
            else:
                self._keep(tid, found)
        if not self._states:
            raise TargetGone(f"process {self._pid} is gone")

    def _listed(self) -> list[int]:
        first, *others = self._pids
        found = self._procfs.threads(first)
        for pid in others:
            try:
                found += self._procfs.threads(pid)
            except TargetGone:
                continue
        return found

    def _await_stoppable(self, tid: int, until_ns: int) -> None:
        """Wait, before anything is touched, until a thread does not wait inside the kernel where a stop cannot reach it."""
        while self._state_of(tid) == "D":
            if time.monotonic_ns() > until_ns:
                raise self._unstoppable(tid)
            time.sleep(0.001)

    def _unstoppable(self, tid: int) -> NotPossible:
        return NotPossible(
            f"thread {tid} of process {self._pid} does not stop: it waits inside the kernel, as in vfork or on a dead network disk",
            hint="The process was left alone. Try again, with a longer --stop-deadline if it must be.",
        )

    def _seize(self, tid: int) -> bool:
        number = self._stopper.seize(tid)
        if number:
            self._explain(tid, number)
            return False
        self.began_ns = self.began_ns or time.monotonic_ns()
        return True

    def _explain(self, tid: int, number: int) -> None:
        """Why a thread could not be seized; nothing is wrong with one that has ended."""
        if number == errno.ESRCH or self._state_of(tid) in (None, "Z", "X"):
            return
        if number in (errno.EPERM, errno.EACCES):
            tracer = self._procfs.status(self._pid).tracer_pid
            if tracer:
                name = self._procfs.stat(tracer).command
                hint = "Only one tracer at a time: end the debugger, or wait until it lets go."
                raise NotPossible(f"process {self._pid} is already traced by {tracer} ({name})", hint=hint)
            raise PermissionNeeded(f"no permission to stop process {self._pid}")
        raise NotPossible(f"cannot stop process {self._pid}: {os.strerror(number)}")

    def _state_of(self, tid: int) -> str | None:
        try:
            return self._procfs.stat(tid).state
        except TargetGone:
            return None

    def _wait(self, tid: int, until_ns: int) -> None:
        found = self._stopper.wait(tid, ours=tid in self._children, until_ns=until_ns)
        if found.result == "late":
            raise self._unstoppable(tid)
        self._waiting.discard(tid)
        if found.result != "ended":
            self._stopped[tid] = found.pending
        self._keep(tid, found)

    def _keep(self, tid: int, found: Stopped) -> None:
        if found.result == "not 64-bit":
            raise NotPossible(f"process {self._pid} is a 32-bit program")
        if found.result == "stopped":
            self._states.append(ThreadState(tid=tid, registers=found.general, xsave=found.extended))

    def release(self) -> None:
        """Let every thread go on."""
        self._detach()
        if self.began_ns:
            self.stopped_ns = time.monotonic_ns() - self.began_ns
        # A thread that did not stop in time stops when the kernel lets it: then it must not stay so.
        # Should it take longer than we can wait, our own end frees it.
        until = time.monotonic() + 5
        while self._waiting and time.monotonic() < until:
            for tid in list(self._waiting):
                found = self._stopper.wait(tid, ours=tid in self._children, until_ns=0)
                if found.result == "late":
                    continue
                self._waiting.discard(tid)
                if found.result != "ended":
                    self._stopped[tid] = found.pending
            self._detach()
            if self._waiting:
                time.sleep(0.001)

    def _detach(self) -> None:
        for tid, pending in self._stopped.items():
            self._stopper.release(tid, pending)  # an error means that it was killed while it stood still
        self._stopped.clear()


def _is_our_child(procfs: ProcFs, pid: int) -> bool:
    """Whoever of us started it asks for its exit status."""
    try:
        return procfs.stat(pid).ppid == os.getpid()
    except TargetGone:
        return False


def glance(procfs: ProcFs, pid: int, deadline_seconds: float, sharers: Sequence[int] = ()) -> tuple[tuple[ThreadState, ...], int]:
    """The registers of each thread, which alone stands still while they are read; and the nanoseconds of all these stops.

    Raises:
        NotPossible: a thread did not stop in time, or somebody else traces it.
        TargetGone: the process has ended.

    """
    process = StoppedProcess(procfs, pid, sharers)
    with _uninterrupted(process):
        process.glance(deadline_seconds)
    return process.threads, process.stopped_ns


@contextmanager
def stopped(procfs: ProcFs, pid: int, deadline_seconds: float, sharers: Sequence[int] = ()) -> Iterator[StoppedProcess]:
    """Hold a process still, and those that share its memory. An interrupt from the keyboard waits until it runs again."""
    process = StoppedProcess(procfs, pid, sharers)
    with _uninterrupted(process):
        process.stop(deadline_seconds)
        yield process


@contextmanager
def _uninterrupted(process: StoppedProcess) -> Iterator[None]:
    """Let nothing come between a stop and the release: no signal, and, where that is allowed, no other process's time slice."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGTSTP})
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, _MOST_URGENT)
        yield
    finally:
        try:
            process.release()
        finally:
            os.setpriority(os.PRIO_PROCESS, 0, niceness)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
