"""What perf_event_open(2) writes into its buffers: samples of page faults, and what became of mappings and processes.

Source: include/uapi/linux/perf_event.h of Linux 6.12. Fields that are not asked for are not there: see `FAULT_SAMPLE`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from leakline.errors import ParseError

RECORD_LOST, RECORD_COMM, RECORD_EXIT, RECORD_FORK, RECORD_SAMPLE, RECORD_MMAP2 = 2, 3, 4, 7, 9, 10
_KERNEL_MODE, _MODE_MASK, _COMM_EXEC = 1, 7, 1 << 13
SAMPLE_IP, SAMPLE_TID, SAMPLE_TIME, SAMPLE_ADDR, SAMPLE_CALLCHAIN, SAMPLE_RAW = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 10
SAMPLE_REGISTERS, SAMPLE_STACK, SAMPLE_IDENTIFIER = 1 << 12, 1 << 13, 1 << 16
FAULT_SAMPLE = SAMPLE_IDENTIFIER | SAMPLE_IP | SAMPLE_TID | SAMPLE_TIME | SAMPLE_ADDR
"""A sample of a fault; with SAMPLE_CALLCHAIN, SAMPLE_REGISTERS and SAMPLE_STACK too where stacks are wanted."""
CODE_SAMPLE = SAMPLE_IDENTIFIER | SAMPLE_TID | SAMPLE_TIME | SAMPLE_RAW
"""A sample of a tracepoint `exceptions:page_fault_*`."""
# perf_regs.h of x86: SI 4, DI 5, BP 6, SP 7, IP 8.
REGISTERS_MASK = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8
_CALLCHAIN_MARKS = (1 << 64) - 4096  # PERF_CONTEXT_USER and its like
_HEADER = struct.Struct("<IHH")
_FAULT = struct.Struct("<QQIIQQ")
_CODE = struct.Struct("<QIIQI")
_CODE_FIELDS = struct.Struct("<QQQ")
_TRAILER = struct.Struct("<IIQQ")
_MMAP2 = struct.Struct("<IIQQQIIQQII")
_TASK = struct.Struct("<IIIIQ")
_REGISTERS = struct.Struct("<5Q")
_WORD = struct.Struct("<Q")
_SHARED = 1  # MAP_SHARED


class Stack(NamedTuple):
    """Registers and the top of the stack of a thread that made a fault."""

    source_index: int
    """rsi, where string instructions read."""
    destination_index: int
    """rdi, where they write."""
    frame_pointer: int
    stack_pointer: int
    instruction_pointer: int
    memory: bytes
    """From the stack pointer up."""


class FaultSample(NamedTuple):
    """A page fault that was served."""

    time_ns: int
    pid: int
    tid: int
    identifier: int
    """Of the event: minor or major."""
    address: int
    instruction: int
    in_kernel: bool
    """The kernel touched the page for the process, as read(2) does."""
    stack: Stack | None
    callchain: tuple[int, ...]
    """By frame pointers, innermost first."""


class CodeSample(NamedTuple):
    """A page fault as the processor told it."""

    time_ns: int
    pid: int
    tid: int
    address: int
    code: int
    """Error code: 1 the page was present, 2 a write, 16 an instruction fetch (Intel SDM 3A, 4.7)."""


class Mapped(NamedTuple):
    """A mapping that is new, or has new bounds or permissions."""

    time_ns: int
    pid: int
    start: int
    end: int
    perms: str
    offset: int
    device: tuple[int, int]
    inode: int
    path: bytes


class Forked(NamedTuple):
    """A new thread or process."""

    time_ns: int
    pid: int
    parent: int
    tid: int
    parent_tid: int


class Ended(NamedTuple):
    """A thread that has ended."""

    time_ns: int
    pid: int
    tid: int


class Renamed(NamedTuple):
    """A thread with a new name; `is_exec` where it began another program."""

    time_ns: int
    pid: int
    tid: int
    name: bytes
    is_exec: bool


class Lost(NamedTuple):
    """Records that got no place in the buffer."""

    time_ns: int
    records: int


Record = FaultSample | CodeSample | Mapped | Forked | Ended | Renamed | Lost


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What the events of a buffer write."""

    codes: frozenset[int] = frozenset()
    """Identifiers of tracepoints."""
    stacks: bool = False
    """Faults come with callchain, registers and stack."""


