"""Following a process by ptrace(2) for as long as it lives: every signal passes through us, and it stands still before it dies.

PTRACE_SEIZE: if we die, the kernel lets all of it run on.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Literal

import msgspec

from leakline.sources.ptrace import ThreadState

_CONT, _SEIZE, _GETEVENTMSG, _GETREGSET, _LISTEN = 7, 0x4206, 0x4201, 0x4204, 0x4208
_TRACE_FORK, _TRACE_VFORK, _TRACE_CLONE, _TRACE_EXIT = 0x2, 0x4, 0x8, 0x40
_EVENT_EXIT, _EVENT_STOP = 6, 128
_WALL = 0x40000000
_PRSTATUS, _XSTATE = 1, 0x202
_REGISTERS, _EXTENDED_ROOM = 27 * 8, 16384
_SIGTRAP = 5


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a traced thread did."""

    tid: int
    kind: Literal["signal", "group stop", "other stop", "dying", "ended"]
    number: int = 0
    """The signal that is on its way, or that stops the whole process; the status as of waitpid(2) of one that dies or has ended."""


class Tracer:
    """Traces processes, from one thread alone: ptrace(2) asks for that.

    Args:
        children: those that they start are traced too.

    """

    def __init__(self, *, children: bool) -> None:
        self._ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        self._ptrace.restype = ctypes.c_long
        self._ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
        self._options = _TRACE_CLONE | _TRACE_EXIT | ((_TRACE_FORK | _TRACE_VFORK) if children else 0)

    def seize(self, tid: int) -> int:
        """Begin with a thread, which runs on: 0, or an errno."""
        return self._call(_SEIZE, tid, self._options)

    def go_on(self, event: Event) -> None:
        """Let it do what it would do; an error means that it was killed meanwhile."""
        if event.kind == "group stop":
            self._call(_LISTEN, event.tid, 0)
        elif event.kind != "ended":
            self._call(_CONT, event.tid, event.number if event.kind == "signal" else 0)

    def next_event(self) -> Event | None:
        """What happened next; None if nothing has. Ended processes are reaped by this, our own children as well."""
        try:
            tid, status = os.waitpid(-1, os.WNOHANG | _WALL)
        except ChildProcessError:
            return None
        if not tid:
            return None
        if not os.WIFSTOPPED(status):
            return Event(tid=tid, kind="ended", number=status)
        number, event = os.WSTOPSIG(status), status >> 16
        if event == _EVENT_EXIT:
            return Event(tid=tid, kind="dying", number=self._message(tid))
        if event == _EVENT_STOP:
            return Event(tid=tid, kind="other stop" if number == _SIGTRAP else "group stop")
        return Event(tid=tid, kind="other stop") if event else Event(tid=tid, kind="signal", number=number)

    def state(self, tid: int) -> ThreadState | None:
        """The registers of a thread that stands still; None if it was killed meanwhile."""
        general = self._registers(tid, _PRSTATUS, _REGISTERS)
        if len(general) != _REGISTERS:
            return None
        return ThreadState(tid=tid, registers=struct.unpack("<27Q", general), xsave=self._registers(tid, _XSTATE, _EXTENDED_ROOM))

    def _registers(self, tid: int, kind: int, room: int) -> bytes:
        buffer = ctypes.create_string_buffer(room)
        area = _IoVec(ctypes.addressof(buffer), room)
        failed = self._ptrace(_GETREGSET, tid, kind, ctypes.addressof(area))
        return b"" if failed else buffer.raw[: area.size]

    def _message(self, tid: int) -> int:
        value = ctypes.c_ulong()
        return 0 if self._ptrace(_GETEVENTMSG, tid, None, ctypes.addressof(value)) else value.value

    def _call(self, request: int, tid: int, data: int) -> int:
        return ctypes.get_errno() if self._ptrace(request, tid, None, data) else 0
