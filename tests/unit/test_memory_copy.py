from __future__ import annotations

import mmap

from leakline.native.heap import MemoryCopy


def test_reads_end_where_the_copy_ends() -> None:
    buffer = mmap.mmap(-1, 8192)
    buffer[0:4] = b"abcd"
    buffer[4096:4100] = b"wxyz"
    copy = MemoryCopy(buffer, [(0x10000, 0x11000), (0x20000, 0x21000)])
    assert copy.read(0x10000, 4) == b"abcd"
    assert copy.read(0x20000, 4) == b"wxyz"
    assert copy.read(0x10FFE, 10) == b"\0\0"
    assert copy.read(0x0, 8) == copy.read(0x11000, 8) == copy.read(0x21000, 8) == b""
    assert copy.word(0x10FFC) is None
    assert len(copy.words(0x10FF0, 10)) == 2
    assert list(copy.pieces(0x10800, 0x20010)) == [(0x10800, 0x11000), (0x20000, 0x20010)]