def parse_records(data: bytes, layout: Layout) -> Iterator[Record]:
    """The records in a piece of a buffer.

    Raises:
        ParseError: they are damaged.

    """
    at, end = 0, len(data)
    unpack = _HEADER.unpack_from
    while at < end:
        try:
            kind, misc, size = unpack(data, at)
            if size < 8 or at + size > end:
                raise ParseError("a perf record of an impossible size")
            if kind == RECORD_SAMPLE:
                yield _sample(data, at + 8, at + size, misc, layout)
            else:
                record = _other(kind, misc, data[at + 8 : at + size])
                if record is not None:
                    yield record
        except (struct.error, IndexError) as error:
            raise ParseError(f"a damaged perf record: {error}") from error
        at += size


def _sample(data: bytes, at: int, end: int, misc: int, layout: Layout) -> Record:
    identifier = _WORD.unpack_from(data, at)[0]
    if identifier in layout.codes:
        _, pid, tid, time_ns, _ = _CODE.unpack_from(data, at)
        address, _, code = _CODE_FIELDS.unpack_from(data, at + _CODE.size + 8)  # behind the common fields of tracepoints
        return CodeSample(time_ns, pid, tid, address, code)
    identifier, instruction, pid, tid, time_ns, address = _FAULT.unpack_from(data, at)
    stack: Stack | None = None
    chain: tuple[int, ...] = ()
    if layout.stacks:
        at += _FAULT.size
        depth = _WORD.unpack_from(data, at)[0]
        if depth > (end - at) // 8:
            raise ParseError("a perf sample with an impossible callchain")
        chain = tuple(a for a in struct.unpack_from(f"<{depth}Q", data, at + 8) if a < _CALLCHAIN_MARKS)
        at += 8 + 8 * depth
        stack = _stack(data, at, end)
    in_kernel = misc & _MODE_MASK == _KERNEL_MODE
    return FaultSample(time_ns, pid, tid, identifier, address, instruction, in_kernel, stack, chain)


def _stack(data: bytes, at: int, end: int) -> Stack | None:
    abi = _WORD.unpack_from(data, at)[0]
    if not abi:  # no user registers
        return None
    registers = _REGISTERS.unpack_from(data, at + 8)
    at += 8 + _REGISTERS.size
    size = _WORD.unpack_from(data, at)[0]
    if size > end - at:
        raise ParseError("a perf sample with an impossible stack")
    # The kernel tells behind the copy how much of it is real.
    real = min(_WORD.unpack_from(data, at + 8 + size)[0], size) if size else 0
    si, di, bp, sp, ip = registers
    return Stack(si, di, bp, sp, ip, data[at + 8 : at + 8 + real])


def _other(kind: int, misc: int, body: bytes) -> Record | None:
    if len(body) < _TRAILER.size:
        raise ParseError("a perf record that is too short")
    # sample_id_all: tid, time and identifier stand behind every record.
    pid, tid, time_ns, _ = _TRAILER.unpack_from(body, len(body) - _TRAILER.size)
    fields = body[: len(body) - _TRAILER.size]
    if kind == RECORD_LOST:
        return Lost(time_ns, struct.unpack_from("<QQ", fields)[1])
    if kind == RECORD_COMM:
        pid, tid = struct.unpack_from("<II", fields)
        return Renamed(time_ns, pid, tid, fields[8:].partition(b"\0")[0], bool(misc & _COMM_EXEC))
    if kind in (RECORD_FORK, RECORD_EXIT):
        pid, parent, tid, parent_tid, when = _TASK.unpack_from(fields)
        return Forked(when, pid, parent, tid, parent_tid) if kind == RECORD_FORK else Ended(when, pid, tid)
    if kind == RECORD_MMAP2:
        pid, tid, start, size, page, major, minor, inode, _, protection, flags = _MMAP2.unpack_from(fields)
        perms = "".join(letter if protection & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4)))
        perms += "s" if flags & _SHARED else "p"
        path = fields[_MMAP2.size :].partition(b"\0")[0]
        return Mapped(time_ns, pid, start, start + size, perms, page, (major, minor), inode, path)
    return None


def ordered(records: Sequence[Record]) -> list[Record]:
    """By time: each CPU has a buffer of its own."""
    return sorted(records, key=lambda record: record.time_ns)
