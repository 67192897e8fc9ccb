"""A program that is started to see how it gets its pages, and of what it dies."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

import msgspec

from leakline.errors import LeaklineError, NotPossible, PermissionNeeded
from leakline.model.faults import FaultCounts, FaultGroup, FaultReport
from leakline.model.finding import Target
from leakline.model.names import readable
from leakline.session.crashing import Scene, explain_crash, with_end
from leakline.session.fault_collecting import FaultCollector, opener, root_folder
from leakline.session.faulting import FaultSettings, build_fault_report, counters_only
from leakline.session.targets import describe
from leakline.sources.fault_events import FaultEvents
from leakline.sources.signal_stops import StartedProgram
from leakline.symbols.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from leakline.analysis.address_space import AddressSpace
    from leakline.model.vma import Vma
    from leakline.sources.procfs import ProcFs
    from leakline.sources.signal_stops import SignalInfo, Stop

_POLL_SECONDS = 0.2
_MOST_HANDLED = 8
_SIGNALS: dict[int, Literal["SIGSEGV", "SIGBUS"]] = {signal.SIGSEGV: "SIGSEGV", signal.SIGBUS: "SIGBUS"}


class FaultOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How the program ended, and what was seen."""

    status: int
    """As a shell has it: 128 + N where signal N ended it; 126 and 127 as env(1)."""
    report: FaultReport | None


