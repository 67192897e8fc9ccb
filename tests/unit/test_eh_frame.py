from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import ParseError
from leakline.formats.eh_frame import RBP, RSP, FrameRule, FrameTable
from leakline.model.trace import StackTop
from leakline.symbols.unwinding import joined, unwind

CODE = 0x5000


def module(program: bytes, *, first: bytes = b"\x0c\x07\x08\x90\x01") -> tuple[bytes, int, bytes, int]:
    """An .eh_frame with one function of 0x100 bytes, and its index."""
    cie_body = struct.pack("<IB", 0, 1) + b"zR\0" + b"\x01\x78\x10" + b"\x01\x1b" + first
    cie = struct.pack("<I", len(cie_body)) + cie_body
    frame_at = 0x2000
    fde_at = frame_at + len(cie)
    fde_body = struct.pack("<I", len(cie) + 4) + struct.pack("<iI", CODE - (fde_at + 8), 0x100) + b"\0" + program
    fde = struct.pack("<I", len(fde_body)) + fde_body
    header_at = 0x1000
    header = bytes([1, 0x1B, 3, 0x3B]) + struct.pack("<iI", frame_at - header_at - 4, 1)
    header += struct.pack("<ii", CODE - header_at, fde_at - header_at)
    return header, header_at, cie + fde, frame_at


def table(program: bytes) -> FrameTable:
    header, header_at, frames, frame_at = module(program)
    return FrameTable(header, header_at, lambda a, n: frames[a - frame_at : a - frame_at + n] if a >= frame_at else b"")


def test_a_function_that_pushes_rbp_and_makes_a_frame() -> None:
    # push rbp (1 byte): CFA 16, rbp at -16; mov rsp, rbp (3 bytes): CFA by rbp
    frames = table(b"\x41\x0e\x10\x86\x02\x43\x0d\x06")
    assert frames.rule(CODE) == FrameRule(register=RSP, offset=8, rbp_offset=None)
    assert frames.rule(CODE + 1) == FrameRule(register=RSP, offset=16, rbp_offset=-16)
    assert frames.rule(CODE + 4) == FrameRule(register=RBP, offset=16, rbp_offset=-16)
    assert frames.rule(CODE + 0x100) is None
    assert frames.rule(CODE - 1) is None


def test_an_expression_is_not_guessed_at() -> None:
    assert table(b"\x0f\x02\x77\x08").rule(CODE) is None


def test_a_state_is_remembered_and_restored() -> None:
    frames = table(b"\x0a\x41\x0e\x20\x41\x0b")
    assert [r.offset if (r := frames.rule(CODE + i)) else None for i in range(3)] == [8, 32, 8]


@given(st.binary(max_size=60))
def test_hostile_programs_neither_crash_nor_hang(program: bytes) -> None:
    frames = table(program)
    for pc in (CODE, CODE + 7, CODE + 255):
        rule = frames.rule(pc)
        assert rule is None or rule.register in (RSP, RBP)


@given(st.binary(max_size=80))
def test_hostile_tables_are_refused_or_empty(header: bytes) -> None:
    try:
        frames = FrameTable(header, 0x1000, lambda _a, n: header[:n])
    except ParseError:
        return
    assert frames.rule(CODE) is None or header


def rule(address: int) -> FrameRule | None:
    return {
        0x100: FrameRule(register=RSP, offset=24, rbp_offset=-16),
        0x200: FrameRule(register=RBP, offset=16, rbp_offset=-16),
    }.get(address & ~0xF)


def test_a_walk_through_a_library_and_a_frame_with_rbp() -> None:
    words = (0x101, 7, 0x7040, 0x201, 5, 5, 5, 5, 0x7090, 0x301)
    #        ret    a  rbp     ret                rbp     ret
    top = StackTop(stack_pointer=0x7000, frame_pointer=0xDEAD, words=words)
    assert unwind(top, rule) == (0x101, 0x201, 0x301)


def test_a_walk_ends_where_the_copy_does() -> None:
    top = StackTop(stack_pointer=0x7000, frame_pointer=0, words=(0x101, 7, 0x7040))
    assert unwind(top, rule) == (0x101,)
    assert unwind(StackTop(stack_pointer=0x7000, frame_pointer=0, words=()), rule) == ()


def test_frame_pointers_go_on_where_the_exact_walk_ended() -> None:
    assert joined((1, 2), (1, 2, 3, 4)) == (1, 2, 3, 4)
    assert joined((1, 2), (2, 3)) == (1, 2, 3)
    assert joined((1, 2), (1, 9)) == (1, 2)
    assert joined((), (1, 9)) == (1, 9)


@given(st.binary(max_size=200))
def test_a_hostile_section_has_no_rules_or_some(section: bytes) -> None:
    frames = FrameTable.without_index(section, 0x1000, lambda a, n: section[max(a - 0x1000, 0) :][:n])
    for pc in (CODE, 0x1000, 0):
        rule = frames.rule(pc)
        assert rule is None or rule.register in (RSP, RBP)
