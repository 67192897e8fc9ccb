from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import ParseError
from leakline.formats.perf_records import (
    CodeSample,
    FaultSample,
    Forked,
    Layout,
    Lost,
    Mapped,
    Renamed,
    ordered,
    parse_records,
)

FAULT, CODE = 7, 8
WITH_STACKS = Layout(codes=frozenset([CODE]), stacks=True)
WITHOUT = Layout(codes=frozenset([CODE]))


def record(kind: int, body: bytes, misc: int = 2) -> bytes:
    return struct.pack("<IHH", kind, misc, 8 + len(body)) + body


def trailer(time: int, pid: int = 10, tid: int = 11) -> bytes:
    return struct.pack("<IIQQ", pid, tid, time, FAULT)


def fault(time: int, address: int, *, stack: bytes | None = None, misc: int = 2) -> bytes:
    body = struct.pack("<QQIIQQ", FAULT, 0x401000, 10, 11, time, address)
    if stack is not None:
        body += struct.pack("<Q2Q", 2, (1 << 64) - 512, 0x401000)
        body += struct.pack("<Q5Q", 2, 1, 2, 3, 0x7FFE0000, 0x401000)
        body += struct.pack("<Q", len(stack)) + stack + struct.pack("<Q", len(stack) - 8)
    return record(9, body, misc)


def test_faults_with_and_without_stacks() -> None:
    (plain,) = parse_records(fault(5, 0xABC), WITHOUT)
    assert isinstance(plain, FaultSample)
    assert (plain.time_ns, plain.pid, plain.tid, plain.address, plain.stack) == (5, 10, 11, 0xABC, None)
    assert not plain.in_kernel
    (whole,) = parse_records(fault(5, 0xABC, stack=bytes(range(32)), misc=1), WITH_STACKS)
    assert isinstance(whole, FaultSample)
    assert whole.in_kernel
    assert whole.callchain == (0x401000,)
    assert whole.stack is not None
    assert (whole.stack.frame_pointer, whole.stack.stack_pointer) == (3, 0x7FFE0000)
    assert whole.stack.memory == bytes(range(24)), "of 32 bytes asked for, 24 were there"


def test_codes_mappings_and_processes() -> None:
    raw = struct.pack("<QQQQ", 0, 0xABC, 0x401000, 6)
    code = record(9, struct.pack("<QIIQI", CODE, 10, 11, 4, len(raw)) + raw)
    mapped = struct.pack("<IIQQQIIQQII", 10, 11, 0x7000, 0x2000, 0x3000, 8, 1, 99, 0, 5, 2) + b"/lib/x.so\0\0\0\0\0\0\0"
    forked = struct.pack("<IIIIQ", 20, 10, 20, 11, 9)
    data = (
        code + record(10, mapped + trailer(6)) + record(7, forked + trailer(9)) + record(2, struct.pack("<QQ", 1, 42) + trailer(8))
    )
    data += record(3, struct.pack("<II", 10, 11) + b"name\0\0\0\0" + trailer(7), misc=1 << 13)
    found = ordered(list(parse_records(data, WITHOUT)))
    assert found == [
        CodeSample(4, 10, 11, 0xABC, 6),
        Mapped(6, 10, 0x7000, 0x9000, "r-xp", 0x3000, (8, 1), 99, b"/lib/x.so"),
        Renamed(7, 10, 11, b"name", True),
        Lost(8, 42),
        Forked(9, 20, 10, 20, 11),
    ]


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_records_or_refused(data: bytes, stacks: bool) -> None:
    try:
        list(parse_records(data, WITH_STACKS if stacks else WITHOUT))
    except ParseError:
        return


@given(st.data())
def test_a_damaged_record_is_one_or_refused(data: st.DataObject) -> None:
    whole = fault(5, 0xABC, stack=bytes(64))
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    try:
        for found in parse_records(damaged, WITH_STACKS):
            assert not isinstance(found, FaultSample) or found.stack is None or len(found.stack.memory) <= 64
    except ParseError:
        return


def test_a_size_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(ParseError):
        list(parse_records(struct.pack("<IHH", 9, 2, 0), WITHOUT))
