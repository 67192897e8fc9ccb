"""Core files, whole and damaged."""

from __future__ import annotations

import io
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import ParseError
from leakline.formats.core import CoreMapping, CoreThread, Note, build_id, notes_of, parse_core, write_core

THREADS = [CoreThread(tid=7, registers=tuple(range(27)), xsave=b"x" * 832), CoreThread(tid=9, registers=(1,) * 27, xsave=b"")]
MAPPINGS = [CoreMapping(start=0x400000, end=0x402000, offset=4096, path=b"/usr/bin/a b")]


def core(segments: list[tuple[int, int, memoryview]] | None = None, extra: tuple[Note, ...] = ()) -> bytes:
    stream = io.BytesIO()
    notes = notes_of(7, b"worker", THREADS, struct.pack("<4Q", 25, 0x7FFC00000010, 0, 0), MAPPINGS)
    write_core(stream, [*notes, *extra], [(0x400000, 6, memoryview(b"a" * 8192))] if segments is None else segments)
    return stream.getvalue()


def test_what_is_written_is_read() -> None:
    note = Note(owner=b"leakline", type=1, data=b"odd")
    found = parse_core(core(extra=(note,)), "core")
    assert list(found.threads) == THREADS
    assert list(found.mappings) == MAPPINGS
    assert found.auxiliary[25] == 0x7FFC00000010
    assert (found.pid, found.command) == (7, b"worker")
    assert found.note(b"leakline", 1) == b"odd"
    (segment,) = found.segments
    assert (segment.start, segment.end, segment.size, segment.missing, segment.flags) == (0x400000, 0x402000, 8192, 0, 6)
    assert core()[segment.offset : segment.offset + 8192] == b"a" * 8192


def test_more_segments_than_the_header_can_count() -> None:
    pages = memoryview(b"p")
    found = parse_core(core([(index * 4096, 4, pages) for index in range(1, 70_000)]), "core")
    assert len(found.segments) == 69_999
    assert found.pid == 7


def test_a_file_that_is_cut_short() -> None:
    data = core()
    (segment,) = parse_core(data[:-5000], "core").segments
    assert (segment.size, segment.missing) == (3192, 5000)
    with pytest.raises(ParseError, match=r"cut short|damaged|without a thread"):
        parse_core(data[:100], "core")


def test_segments_that_overlap() -> None:
    page = memoryview(bytes(4096))
    with pytest.raises(ParseError, match="overlap"):
        parse_core(core([(0x1000, 4, page), (0x1800, 4, page)]), "core")


def test_a_build_id_in_the_first_page() -> None:
    with open("/bin/sh", "rb") as file:
        page = file.read(4096)
    assert len(build_id(page) or "") == 40
    assert build_id(b"\x7fELF") is None
    assert build_id(b"") is None


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=6), st.integers(0, 20_000))
def test_damage_is_told_or_harmless(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(core())
    for at, value in changes:
        data[at] = value
    with suppress(ParseError):
        found = parse_core(bytes(data[:length]), "core")
        assert all(segment.offset + segment.size <= len(data[:length]) for segment in found.segments if segment.size)


@given(st.binary(max_size=500))
def test_hostile_bytes(data: bytes) -> None:
    with suppress(ParseError):
        parse_core(b"\x7fELF\x02\x01\x01" + data, "core")
    build_id(b"\x7fELF\x02\x01\x01" + data)
