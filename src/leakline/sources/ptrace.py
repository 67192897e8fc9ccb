"""Stopping a process for a moment by ptrace(2), and letting it go as if nothing had been.

PTRACE_SEIZE sends no signal, and the kernel lets the threads run on if we die, whatever the moment.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from leakline.errors import NotPossible, PermissionNeeded, TargetGone
from leakline.sources.procfs import translated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leakline.sources.procfs import ProcFs

_SEIZE, _INTERRUPT, _DETACH, _GETREGSET, _SETREGSET = 0x4206, 0x4207, 17, 0x4204, 0x4205
_NT_PRSTATUS, _NT_X86_XSTATE = 1, 0x202
_WALL = 0x40000000
_PTRACE_EVENT_STOP = 128
_SPIN_NS = 200_000
_NO_THREAD = 1 << 30  # more than the kernel gives out (PID_MAX_LIMIT is 2^22)
# struct user_regs_struct of x86-64 (arch/x86/include/asm/user_64.h), in words.
_RAX, _ORIG_RAX, _RIP, _RSP, _FS_BASE, _REGISTERS = 10, 15, 16, 19, 21, 27
_XSTATE_ROOM = 16384
_EINTR, _ERESTARTNOHAND = -4, -514
# System calls that a stop makes return EINTR although no signal came (signal(7), "Interruption of system calls"):
# read write readv writev connect accept sendto recvfrom sendmsg recvmsg semop msgsnd msgrcv rt_sigtimedwait io_getevents
# semtimedop epoll_wait epoll_pwait accept4 recvmmsg sendmmsg io_pgetevents io_uring_enter epoll_pwait2.
# close(2) must never be in this list: to repeat it would close somebody else's descriptor.
_RESTARTABLE = frozenset((0, 1, 19, 20, 42, 43, 44, 45, 46, 47, 65, 69, 70, 128, 208, 220, 232, 281, 288, 299, 307, 333, 426, 441))


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class ThreadState(msgspec.Struct, frozen=True, kw_only=True):
    """A stopped thread's registers."""

    tid: int
    registers: tuple[int, ...]
    """struct user_regs_struct, 27 words."""
    xsave: bytes
    """The XSAVE area."""

    @property
    def extended(self) -> tuple[int, ...]:
        """The XSAVE area in words: vector registers may hold the only pointer to a block."""
        return _words(self.xsave)

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


class _Libc:
    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.restype = ctypes.c_long
        self._libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def ptrace(self, request: int, tid: int, address: int = 0, data: int = 0) -> None:
        if self._libc.ptrace(request, tid, address, data) == -1:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def get(self, tid: int, kind: int, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        area = _Iovec(ctypes.addressof(buffer), size)
        self.ptrace(_GETREGSET, tid, kind, ctypes.addressof(area))
        return buffer.raw[: area.length]

    def set(self, tid: int, kind: int, data: bytes) -> None:
        buffer = ctypes.create_string_buffer(data, len(data))
        area = _Iovec(ctypes.addressof(buffer), len(data))
        self.ptrace(_SETREGSET, tid, kind, ctypes.addressof(area))


def _words(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])


