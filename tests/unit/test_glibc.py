from __future__ import annotations

import mmap
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import NotSupported
from leakline.model.vma import Vma
from leakline.native.heap import MemoryCopy
from leakline.sources.allocators.glibc import GlibcVersion, Moment, find_arenas, parse_version

ARENA, HEAP = 0x7F0000001000, 0x555500000000


@pytest.mark.parametrize(
    ("version", "chunk", "bins", "entries"),
    [
        ((2, 28), 0x250, 64, 64),
        ((2, 31), 0x290, 64, 128),
        ((2, 41), 0x290, 64, 128),
        ((2, 42), 0x300, 76, 152),
        ((2, 43), 0x300, 76, 152),
    ],
)
def test_the_tcache_of_each_release(version: tuple[int, int], chunk: int, bins: int, entries: int) -> None:
    layout = GlibcVersion(*version).tcache
    assert (layout.chunk_size, layout.bins, layout.entries_offset) == (chunk, bins, entries)


def test_an_arena_has_no_fastbins_since_2_43() -> None:
    before, since = GlibcVersion(2, 42).arena, GlibcVersion(2, 43).arena
    assert (before.fastbin_count, before.top, before.bins, before.next, before.size) == (10, 0x60, 0x70, 0x870, 0x898)
    assert (since.fastbin_count, since.top, since.bins, since.next, since.size) == (0, 8, 0x18, 0x818, 0x840)


def test_links_are_mangled_since_2_32() -> None:
    assert [GlibcVersion(2, minor).mangles_links for minor in (31, 32)] == [False, True]


def reported(version: GlibcVersion, *, broken_bins: int, mutex: int, top_size: int, moment: Moment) -> list[str]:
    """What is said of a main arena whose top chunk is followed by a page of [heap] that begins with it."""
    layout = version.arena
    words = [0] * (layout.size // 8)
    words[0], words[layout.top // 8], words[layout.next // 8], words[layout.system_mem // 8] = mutex, HEAP, ARENA, 4096
    for index in range(126):
        place = layout.bins // 8 + 2 * index
        words[place : place + 2] = [ARENA + layout.bins + 16 * index - 16] * 2
        if index < broken_bins:
            words[place] = HEAP  # linked to a chunk that does not point back yet
    buffer = mmap.mmap(-1, 8192)
    buffer[: layout.size] = struct.pack(f"<{len(words)}Q", *words)
    buffer[4096:4112] = struct.pack("<2Q", 0, top_size | 1)
    copy = MemoryCopy(buffer, [(ARENA, ARENA + 4096), (HEAP, HEAP + 4096)])
    vmas = [
        Vma(HEAP, HEAP + 4096, "rw-p", 0, (0, 0), 0, "[heap]"),
        Vma(ARENA, ARENA + 4096, "rw-p", 0, (8, 1), 7, "/lib/libc.so.6"),
    ]
    arenas, problems = find_arenas(copy, layout, ARENA, vmas, moment=moment)
    assert len(arenas) == 1
    assert problems or arenas[0].top_size == 4096
    return problems


@pytest.mark.parametrize("version", [GlibcVersion(2, 36), GlibcVersion(2, 43)])
@pytest.mark.parametrize(
    ("broken_bins", "mutex", "top_size", "moment", "problems"),
    [
        (0, 0, 4096, "at rest", 0),
        (1, 0, 4096, "at rest", 1),
        (1, 1, 4096, "at rest", 0),  # a thread holds the arena's lock
        (1, 2, 4096, "at rest", 0),
        (1, 0, 4096, "at work", 0),
        (2, 1, 4096, "at work", 1),
        (9, 0, 4096, "running", 0),
        (0, 0, 16, "running", 0),
        (0, 0, 8192, "at rest", 1),
        (0, 1, 8192, "at rest", 0),  # the break was moved, and the top chunk's size is set afterwards
        (0, 0, 8192, "at work", 0),
        (0, 0, 0, "at rest", 1),
    ],
)
def test_a_thread_amid_malloc_is_no_damage(
    version: GlibcVersion, broken_bins: int, mutex: int, top_size: int, moment: Moment, problems: int
) -> None:
    assert len(reported(version, broken_bins=broken_bins, mutex=mutex, top_size=top_size, moment=moment)) == problems


@pytest.mark.parametrize(
    "text",
    [
        b"GNU C Library (Debian GLIBC 2.36-9+deb12u14) stable release version 2.36.\n",
        b"GNU C Library (Ubuntu GLIBC 2.35-0ubuntu3.4) stable release version 2.35.\n",
        b"GNU C Library (GNU libc) stable release version 2.38.",
    ],
)
def test_a_libc_names_its_release(text: bytes) -> None:
    assert str(parse_version(b"\0\0" + text + b"\0")) in ("2.36", "2.35", "2.38")


@pytest.mark.parametrize("data", [b"", b"musl libc", b"GNU C Library stable release version 2.17.", b"GNU C Library x version 3.1"])
def test_what_is_unknown_is_refused_not_guessed(data: bytes) -> None:
    with pytest.raises(NotSupported):
        parse_version(data)


@given(st.binary(max_size=200))
def test_hostile_bytes(data: bytes) -> None:
    with pytest.raises(NotSupported):
        parse_version(data)
