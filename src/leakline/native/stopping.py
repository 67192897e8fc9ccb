"""The C code that stops single threads, reads their registers and lets them go (native/heap/stop.c)."""

from __future__ import annotations

import ctypes
from typing import Literal

import msgspec

from leakline.native.parts import load_heap_library

StopResult = Literal["stopped", "ended", "late", "not 64-bit"]
_RESULTS: tuple[StopResult, ...] = ("stopped", "ended", "late", "not 64-bit")
_REGISTERS, _EXTENDED_ROOM = 27, 16384
_NO_THREAD = 1 << 30  # more than the kernel gives out (PID_MAX_LIMIT is 2^22)


class _Thread(ctypes.Structure):
    _fields_ = (
        ("general", ctypes.c_uint64 * _REGISTERS),
        ("extended_size", ctypes.c_uint32),
        ("pending", ctypes.c_int32),
        ("ran_at", ctypes.c_uint64),
        ("extended", ctypes.c_uint8 * _EXTENDED_ROOM),
    )


class Stopped(msgspec.Struct, frozen=True):
    """What came of a stop; registers only where it is `stopped`."""

    result: StopResult
    pending: int = 0
    """The signal that the thread must get when it goes on, 0 for none."""
    general: tuple[int, ...] = ()
    """struct user_regs_struct, 27 words."""
    extended: bytes = b""
    """The XSAVE area."""


class Stopper:
    """Stops threads one by one. What it does to them it has done once before, on no thread: the first time takes longer."""

    def __init__(self) -> None:
        self._library = load_heap_library()
        self._thread = _Thread()
        self._stood = ctypes.c_uint64()
        self.glance(_NO_THREAD, ours=False, until_ns=0)
        self.wait(_NO_THREAD, ours=False, until_ns=0)
        self.release(_NO_THREAD, 0)

    def seize(self, tid: int) -> int:
        """Take a thread over and ask it to stop: 0, or an errno."""
        return int(self._library.leakline_stop_seize(ctypes.c_int(tid)))

    def wait(self, tid: int, *, ours: bool, until_ns: int) -> Stopped:
        """Wait until a seized thread has stopped.

        Args:
            tid: which.
            ours: it is a child of ours, whose exit status somebody else of us asks for.
            until_ns: CLOCK_MONOTONIC; it is `late` after that.

        """
        arguments = ctypes.c_int(tid), ctypes.c_int(ours), ctypes.c_uint64(until_ns), ctypes.byref(self._thread)
        return self._answer(self._library.leakline_stop_await(*arguments))

    def read(self, tid: int) -> Stopped:
        """The registers of a thread that has been stopped, and waited for, by other means."""
        return self._answer(self._library.leakline_stop_read(ctypes.c_int(tid), ctypes.byref(self._thread)))

    def release(self, tid: int, pending: int) -> int:
        """Let it go on, with the signal that it must get: 0, or an errno (ESRCH if it was killed while it stood still)."""
        return int(self._library.leakline_stop_release(ctypes.c_int(tid), ctypes.c_int(pending)))

    def glance(self, tid: int, *, ours: bool, until_ns: int) -> tuple[Stopped | int, int]:
        """Stop a thread, read its registers, let it go; one that is late stays seized.

        Returns:
            what came of it, or the errno where it could not be seized; and the nanoseconds for which it stood still.

        """
        arguments = ctypes.c_int(tid), ctypes.c_int(ours), ctypes.c_uint64(until_ns), ctypes.byref(self._thread)
        result = int(self._library.leakline_stop_glance(*arguments, ctypes.byref(self._stood)))
        return (-result if result < 0 else self._answer(result)), self._stood.value

    def _answer(self, result: int) -> Stopped:
        t = self._thread
        if _RESULTS[result] != "stopped":
            return Stopped(_RESULTS[result], t.pending)
        return Stopped("stopped", t.pending, tuple(t.general), bytes(t.extended[: t.extended_size]))