class StoppedProcess:
    """All threads of a process, standing still, until `release`."""

    def __init__(self, procfs: ProcFs, pid: int) -> None:
        self._procfs = procfs
        self._pid = pid
        self._libc = _Libc()
        self._stopped: dict[int, int] = {}  # thread id -> the signal to hand on when it goes
        self._waiting: set[int] = set()
        self._general: dict[int, bytes] = {}
        self.threads: tuple[ThreadState, ...] = ()
        self.began_ns = 0
        self.stopped_ns = 0

    def stop(self, deadline_seconds: float, only: int | None = None) -> None:
        """Stop every thread, those too that appear meanwhile; or one alone.

        Raises:
            NotPossible: a thread did not stop in time, or somebody else traces it; whatever was stopped runs again.

        """
        deadline = time.monotonic() + deadline_seconds
        self._await_stoppable(deadline, only)
        self._rehearse()
        while new := [tid for tid in self._listed(only) if tid not in self._stopped]:
            seized = [tid for tid in new if self._seize(tid)]
            self._waiting.update(seized)
            for tid in seized:
                self._wait(tid, deadline)
            if not seized:
                break  # all that is left is a first thread that has ended
        if not self._stopped:
            raise TargetGone(f"process {self._pid} is gone")
        self.threads = tuple(self._state(tid) for tid in self._stopped)
        self._general.clear()

    def _rehearse(self) -> None:
        """Do once, on no thread, what is done while the target stands still: the first time takes a millisecond longer."""
        with suppress(OSError):
            self._poll(_NO_THREAD)
        with suppress(OSError):
            self._libc.get(_NO_THREAD, _NT_X86_XSTATE, _XSTATE_ROOM)

    def _listed(self, only: int | None) -> list[int]:
        return self._procfs.threads(self._pid) if only is None else [only]

    def _await_stoppable(self, deadline: float, only: int | None) -> None:
        """Wait, before anything is touched, until no thread waits inside the kernel where a stop cannot reach it."""
        for tid in self._listed(only):
            while self._state_of(tid) == "D":
                if time.monotonic() > deadline:
                    raise self._unstoppable(tid)
                time.sleep(0.001)

    def _unstoppable(self, tid: int) -> NotPossible:
        return NotPossible(
            f"thread {tid} of process {self._pid} does not stop: it waits inside the kernel, as in vfork or on a dead network disk",
            hint="The process was left alone. Try again, with a longer --stop-deadline if it must be.",
        )

    def _seize(self, tid: int) -> bool:
        try:
            self._libc.ptrace(_SEIZE, tid)
            self.began_ns = self.began_ns or time.monotonic_ns()
            self._libc.ptrace(_INTERRUPT, tid)
        except OSError as error:
            if error.errno == errno.ESRCH or self._state_of(tid) in (None, "Z", "X"):
                return False
            if error.errno in (errno.EPERM, errno.EACCES):
                tracer = self._procfs.status(self._pid).tracer_pid
                if tracer:
                    name = self._procfs.stat(tracer).command
                    hint = "Only one tracer at a time: end the debugger, or wait until it lets go."
                    raise NotPossible(f"process {self._pid} is already traced by {tracer} ({name})", hint=hint) from error
                raise PermissionNeeded(f"no permission to stop process {self._pid}") from error
            raise NotPossible(f"cannot stop process {self._pid}: {error.strerror}") from error
        return True

    def _state_of(self, tid: int) -> str | None:
        try:
            return self._procfs.thread_stat(self._pid, tid).state
        except TargetGone:
            return None

    def _wait(self, tid: int, deadline: float) -> None:
        # A sleep takes 50 microseconds more than it should (timer slack), which is longer than most stops.
        pause, patience = 0.00002, time.monotonic_ns() + _SPIN_NS
        while True:
            stopped_by = self._poll(tid)
            if stopped_by is not None:
                self._waiting.discard(tid)
                if stopped_by >= 0:
                    self._stopped[tid] = stopped_by
                    with suppress(ProcessLookupError):  # killed meanwhile
                        self._hide_interruption(tid)
                return
            if time.monotonic() > deadline:
                raise self._unstoppable(tid)
            if time.monotonic_ns() < patience:
                os.sched_yield()
                continue
            time.sleep(pause)
            pause = min(pause * 2, 0.002)

    def _poll(self, tid: int) -> int | None:
        """None while the thread runs; -1 if it has ended; else the signal that it must get when it goes on, 0 for none."""
        try:
            found = os.waitid(os.P_PID, tid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
            if found is None:
                return None
            ended = found.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED)
            if ended and tid == self._pid and self._procfs.stat(tid).ppid == os.getpid():
                return -1  # our own child: whoever started it asks for its exit status
            _, status = os.waitpid(tid, _WALL | os.WNOHANG)
        except (ChildProcessError, TargetGone):
            return -1
        if ended or not os.WIFSTOPPED(status):
            return -1
        # Anything but our own stop is a signal on its way to the thread: it must arrive when we let go.
        return 0 if status >> 16 == _PTRACE_EVENT_STOP else os.WSTOPSIG(status)

    def _hide_interruption(self, tid: int) -> None:
        """Let an interrupted system call be restarted instead of returning EINTR: at once, lest we die before."""
        data = self._libc.get(tid, _NT_PRSTATUS, 8 * _REGISTERS)
        if len(data) != 8 * _REGISTERS:
            return
        self._general[tid] = data
        words = list(struct.unpack(f"<{_REGISTERS}q", data))
        if words[_RAX] == _EINTR and words[_ORIG_RAX] in _RESTARTABLE:
            words[_RAX] = _ERESTARTNOHAND
            self._general[tid] = struct.pack(f"<{_REGISTERS}q", *words)
            self._libc.set(tid, _NT_PRSTATUS, self._general[tid])

    def _state(self, tid: int) -> ThreadState:
        with translated(self._pid, "read the registers"):
            general = self._general.get(tid) or self._libc.get(tid, _NT_PRSTATUS, 8 * _REGISTERS)
            extended = self._libc.get(tid, _NT_X86_XSTATE, _XSTATE_ROOM)
        if len(general) != 8 * _REGISTERS:
            raise NotPossible(f"process {self._pid} is a 32-bit program")
        return ThreadState(tid=tid, registers=_words(general), xsave=extended)

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
                try:
                    self._wait(tid, 0)
                except NotPossible:
                    continue
                except TargetGone:
                    self._waiting.discard(tid)
            self._detach()

    def _detach(self) -> None:
        for tid, pending in self._stopped.items():
            try:
                self._libc.ptrace(_DETACH, tid, 0, pending)
            except ProcessLookupError:
                continue  # killed while it stood still
        self._stopped.clear()


def glance(procfs: ProcFs, pid: int, deadline_seconds: float) -> tuple[tuple[ThreadState, ...], int]:
    """The registers of each thread, which alone stands still while they are read; and the nanoseconds of all these stops.

    Raises:
        NotPossible: a thread did not stop in time, or somebody else traces it.
        TargetGone: the process has ended.

    """
    states: list[ThreadState] = []
    stood = 0
    for tid in procfs.threads(pid):
        try:
            with stopped(procfs, pid, deadline_seconds, only=tid) as process:
                states.extend(process.threads)
            stood += process.stopped_ns
        except TargetGone:
            continue  # this thread has ended meanwhile
    if not states:
        raise TargetGone(f"process {pid} is gone")
    return tuple(states), stood


@contextmanager
def stopped(procfs: ProcFs, pid: int, deadline_seconds: float, only: int | None = None) -> Iterator[StoppedProcess]:
    """Hold a process still, or one thread of it. An interrupt from the keyboard waits until it runs again."""
    process = StoppedProcess(procfs, pid)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGTSTP})
    try:
        process.stop(deadline_seconds, only)
        yield process
    finally:
        try:
            process.release()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
