"""Deaths by signal, caught: a process stands still once more when it dies, with all of its memory, and is looked at."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from leakline.errors import LeaklineError, NotPossible, PermissionNeeded, TargetGone
from leakline.native.stopping import Stopper
from leakline.sources.ptrace import ThreadState
from leakline.sources.tracer import Event, Tracer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from leakline.sources.procfs import ProcFs

# A thread that waits inside the kernel comes later than the others, or never.
_PATIENCE_SECONDS = 5.0
_STOP_SECONDS = 1.0


class Standstill(msgspec.Struct, kw_only=True):
    """A process whose threads all stand still."""

    began_ns: int
    threads: tuple[ThreadState, ...] = ()
    stopped_ns: int = 0


class Death(Standstill, kw_only=True):
    """A process whose threads come to their last standstill one by one."""

    signal: int
    events: dict[int, Event] = msgspec.field(default_factory=dict)


class Catcher:
    """Traces a program, to have its end seen.

    Args:
        procfs: where it is.
        children: its children too.
        on_death: called with the process and its standstill, which is over when it returns.

    """

    def __init__(self, procfs: ProcFs, on_death: Callable[[int, Death], None], *, children: bool) -> None:
        self._procfs = procfs
        self._on_death = on_death
        self._tracer = Tracer(children=children)
        self._stopper = Stopper()
        self._deaths: dict[int, Death] = {}
        self._root = 0
        self.status: int | None = None
        """Of the program, as waitpid(2) has it, once it has ended."""

    @contextmanager
    def listening(self) -> Iterator[socket.socket]:
        """A socket that can be read when something has happened (SIGCHLD)."""
        ours, signals = socket.socketpair()
        with ours, signals:
            ours.setblocking(False)
            signals.setblocking(False)

            def ignore(_number: int, _frame: FrameType | None) -> None:
                """A handler there must be: what is ignored wakes nobody."""

            handler = signal.signal(signal.SIGCHLD, ignore)
            before = signal.set_wakeup_fd(signals.fileno(), warn_on_full_buffer=False)
            try:
                yield ours
            finally:
                signal.set_wakeup_fd(before)
                signal.signal(signal.SIGCHLD, handler)

    def begin(self, pid: int) -> None:
        """Trace the program, a child of ours, from now on.

        Raises:
            NotPossible: somebody else traces it, or ptrace is forbidden.

        """
        self._root = pid
        number = self._seize_all(pid)
        if number:
            error = PermissionNeeded if number == 1 else NotPossible
            raise error(f"cannot trace process {pid}: {os.strerror(number)}", hint="Run without --catch-signals.")

    def seize(self, pid: int) -> None:
        """Trace a process of the program's that is not traced yet."""
        with suppress(LeaklineError):
            if self._procfs.status(pid).tracer_pid == 0:
                self._seize_all(pid)

    def _seize_all(self, pid: int) -> int:
        first, done = 0, set[int]()
        with suppress(LeaklineError):
            while new := [tid for tid in self._procfs.threads(pid) if tid not in done]:
                for tid in new:
                    number = self._tracer.seize(tid)
                    if tid == pid:
                        first = number
                    done.add(tid)
        return first

    @contextmanager
    def held(self, pid: int) -> Iterator[Standstill]:
        """Hold a traced process still.

        Raises:
            TargetGone: it ends.
            NotPossible: a thread did not stop in time.

        """
        standstill = Standstill(began_ns=time.monotonic_ns())
        events: dict[int, Event] = {}
        try:
            self._stop_all(pid, events)
            standstill.threads = self._states(pid, events)
            yield standstill
        finally:
            for event in events.values():
                self._take(event)
            standstill.stopped_ns = time.monotonic_ns() - standstill.began_ns

    def _stop_all(self, pid: int, events: dict[int, Event]) -> None:
        until, gone = time.monotonic_ns() + int(_STOP_SECONDS * 1e9), set[int]()
        while new := [tid for tid in self._procfs.threads(pid) if tid not in events and tid not in gone]:
            gone |= {tid for tid in new if self._tracer.interrupt(tid)}
            for tid in new:
                event = None if tid in gone else self._tracer.await_event(tid, until)
                if event is not None and event.kind != "ended":
                    events[tid] = event
                elif event is not None:
                    self._take(event)
                    gone.add(tid)
                elif tid not in gone:
                    raise NotPossible(f"thread {tid} of process {pid} does not stop", hint="It waits inside the kernel. Try again.")
        if pid in self._deaths or not events or any(event.kind == "dying" for event in events.values()):
            raise TargetGone(f"process {pid} ends")

    def _states(self, pid: int, tids: Iterable[int]) -> tuple[ThreadState, ...]:
        found = [(tid, self._stopper.read(tid)) for tid in sorted(tids, key=lambda tid: (tid != pid, tid))]
        return tuple(ThreadState(tid=t, registers=s.general, xsave=s.extended) for t, s in found if s.result == "stopped")

    def serve(self) -> None:
        """Answer all that has happened."""
        while (event := self._tracer.next_event()) is not None:
            self._take(event)

    def _take(self, event: Event) -> None:
        if event.kind == "ended":
            if event.tid == self._root:
                self.status = event.number
            self._settle_all()
        elif event.kind == "dying":
            self._meet(event)
        else:
            self._tracer.go_on(event)

    @property
    def deadline(self) -> float | None:
        """CLOCK_MONOTONIC in seconds when `give_up` should be called; None while nothing is awaited."""
        return min((d.began_ns / 1e9 + _PATIENCE_SECONDS for d in self._deaths.values()), default=None)

    def give_up(self) -> None:
        """Let those die whose threads do not all come."""
        for pid, death in list(self._deaths.items()):
            if time.monotonic_ns() > death.began_ns + _PATIENCE_SECONDS * 1e9:
                self._release(pid)

    def _meet(self, event: Event) -> None:
        """A thread comes to its end: alone, which is nothing to us, or by a signal that ends the whole process."""
        pid = self._process_of(event.tid)
        if pid is None or not os.WIFSIGNALED(event.number):
            self._tracer.go_on(event)
            return
        death = self._deaths.setdefault(pid, Death(signal=os.WTERMSIG(event.number), began_ns=time.monotonic_ns()))
        death.events[event.tid] = event
        self._settle(pid)

    def _settle_all(self) -> None:
        for pid in list(self._deaths):
            self._settle(pid)

    def _settle(self, pid: int) -> None:
        death = self._deaths[pid]
        if any(tid not in death.events and self._lives(tid) for tid in self._threads(pid)):
            return
        death.threads = self._states(pid, death.events)
        try:
            self._on_death(pid, death)
        finally:
            self._release(pid)

    def _release(self, pid: int) -> None:
        for event in self._deaths.pop(pid).events.values():
            self._tracer.go_on(event)

    def _process_of(self, tid: int) -> int | None:
        try:
            return self._procfs.status(tid).tgid
        except LeaklineError:
            return None

    def _threads(self, pid: int) -> list[int]:
        try:
            return self._procfs.threads(pid)
        except LeaklineError:
            return []

    def _lives(self, tid: int) -> bool:
        try:
            return self._procfs.stat(tid).state not in ("Z", "X")
        except LeaklineError:
            return False
