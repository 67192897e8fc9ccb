from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import NotSupported
from leakline.sources.allocators.glibc import GlibcVersion, parse_version


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
