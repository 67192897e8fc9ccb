"""A program that is started and followed by ptrace(2), which stops only for signals and when it begins or ends.

PTRACE_SEIZE without PTRACE_O_EXITKILL: if we die, the kernel lets it run on.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from leakline.errors import NotPossible

_CONT, _GETREGS, _DETACH = 7, 12, 17
_GETEVENTMSG, _GETSIGINFO, _SEIZE, _INTERRUPT, _LISTEN = 0x4201, 0x4202, 0x4206, 0x4207, 0x4208
_TRACE_FORK, _TRACE_VFORK, _TRACE_CLONE, _TRACE_EXEC, _TRACE_EXIT = 2, 4, 8, 0x10, 0x40
_OPTIONS = _TRACE_FORK | _TRACE_VFORK | _TRACE_CLONE | _TRACE_EXEC | _TRACE_EXIT
_EVENT_EXEC, _EVENT_EXIT, _EVENT_STOP = 4, 6, 128
_WALL = 0x40000000
_STOPPING = frozenset((signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))
_SIGINFO_SIZE = 128
# struct user_regs_struct (arch/x86/include/asm/user_64.h).
REGISTER_NAMES = (
    *(
        "r15",
        "r14",
        "r13",
        "r12",
        "rbp",
        "rbx",
        "r11",
        "r10",
        "r9",
        "r8",
        "rax",
        "rcx",
        "rdx",
        "rsi",
        "rdi",
        "orig_rax",
        "rip",
        "cs",
    ),
    *("eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
REGISTERS_SIZE = 8 * len(REGISTER_NAMES)


class SignalInfo(NamedTuple):
    """siginfo_t, as far as it tells of a fault."""

    number: int
    code: int
    address: int
    sender: int


def parse_siginfo(data: bytes) -> SignalInfo:
    """The first fields of a siginfo_t (include/uapi/asm-generic/siginfo.h)."""
    number, _, code = struct.unpack_from("<iii", data)
    address = struct.unpack_from("<Q", data, 16)[0]
    return SignalInfo(number, code, address, address & 0xFFFFFFFF)


class Stop(NamedTuple):
    """A thread that has stopped, and waits to be let go on."""

    tid: int
    why: Literal["signal", "exec", "exit", "other"]
    signal: int


class StartedProgram:
    """A program of ours that waits before its first instruction until `begin`.

    Raises:
        NotPossible: this system lets nobody trace.

    """

    def __init__(self, command: Sequence[str]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.restype = ctypes.c_long
        self._traced: set[int] = set()
        self.status: int | None = None
        """As wait(2) gives it, once it has ended."""
        go, self._go = os.pipe2(os.O_CLOEXEC)
        self._failed, failed = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if not self.pid:
            _become(command, go, failed)
        os.close(go)
        os.close(failed)
        if self._request(_SEIZE, self.pid, 0, _OPTIONS):
            number = ctypes.get_errno()
            os.close(self._go)
            os.waitpid(self.pid, 0)
            raise NotPossible(
                f"a program cannot be followed here: {os.strerror(number)}",
                hint="Allow ptrace: kernel.yama.ptrace_scope of at most 2, and no seccomp filter that forbids it.",
            )
        self._traced.add(self.pid)

    def begin(self) -> None:
        """Let it go.

        Raises:
            OSError: it cannot be started.

        """
        os.write(self._go, b".")
        os.close(self._go)

    def failure(self) -> OSError | None:
        """Why it could not be started; None once it has been."""
        data = os.read(self._failed, 8)
        os.close(self._failed)
        if not data:
            return None
        number = int.from_bytes(data, "little")
        return OSError(number, os.strerror(number))

    def stops(self) -> Iterator[Stop]:
        """Threads that have stopped since the last call. Each must be let go on before the next one is asked for."""
        while True:
            try:
                tid, status = os.waitpid(-1, os.WNOHANG | _WALL)
            except ChildProcessError:
                return
            if not tid:
                return
            if not os.WIFSTOPPED(status):
                self._traced.discard(tid)
                if tid == self.pid:
                    self.status = status
                continue
            self._traced.add(tid)
            number, event = os.WSTOPSIG(status), status >> 16
            if event == _EVENT_STOP and number in _STOPPING:
                self._request(_LISTEN, tid, 0, 0)  # it stays stopped until somebody wakes it, and we hear of that
            elif event == _EVENT_STOP:
                self.resume(tid)
            elif event == _EVENT_EXEC:
                yield Stop(tid, "exec", 0)
            elif event == _EVENT_EXIT:
                yield Stop(tid, "exit", 0)
            elif event:
                yield Stop(tid, "other", 0)
            else:
                yield Stop(tid, "signal", number)

    def resume(self, tid: int, number: int = 0) -> None:
        """Let a thread go on, with the signal that it gets."""
        self._request(_CONT, tid, 0, number)  # an error means that it was killed while it stood still

    def registers(self, tid: int) -> dict[str, int]:
        """A stopped thread's registers; empty where it was killed meanwhile."""
        buffer = ctypes.create_string_buffer(REGISTERS_SIZE)
        if self._request(_GETREGS, tid, 0, ctypes.addressof(buffer)):
            return {}
        return dict(zip(REGISTER_NAMES, struct.unpack(f"<{len(REGISTER_NAMES)}Q", buffer.raw), strict=True))

    def siginfo(self, tid: int) -> SignalInfo | None:
        """What a stopped thread's signal says."""
        buffer = ctypes.create_string_buffer(_SIGINFO_SIZE)
        if self._request(_GETSIGINFO, tid, 0, ctypes.addressof(buffer)):
            return None
        return parse_siginfo(buffer.raw)

    def let_go(self) -> None:
        """Follow nobody any longer: children that live on do so unwatched."""
        for tid in list(self._traced):
            if self._request(_INTERRUPT, tid, 0, 0):
                self._traced.discard(tid)
        while self._traced:
            try:
                tid, status = os.waitpid(-1, _WALL)
            except ChildProcessError:
                return
            self._traced.discard(tid)
            if os.WIFSTOPPED(status):
                number = os.WSTOPSIG(status)
                self._request(_DETACH, tid, 0, 0 if status >> 16 or number == signal.SIGTRAP else number)

    def _request(self, request: int, tid: int, address: int, data: int) -> int:
        return int(self._libc.ptrace(ctypes.c_long(request), ctypes.c_long(tid), ctypes.c_void_p(address), ctypes.c_void_p(data)))


def _become(command: Sequence[str], go: int, failed: int) -> None:
    """In the child: wait, then become the program; never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        if os.read(go, 1):
            os.execvp(command[0], list(command))  # noqa: S606
        os._exit(0)
    except OSError as error:
        with suppress(OSError):
            os.write(failed, (error.errno or errno.ENOENT).to_bytes(8, "little"))
    finally:
        os._exit(127)