class FaultLaunch:
    """Starts one program, and follows it and its children to its end.

    Args:
        procfs: the live one.
        settings: what to look at.
        say: hears what cannot be done.

    """

    def __init__(self, procfs: ProcFs, settings: FaultSettings, say: Callable[[str], None]) -> None:
        self._procfs, self._settings, self._say = procfs, settings, say
        self._crashes: dict[int, list[FaultGroup]] = {}
        self._order: list[FaultGroup] = []
        self._collector: FaultCollector | None = None
        self._events: FaultEvents | None = None
        self._why_not = ""
        self._began: tuple[int, int] | None = None
        self._ended: tuple[int, int] | None = None
        self._target: Target | None = None
        self._stopped_ns = 0
        self._begun_ns = time.monotonic_ns()
        self._told = 1

    def run(self, command: Sequence[str]) -> FaultOutcome:
        """Start it, and wait for its end.

        Raises:
            NotPossible: nobody may trace here.

        """
        began_ns = time.monotonic_ns()
        self._warn_of_rights(command[0])
        with _woken_by_children() as wakeup:
            program = StartedProgram(command)
            self._watch(program.pid, command[0])
            program.begin()
            try:
                self._follow(program, wakeup)
            finally:
                program.let_go()
            failure = program.failure()
        if failure is not None:
            sys.stderr.write(f"leakline: cannot start {readable(command[0])}: {failure.strerror}\n")
            self._close()
            return FaultOutcome(status=127 if isinstance(failure, FileNotFoundError) else 126, report=None)
        status = os.waitstatus_to_exitcode(program.status or 0)
        status = 128 - status if status < 0 else status
        try:
            return FaultOutcome(status=status, report=self._report(program.pid, command[0], status, began_ns))
        finally:
            self._close()

    def _warn_of_rights(self, name: str) -> None:
        path = shutil.which(name)
        with suppress(OSError):
            status = None if path is None else os.stat(path)
            if status is not None and status.st_mode & stat.S_ISUID and status.st_uid != os.geteuid() != 0:
                self._say(f"{readable(name)} runs without its own rights (setuid) while it is followed")

    def _watch(self, pid: int, name: str) -> None:
        try:
            self._events = FaultEvents(pid, lambda: [pid], self._settings.options(on_exec=True))
        except (PermissionNeeded, NotPossible) as error:
            self._why_not = f"{error.message}. {error.hint}"
            self._say(f"only the kernel's counters are read: {self._why_not}")
            return
        self._collector = FaultCollector(
            self._procfs,
            pid,
            self._events,
            os.path.basename(name),
            every=self._settings.every,
            interval=self._settings.interval,
            by_thread=self._settings.by == "thread",
        )

    def _close(self) -> None:
        if self._collector is not None:
            self._collector.close()
        if self._events is not None:
            self._events.close()

    def _follow(self, program: StartedProgram, wakeup: socket.socket) -> None:
        while program.status is None:
            for stop in program.stops():
                began = time.monotonic_ns()
                try:
                    number = self._stopped(program, stop)
                except LeaklineError as error:
                    self._say(f"{error.message}. {error.hint}")
                    number = stop.signal
                self._stopped_ns += time.monotonic_ns() - began
                program.resume(stop.tid, number)
            if program.status is None:
                self._wait(wakeup)
            self._drain()

    def _wait(self, wakeup: socket.socket) -> None:
        if self._events is not None:
            self._events.wait(_POLL_SECONDS, wakeup.fileno())
        else:
            wakeup.settimeout(_POLL_SECONDS)
            with suppress(TimeoutError):
                wakeup.recv(1)
            wakeup.setblocking(False)
        with suppress(BlockingIOError):
            wakeup.recv(4096)

    def _drain(self) -> None:
        if self._collector is None or self._events is None:
            return
        self._collector.take(self._events.records())
        elapsed = (time.monotonic_ns() - self._begun_ns) / 1e9
        if self._settings.tell and elapsed >= self._told * self._settings.interval:
            self._told += 1
            self._say(f"{elapsed:.1f} s{self._collector.news()}")

    def _stopped(self, program: StartedProgram, stop: Stop) -> int:
        """See to a thread that stands still, and tell the signal that it gets."""
        if stop.why == "exec":
            if stop.tid == program.pid and self._began is None:
                self._began = self._counters(stop.tid)
                self._target = describe(self._procfs, stop.tid)
            if self._collector is not None:
                self._drain()
                self._collector.refresh(stop.tid)
        elif stop.why == "exit":
            with suppress(LeaklineError):  # of the last of its threads, whichever that is
                self._ended = self._counters(program.pid)
            self._drain()  # while there are still mappings to look up
        elif stop.why == "signal" and stop.signal in _SIGNALS:
            info = program.siginfo(stop.tid)
            if info is not None:
                self._crash(program, stop, info)
        return stop.signal

    def _counters(self, pid: int) -> tuple[int, int]:
        found = self._procfs.stat(pid)
        return found.minor_faults, found.major_faults

    def _crash(self, program: StartedProgram, stop: Stop, info: SignalInfo) -> None:
        status = self._procfs.status(stop.tid)
        pid = status.process or stop.tid
        handled = bool(status.caught >> (stop.signal - 1) & 1)
        earlier = self._crashes.setdefault(pid, [])
        registers = program.registers(stop.tid)
        again = next((g for g in earlier if _is_the_same(g, info, registers, pid)), None)
        if again is not None and not handled:
            self._settle(earlier, again)
            return
        if again is not None or (handled and len(earlier) >= _MOST_HANDLED):
            return
        self._drain()
        vmas = self._procfs.maps(pid)
        space = self._space(pid, vmas)
        scene = Scene(
            pid=pid,
            tid=stop.tid,
            command=readable(self._procfs.stat(stop.tid).command),
            signal=_SIGNALS[stop.signal],
            code=info.code,
            address=info.address,
            sender=info.sender if info.code <= 0 else None,
            registers=registers,
            handled=handled,
            space=space,
            resolver=self._resolver(pid, vmas),
            read=lambda address, size: self._read(stop.tid, address, size),
            stack_limit=self._stack_limit(pid, stop.tid, space, registers),
            size_of_file=lambda vma: self._size_of(pid, vma),
        )
        group = explain_crash(scene)
        earlier.append(group)
        self._order.append(group)

    def _settle(self, earlier: list[FaultGroup], group: FaultGroup) -> None:
        """A handler has run, and the program ends by the same fault all the same."""
        settled = with_end(group, fatal=True)
        earlier[earlier.index(group)] = settled
        self._order[self._order.index(group)] = settled

    def _space(self, pid: int, vmas: Sequence[Vma]) -> AddressSpace:
        from leakline.analysis.address_space import AddressSpace

        space = AddressSpace() if self._collector is None else self._collector.space_of(pid)
        space.replace(vmas)
        return space

    def _resolver(self, pid: int, vmas: Sequence[Vma]) -> Resolver:
        if self._collector is not None:
            return self._collector.resolver_over(pid, vmas)
        return Resolver(vmas, opener(self._procfs, pid), root_folder(self._procfs, pid))

    def _stack_limit(self, pid: int, tid: int, space: AddressSpace, registers: dict[str, int]) -> int | None:
        if tid == pid:
            return self._procfs.stack_limit(pid)
        sp = registers.get("rsp", 0)
        vma = next((v for v in space.vmas if v.end > sp and v.perms[1] == "w"), None)
        return None if vma is None else vma.size

    def _read(self, tid: int, address: int, size: int) -> bytes:
        with suppress(OSError, OverflowError):
            memory = os.open(self._procfs.root / str(tid) / "mem", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(memory, size, address)
            finally:
                os.close(memory)
        return b""

    def _size_of(self, pid: int, vma: Vma) -> int | None:
        for path in (opener(self._procfs, pid)(vma), os.fsencode(f"{self._procfs.root}/{pid}/map_files/{vma.start:x}-{vma.end:x}")):
            if path is not None:
                with suppress(OSError):
                    return os.stat(path).st_size
        return None

    def _report(self, pid: int, name: str, status: int, began_ns: int) -> FaultReport:
        target = self._target or Target(pid=pid, command=readable(os.path.basename(name)), executable=None)
        before, after = self._began, self._ended
        counts = FaultCounts(minor=None, major=None)
        if before is not None and after is not None:
            counts = FaultCounts(minor=after[0] - before[0], major=after[1] - before[1])
        if self._collector is None or self._events is None:
            report = counters_only(target, counts, self._settings, began_ns, self._why_not)
            return msgspec.structs.replace(report, faults=tuple(self._order), status=status)
        return build_fault_report(
            self._collector,
            self._events,
            target,
            counts,
            self._settings,
            began_ns=began_ns,
            crashes=self._order,
            status=status,
            stopped_ns=self._stopped_ns,
        )


def _is_the_same(group: FaultGroup, info: SignalInfo, registers: dict[str, int], pid: int) -> bool:
    """The instruction that is run again when a handler has returned, or the signal that a handler sends to its own process."""
    if group.crash is None or not group.crash.handled:
        return False
    sent_by_itself = info.code <= 0 and info.sender == pid
    return sent_by_itself or (info.address == group.address and registers.get("rip") == group.crash.instruction_address)


@contextmanager
def _woken_by_children() -> Iterator[socket.socket]:
    """A socket that can be read when a child has stopped or ended."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        before = signal.signal(signal.SIGCHLD, lambda *_: None)
        old = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(old)
            signal.signal(signal.SIGCHLD, before)
