"""Which parts of stdio's memory hold nothing: a stream fills its buffer from the front, behind lies what was there before.

A program that frees much and then prints for the first time gets a buffer full of the pointers that it freed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from leakline.model.ranges import Range

# struct _IO_FILE (libio/bits/types/struct_FILE.h): flags, eight pointers; they begin struct _IO_wide_data too, without flags.
_MAGIC, _USER_BUFFER = 0xFBAD0000, 1
_CHAIN, _WIDE_DATA, _MODE = 13, 20, 24
_FILE_WORDS = _MODE + 1
_WIDE_DATA_SIZE = 0xE8
_UNSET = (0x80, 0x88), (0xB0, 0xC0), (0xC8, 0xD8)  # hold no pointers, and what malloc gave is partly left in them
_POINTERS = 8
_MOST_STREAMS = 1 << 16


def unused_buffers(data: Iterable[Sequence[int]], words: Callable[[int, int], Sequence[int]]) -> list[Range]:
    """The parts of all open streams' buffers behind what was read into them or written to them.

    Args:
        data: the words of libc's data, where _IO_list_all leads to the newest stream, and each to the one before.
        words: reads (address, count) words of the target.

    """
    streams: set[int] = set()
    unused: list[Range] = []
    for address in {word for piece in data for word in piece if word and not word % 16}:
        stream = address
        while stream not in streams and len(streams) < _MOST_STREAMS:
            found = words(stream, _FILE_WORDS)
            if len(found) < _FILE_WORDS or found[0] & 0xFFFF0000 != _MAGIC:
                break
            streams.add(stream)
            unused += [(stream + begin, stream + end) for begin, end in _UNSET]
            unused += _behind(found[1:], is_own=not found[0] & _USER_BUFFER)
            wide = found[_WIDE_DATA]
            # The mode is above 0 for a stream of wide characters only: the others have the structure, but do not fill it.
            is_wide = 0 < found[_MODE] & 0xFFFFFFFF < 1 << 31
            unused += _behind(words(wide, _POINTERS), is_own=False) if is_wide else [(wide, wide + _WIDE_DATA_SIZE)]
            stream = found[_CHAIN]
    return unused


def _behind(pointers: Sequence[int], *, is_own: bool) -> list[Range]:
    """What lies behind the used part of a buffer: nothing where the pointers do not belong to one.

    Of a block of its own it is all: malloc gives 8 bytes more than a multiple of 16.
    """
    if len(pointers) < _POINTERS:
        return []
    read, read_end, read_base, write_base, write, write_end, start, end = pointers[:_POINTERS]
    if not start or not all(start <= pointer <= end for pointer in (read, read_end, read_base, write_base, write, write_end)):
        return []
    used = (max(read_end, write) + 7) & ~7
    return [(used, end + 8 * (is_own and (end - start) % 16 == 0))]
