"""Following a process by ptrace(2) for as long as it lives: every signal passes through us, and it stands still before it dies.

PTRACE_SEIZE: if we die, the kernel lets all of it run on.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Literal

import msgspec

_CONT, _SEIZE, _GETEVENTMSG, _INTERRUPT, _LISTEN = 7, 0x4206, 0x4201, 0x4207, 0x4208
_TRACE_FORK, _TRACE_VFORK, _TRACE_CLONE, _TRACE_EXIT = 0x2, 0x4, 0x8, 0x40
_EVENT_EXIT, _EVENT_STOP = 6, 128
_WALL = 0x40000000
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.00002, 0.002
_SIGTRAP = 5


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

    def interrupt(self, tid: int) -> int:
        """Ask a traced thread to stop: 0, or an errno."""
        return self._call(_INTERRUPT, tid, 0)

    def go_on(self, event: Event) -> None:
        """Let it do what it would do; an error means that it was killed meanwhile."""
        if event.kind == "group stop":
            self._call(_LISTEN, event.tid, 0)
        elif event.kind != "ended":
            self._call(_CONT, event.tid, event.number if event.kind == "signal" else 0)

    def next_event(self) -> Event | None:
        """What happened next; None if nothing has. Ended processes are reaped by this, our own children as well."""
        return self._event(-1)

    def await_event(self, tid: int, until_ns: int) -> Event | None:
        """What a thread does next; None if it has done nothing by then (CLOCK_MONOTONIC), or is none that we trace."""
        pause = _SHORTEST_PAUSE_SECONDS
        while (event := self._event(tid)) is None and time.monotonic_ns() < until_ns:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return event

    def _event(self, which: int) -> Event | None:
        try:
            tid, status = os.waitpid(which, os.WNOHANG | _WALL)
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

    def _message(self, tid: int) -> int:
        value = ctypes.c_ulong()
        return 0 if self._ptrace(_GETEVENTMSG, tid, None, ctypes.addressof(value)) else value.value

    def _call(self, request: int, tid: int, data: int) -> int:
        return ctypes.get_errno() if self._ptrace(request, tid, None, data) else 0
