"""Hardware breakpoints by perf_event_open(2): what a process has in its registers when it comes to an address.

No privilege is needed for one's own processes (up to kernel.perf_event_paranoid 2), nothing is written into the target's code,
and the kernel takes them out when we die. x86 has four of them.
"""

from __future__ import annotations

import errno
import os
import platform
import struct
from typing import TYPE_CHECKING, Self

import msgspec

from leakline.errors import NotPossible, PermissionNeeded, TargetGone
from leakline.sources.perf_events import ATTRIBUTES_SIZE, PerfEvents, online_cpus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.sources.perf_ring import PerfRing

MOST_BREAKPOINTS = 4
_TYPE_BREAKPOINT, _EXECUTE = 5, 4
_SAMPLE_IP, _SAMPLE_TID, _SAMPLE_TIME, _SAMPLE_CALLCHAIN, _SAMPLE_REGS, _SAMPLE_STACK = (
    1,
    2,
    4,
    1 << 5,
    1 << 12,
    1 << 13,
)
# perf_regs.h of x86: AX 0, DX 3, SI 4, DI 5, BP 6, SP 7.
_REGISTERS = (0, 3, 4, 5, 6, 7)
_DISABLED, _INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HV, _EXCLUDE_CALLCHAIN_KERNEL = 1, 1 << 1, 1 << 5, 1 << 6, 1 << 21
_USE_CLOCKID = 1 << 25
_CLOCK_MONOTONIC = 1
_RECORD_LOST, _RECORD_SAMPLE = 2, 9
_RING_PAGES = 64
_CALLCHAIN_MARKS = 1 << 63  # PERF_CONTEXT_USER and its like are huge


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A thread came to a breakpoint."""

    address: int
    tid: int
    time_ns: int
    result: int
    """rax."""
    arguments: tuple[int, int, int]
    """rdi, rsi, rdx."""
    stack_pointer: int
    frame_pointer: int
    stack: tuple[int, ...]
    """Words from the stack pointer up: at a function's first instruction, the first is its caller. Fewer near the stack's end."""
    callchain: tuple[int, ...]
    """Instruction pointers by frame pointers, innermost first."""


def _attributes(address: int, stack_words: int) -> bytes:
    registers = sum(1 << r for r in _REGISTERS)
    sample = _SAMPLE_IP | _SAMPLE_TID | _SAMPLE_TIME | _SAMPLE_CALLCHAIN | _SAMPLE_REGS | _SAMPLE_STACK
    flags = _DISABLED | _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HV | _EXCLUDE_CALLCHAIN_KERNEL | _USE_CLOCKID
    head = struct.pack("<IIQQQQQIIQQ", _TYPE_BREAKPOINT, ATTRIBUTES_SIZE, 0, 1, sample, 0, flags, 1, _EXECUTE, address, 8)
    return head + struct.pack("<QQIiQIHH", 0, registers, 8 * stack_words, _CLOCK_MONOTONIC, 0, 0, 0, 0)


class Breakpoints:
    """Up to four execution breakpoints on all threads of a process. Use as a context manager."""

    def __init__(self, pid: int, threads: Sequence[int], addresses: Sequence[int], stack_words: int = 2) -> None:
        if platform.machine() != "x86_64":
            raise NotPossible("hardware breakpoints are read on x86-64 only")
        self._pid = pid
        self._stack_words = stack_words
        self._events = PerfEvents()
        self._rings: list[PerfRing] = []
        self.lost = 0
        try:
            for cpu in sorted(os.sched_getaffinity(0) | set(online_cpus())):
                self._open_on(cpu, threads, addresses)
            self._events.enable()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the breakpoints out."""
        self._rings.clear()
        self._events.close()

    def _open_on(self, cpu: int, threads: Sequence[int], addresses: Sequence[int]) -> None:
        first: int | None = None
        for tid in threads:
            for address in addresses[:MOST_BREAKPOINTS]:
                fd = self._open(address, tid, cpu)
                if fd is None:
                    continue  # that thread has ended
                if first is not None:
                    self._events.share_ring(fd, first)
                    continue
                first = fd
                try:
                    self._rings.append(self._events.make_ring(fd, _RING_PAGES))
                except OSError as error:
                    hint = "Raise kernel.perf_event_mlock_kb, or run as root."
                    raise PermissionNeeded("perf buffers are not allowed here", hint=hint) from error

    def _open(self, address: int, tid: int, cpu: int) -> int | None:
        try:
            return self._events.open(_attributes(address, self._stack_words), tid, cpu)
        except OSError as error:
            if error.errno == errno.ESRCH:
                return None
            if error.errno in (errno.EPERM, errno.EACCES):
                hint = "sudo sysctl kernel.perf_event_paranoid=2, or CAP_PERFMON, or run as root."
                raise PermissionNeeded(f"perf_event_open is not allowed on process {self._pid}", hint=hint) from error
            if error.errno == errno.ENOSPC:
                raise NotPossible("the hardware breakpoints are taken", hint="A debugger uses them; end it.") from error
            raise NotPossible(f"hardware breakpoints do not work here: {error.strerror}") from error

    def hits(self) -> list[Hit]:
        """What has been met since the last call, in order of time.

        Raises:
            TargetGone: no thread is left to watch.

        """
        if not self._rings:
            raise TargetGone(f"process {self._pid} is gone")
        found = []
        for ring in self._rings:
            for kind, body in ring.records():
                if kind == _RECORD_SAMPLE:
                    found.append(parse_sample(body))
                elif kind == _RECORD_LOST:
                    self.lost += struct.unpack_from("<QQ", body)[1]
        return sorted(found, key=lambda hit: hit.time_ns)


def parse_sample(body: bytes) -> Hit:
    """A PERF_RECORD_SAMPLE of the form that `_attributes` asks for."""
    ip, _pid, tid, time_ns, depth = struct.unpack_from("<QIIQQ", body)
    at = 32
    chain = struct.unpack_from(f"<{depth}Q", body, at)
    at += 8 * depth
    registers = (0,) * len(_REGISTERS)
    if struct.unpack_from("<Q", body, at)[0]:
        registers = struct.unpack_from(f"<{len(_REGISTERS)}Q", body, at + 8)
        at += 8 * len(_REGISTERS)
    at += 8
    copied = struct.unpack_from("<Q", body, at)[0]
    # The kernel tells behind the copy how much of it is real.
    real = min(struct.unpack_from("<Q", body, at + 8 + copied)[0], copied) if copied else 0
    stack = struct.unpack_from(f"<{real // 8}Q", body, at + 8)
    ax, dx, si, di, bp, sp = registers
    return Hit(
        address=ip,
        tid=tid,
        time_ns=time_ns,
        result=ax,
        arguments=(di, si, dx),
        stack_pointer=sp,
        frame_pointer=bp,
        stack=stack,
        callchain=tuple(address for address in chain if address < _CALLCHAIN_MARKS),
    )
