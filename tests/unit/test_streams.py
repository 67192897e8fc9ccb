from __future__ import annotations

from collections.abc import Sequence

from leakline.analysis.streams import unused_buffers
from leakline.model.ranges import union

STREAM, WIDE, BUFFER = 0x1000, 0x2000, 0x4000
UNSET = {(STREAM + 0x80, STREAM + 0x88), (STREAM + 0xB0, STREAM + 0xC0), (STREAM + 0xC8, STREAM + 0xD8)}


def stream(flags: int, pointers: Sequence[int], mode: int = 0, chain: int = 0) -> dict[int, int]:
    """The words of a struct _IO_FILE."""
    words = [0xFBAD0000 | flags, *pointers, *[0] * 4, chain, *[0] * 6, WIDE, *[0] * 3, mode & 0xFFFFFFFF]
    return {STREAM + 8 * index: word for index, word in enumerate(words)}


def unused(memory: dict[int, int]) -> set[tuple[int, int]]:
    def words(address: int, count: int) -> list[int]:
        return [memory.get(address + 8 * index, 0) for index in range(count)] if address in memory else []

    return set(unused_buffers([(0, 7, STREAM, STREAM + 0x10)], words))


def test_what_lies_behind_the_bytes_that_were_written() -> None:
    memory = stream(0x2, [BUFFER, BUFFER, BUFFER, BUFFER, BUFFER + 21, BUFFER + 4096, BUFFER, BUFFER + 4096])
    assert unused(memory) == UNSET | {(BUFFER + 24, BUFFER + 4104), (WIDE, WIDE + 0xE8)}


def test_a_buffer_of_the_callers_ends_where_it_says() -> None:
    memory = stream(0x3, [BUFFER, BUFFER + 100, BUFFER, *[BUFFER] * 4, BUFFER + 512])
    assert unused(memory) == UNSET | {(BUFFER + 104, BUFFER + 512), (WIDE, WIDE + 0xE8)}


def test_a_stream_of_wide_characters_has_a_second_buffer() -> None:
    memory = stream(0x3, [0] * 8, mode=1)
    memory |= {WIDE + 8 * index: BUFFER + (64 if index == 4 else 1024 if index == 7 else 0) for index in range(8)}
    assert unused(memory) == UNSET | {(BUFFER + 64, BUFFER + 1024)}


def test_pointers_that_do_not_belong_together_say_nothing() -> None:
    assert unused(stream(0x2, [BUFFER, 0x9000, *[BUFFER] * 5, BUFFER + 4096])) == UNSET | {(WIDE, WIDE + 0xE8)}


def test_a_chain_in_a_circle_ends() -> None:
    assert unused(stream(0x3, [0] * 8, chain=STREAM)) == UNSET | {(WIDE, WIDE + 0xE8)}


def test_union_has_no_overlaps() -> None:
    assert union([(5, 9), (1, 3), (2, 4), (4, 5), (20, 21)]) == [(1, 9), (20, 21)]
