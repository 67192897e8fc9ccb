"""The page faults of a process and of its children, by perf_event_open(2).

No privilege is needed for one's own processes (up to kernel.perf_event_paranoid 2), save for what the kernel touches for them.
The error code, which tells reads from writes and whether the page was there, comes from a tracepoint, which is root's.
"""

from __future__ import annotations

import errno
import os
import platform
import resource
import select
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from leakline.errors import NotPossible, PermissionNeeded, TargetGone
from leakline.formats.perf_records import (
    CODE_SAMPLE,
    FAULT_SAMPLE,
    REGISTERS_MASK,
    SAMPLE_CALLCHAIN,
    SAMPLE_REGISTERS,
    SAMPLE_STACK,
    Layout,
    Lost,
    Record,
    ordered,
    parse_records,
)
from leakline.sources.perf_events import ATTRIBUTES_SIZE, PerfEvents, online_cpus
from leakline.sources.tracepoints import tracepoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from leakline.sources.perf_ring import PerfRing

_SOFTWARE, _TRACEPOINT = 1, 2
_MINOR, _MAJOR = 5, 6  # PERF_COUNT_SW_PAGE_FAULTS_MIN, _MAJ
_DISABLED, _INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HV, _MMAP, _COMM = 1, 1 << 1, 1 << 5, 1 << 6, 1 << 8, 1 << 9
_ENABLE_ON_EXEC, _TASK, _WATERMARK, _MMAP_DATA, _SAMPLE_ID_ALL = 1 << 12, 1 << 13, 1 << 14, 1 << 17, 1 << 18
_EXCLUDE_CALLCHAIN_KERNEL, _MMAP2, _COMM_EXEC, _USE_CLOCKID = 1 << 21, 1 << 23, 1 << 24, 1 << 25
_CLOCK_MONOTONIC = 1
_PRIVILEGED_PAGES, _MOST_PAGES, _LEAST_PAGES = 16384, 8192, 8
_CODE_FIELDS = {"address": 8, "error_code": 24}
_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")


class FaultOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to record of each fault."""

    stack_bytes: int = 1024
    """How much of the stack to copy; 0 for no stacks at all."""
    every: int = 1
    """Only every so manieth fault becomes a sample."""
    on_exec: bool = False
    """Begin when the process begins another program."""


class FaultEvents:
    """Records page faults of all threads of a process, and of those that come after them. Use as a context manager.

    Args:
        pid: the process.
        list_threads: tells its threads.
        options: what to record.

    Raises:
        PermissionNeeded: kernel.perf_event_paranoid does not allow it, or the process is another's.
        TargetGone: it has ended.
        NotPossible: this machine has no such events.

    """

    def __init__(self, pid: int, list_threads: Callable[[], list[int]], options: FaultOptions) -> None:
        if platform.machine() != "x86_64":
            raise NotPossible("page faults are read on x86-64 only")
        self._pid = pid
        self._options = options
        self._events = PerfEvents()
        self._counters: dict[int, list[int]] = {_MINOR: [], _MAJOR: []}
        self._rings: dict[int, PerfRing] = {}
        self._leaders: dict[int, int] = {}
        self._major: set[int] = set()
        self._codes: set[int] = set()
        self._later: list[Record] = []
        self._poll = select.poll()
        self.lost = 0
        """Records that got no place."""
        self.sees_kernel = self._may_see_kernel()
        """Whether faults that the kernel makes on the process's behalf are seen."""
        self._tracepoints = self._find_tracepoints()
        _raise_limit()
        try:
            self._open_all(list_threads)
            self.layout = Layout(codes=frozenset(self._codes), stacks=options.stack_bytes > 0)
            if not options.on_exec:
                self._events.enable()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End recording."""
        self._rings.clear()
        self._events.close()
        for fds in self._counters.values():
            fds.clear()

    @property
    def sees_codes(self) -> bool:
        """Whether the processor's error codes are seen."""
        return bool(self._codes)

    def is_major(self, identifier: int) -> bool:
        """Whether an event's samples are major faults."""
        return identifier in self._major

    def totals(self) -> tuple[int, int]:
        """Minor and major faults that were counted, whether they became samples or not."""
        minor, major = (sum(struct.unpack("<Q", os.read(fd, 8))[0] for fd in self._counters[kind]) for kind in (_MINOR, _MAJOR))
        return minor, major

    def wait(self, seconds: float, also: int | None = None) -> None:
        """Wait until a buffer fills up, or for so long; or until the other descriptor can be read."""
        if also is not None:
            self._poll.register(also, select.POLLIN)
        self._poll.poll(max(0.0, seconds) * 1000)

    def records(self) -> list[Record]:
        """What has been recorded since the last call, in order of time."""
        now = time.monotonic_ns()
        found = self._later
        for ring in self._rings.values():
            found += parse_records(ring.take(), self.layout)
        found = ordered(found)
        # What is younger than this look may have elder ones in a buffer that was read before it was written.
        split = len(found)
        while split and found[split - 1].time_ns > now:
            split -= 1
        self._later = found[split:]
        for record in found[:split]:
            if isinstance(record, Lost):
                self.lost += record.records
        return found[:split]

    def _find_tracepoints(self) -> list[int]:
        if not self.sees_kernel or self._options.every > 1:
            return []  # between samples the codes of all other faults would be a waste
        names = "exceptions/page_fault_user", "exceptions/page_fault_kernel"
        return [number for name in names if (number := tracepoint(name, _CODE_FIELDS)) is not None]

    def _open_all(self, list_threads: Callable[[], list[int]]) -> None:
        seen: set[int] = set()
        while new := [tid for tid in list_threads() if tid not in seen]:
            for tid in new:
                for cpu in online_cpus():
                    self._open_on(cpu, tid)
            seen.update(new)
        if not self._rings:
            raise TargetGone(f"process {self._pid} is gone")

    def _open_on(self, cpu: int, tid: int) -> None:
        for kind in (_MINOR, _MAJOR):
            fd = self._open(self._attributes(_SOFTWARE, kind), tid, cpu)
            if fd is None:
                return  # that thread has ended
            self._counters[kind].append(fd)
            self._place(fd, cpu)
            if kind == _MAJOR:
                self._major.add(self._events.identifier(fd))
        for number in self._tracepoints:
            with suppress(PermissionNeeded, NotPossible):
                fd = self._open(self._attributes(_TRACEPOINT, number), tid, cpu)
                if fd is not None:
                    self._place(fd, cpu)
                    self._codes.add(self._events.identifier(fd))

    def _place(self, fd: int, cpu: int) -> None:
        if cpu not in self._rings:
            self._rings[cpu] = self._make_ring(fd)
            self._leaders[cpu] = fd
            self._poll.register(fd, select.POLLIN)
        else:
            self._events.share_ring(fd, self._leaders[cpu])

    def _make_ring(self, fd: int) -> PerfRing:
        """A buffer of as many pages as are allowed."""
        pages = min(_MOST_PAGES, 1 << max(_PRIVILEGED_PAGES // len(online_cpus()), 128).bit_length() - 1)
        while True:
            try:
                return self._events.make_ring(fd, pages)
            except OSError as error:
                if pages == _LEAST_PAGES:
                    hint = "Raise kernel.perf_event_mlock_kb, or run as root."
                    raise PermissionNeeded("perf buffers are not allowed here", hint=hint) from error
                pages //= 2

    def _attributes(self, kind: int, config: int) -> bytes:
        flags = _DISABLED | _INHERIT | _EXCLUDE_HV | _EXCLUDE_CALLCHAIN_KERNEL | _USE_CLOCKID | _WATERMARK | _SAMPLE_ID_ALL
        flags |= _ENABLE_ON_EXEC if self._options.on_exec else 0
        flags |= 0 if self.sees_kernel else _EXCLUDE_KERNEL
        sample, stack, registers, period = FAULT_SAMPLE, 0, 0, self._options.every
        if kind == _TRACEPOINT:
            sample, period = CODE_SAMPLE, 1
        elif self._options.stack_bytes:
            sample |= SAMPLE_CALLCHAIN | SAMPLE_REGISTERS | SAMPLE_STACK
            stack, registers = self._options.stack_bytes, REGISTERS_MASK
        if kind == _SOFTWARE and config == _MINOR:
            flags |= _MMAP | _MMAP2 | _MMAP_DATA | _COMM | _COMM_EXEC | _TASK
        head = struct.pack("<IIQQQQQIIQQ", kind, ATTRIBUTES_SIZE, config, period, sample, 0, flags, 1 << 16, 0, 0, 0)
        return head + struct.pack("<QQIiQIHH", 0, registers, stack, _CLOCK_MONOTONIC, 0, 0, 0, 0)

    def _open(self, attributes: bytes, tid: int, cpu: int) -> int | None:
        try:
            return self._events.open(attributes, tid, cpu)
        except OSError as error:
            if error.errno == errno.ESRCH:
                return None
            if error.errno in (errno.EPERM, errno.EACCES):
                level = _paranoid()
                hint = "sudo sysctl kernel.perf_event_paranoid=2, or CAP_PERFMON, or run as root."
                why = "" if level is None else f" (kernel.perf_event_paranoid is {level})"
                raise PermissionNeeded(f"the page faults of process {self._pid} may not be watched{why}", hint=hint) from error
            if error.errno == errno.EMFILE:
                hint = "Raise `ulimit -n`: each thread takes four descriptors for each CPU."
                raise NotPossible(f"process {self._pid} has more threads than descriptors are left", hint=hint) from error
            raise NotPossible(f"page faults cannot be watched here: {error.strerror}") from error

    def _may_see_kernel(self) -> bool:
        """Whether an event that includes the kernel may be opened: root, CAP_PERFMON, or kernel.perf_event_paranoid below 2."""
        head = struct.pack("<IIQQQQQIIQQ", _SOFTWARE, ATTRIBUTES_SIZE, _MINOR, 0, 0, 0, _DISABLED, 0, 0, 0, 0)
        with PerfEvents() as events:
            try:
                events.open(head, self._pid, -1)
            except OSError:
                return False
        return True


def _paranoid() -> int | None:
    try:
        return int(_PARANOID.read_text())
    except (OSError, ValueError):
        return None


def _raise_limit() -> None:
    """As many descriptors as we may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
