from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.analysis.roots import ThreadStack, dead_stack, ended_stacks, stack_bounds
from leakline.model.ranges import subtract
from leakline.sources.kernel_pointers import parse_epoll, parse_timers

ranges = st.lists(st.tuples(st.integers(0, 100), st.integers(1, 20)).map(lambda x: (x[0], x[0] + x[1])), max_size=8)


def disjoint(found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if not result or start >= result[-1][1]:
            result.append((start, end))
    return result


def points(found: list[tuple[int, int]]) -> set[int]:
    return {x for start, end in found for x in range(start, end)}


@given(ranges.map(disjoint), ranges)
def test_subtract_leaves_exactly_the_rest(keep: list[tuple[int, int]], without: list[tuple[int, int]]) -> None:
    left = subtract(keep, without)
    assert points(left) == points(keep) - points(without)
    assert left == sorted(left)


def test_bounds_come_from_struct_pthread() -> None:
    tp = 0x7F0000800000
    words = [0] * 512
    words[210:214] = [tp - 0x7FF000, 0x800000, 0x1000, 0x1000]
    thread = ThreadStack(stack_pointer=tp - 0x500, thread_pointer=tp)
    assert stack_bounds(thread, lambda _a, n: words[:n]) == (tp - 0x7FF000, tp + 0x1000)


def test_three_words_that_only_look_like_bounds() -> None:
    """Seen in glibc 2.36: words before the real ones that span terabytes."""
    words, tp = [0] * 512, 0x7F176FFFF6C0
    words[100:103] = [0x7F176FFFEEF0, 0x8000000030, 0]
    words[210:213] = [tp - 0x7FF6C0, 0x800000, 0x1000]
    thread = ThreadStack(stack_pointer=tp - 0x2000, thread_pointer=tp)
    assert stack_bounds(thread, lambda _a, n: words[:n]) == (tp - 0x7FF6C0, tp + 0x940)


def test_a_small_number_before_a_pointer_into_the_descriptor_is_no_stack() -> None:
    words, tp = [0] * 512, 0x7F176FFFF6C0
    words[100:103] = [2, tp + 0x900, 0]
    assert stack_bounds(ThreadStack(stack_pointer=tp - 0x2000, thread_pointer=tp), lambda _a, n: words[:n]) is None


def test_a_ring_of_many_heads_is_not_followed_from_each() -> None:
    """A program can write what it likes into its descriptors: here a ring of nodes that are none, beside rings as long."""
    tp, tid, offset, count = 0x10000, 77, 0x2C0, 3000
    nodes = [tp + offset, *(0x100000 + 16 * index for index in range(count))]
    memory = {tp: tp, tp + 16: tp, tp + offset + 16: tid}
    for before, node in zip([nodes[-1], *nodes], nodes, strict=False):
        memory[before], memory[node + 8] = node, before
    reads = 0

    def words(address: int, length: int) -> list[int]:
        nonlocal reads
        reads += 1
        return [memory.get(address + 8 * index, 0) for index in range(length)]

    assert ended_stacks([(tid, tp)], words) == {}
    assert reads < 5 * count


def test_long_rings_beside_the_list_of_threads_are_not_all_followed() -> None:
    """As if each place where a list's head may lie were one: of as many nodes as there can be."""
    tp, tid, offset, head = 0x10000, 77, 0x2C0, 0x200000
    memory = {tp: tp, tp + 16: tp, tp + offset + 16: tid, tp + offset: head, tp + offset + 8: head}
    memory |= {head: tp + offset, head + 8: tp + offset}
    reads = 0

    def word(address: int) -> int:
        if address in memory:
            return memory[address]
        if 0x1F0000 <= address < 0x210000:  # heads
            return address << 20 if address % 16 == 0 else 0
        node, place = address & ~15, address & 15
        if place == 0:
            return node + 16
        return node - 16 if node & 0xFFFFF else node >> 20

    def words(address: int, length: int) -> list[int]:
        nonlocal reads
        reads += 1
        return [word(address + 8 * index) for index in range(length)]

    assert ended_stacks([(tid, tp)], words) == {}
    assert reads < 200_000


def test_the_first_thread_has_no_bounds_there() -> None:
    """Its struct pthread says: block 0, and as size the address of the stack's end."""
    words = [0] * 512
    words[210:213] = [0, 0x7FFE00000000, 0]
    thread = ThreadStack(stack_pointer=0x7FFDFFFF0000, thread_pointer=0x7F0000800000)
    assert stack_bounds(thread, lambda _a, n: words[:n]) is None


@pytest.mark.parametrize(
    ("tid", "joinid", "left_over_until"), [(0xFFFFFFFF, 0, 0x900), (1 << 32, 0x7F0000900700, 0x900), (0, 0, -0x90)]
)
def test_stacks_of_ended_threads_are_found_where_the_lists_begin_far_apart(tid: int, joinid: int, left_over_until: int) -> None:
    """Before glibc 2.34: `__stack_user` in libpthread's .bss, `stack_cache` in its .data; only the first thread lives.

    One that was joined, one that was detached, and one that may still be joined, whose TLS begins before its descriptor.
    """
    user, cache, live, ended, dtv = 0x7F0000013040, 0x7F0000010320, 0x7F0000200740, 0x7F0000900700, 0x5500000010
    memory = {user: live + 704, user + 8: live + 704, cache: ended + 704, cache + 8: ended + 704}
    for descriptor, head, number in ((live, user, 4711), (ended, cache, tid)):
        memory |= {descriptor: descriptor, descriptor + 16: descriptor}
        memory |= {descriptor + 704: head, descriptor + 712: head, descriptor + 720: number}
    memory |= {ended + 1680: ended - 0x7FF700, ended + 1688: 0x800000, ended + 1696: 0x1000, ended + 1584: joinid}
    memory |= {ended + 8: dtv, dtv - 16: 3, dtv + 16: ended - 0x40, dtv + 32: ended - 0x90, dtv + 48: 0x5500001000}
    found = ended_stacks([(4711, live)], lambda address, count: [memory.get(address + 8 * i, 0) for i in range(count)])
    assert found == {ended: (ended - 0x7FF700, ended + left_over_until)}


def test_only_what_lies_below_the_stack_pointer_is_dead() -> None:
    inside = ThreadStack(stack_pointer=0x5000, thread_pointer=0x8000)
    elsewhere = ThreadStack(stack_pointer=0x99000, thread_pointer=0x8000)
    bounds = (0x1000, 0x9000)
    assert dead_stack([(inside, bounds), (elsewhere, bounds), (inside, None)]) == [(0x1000, 0x5000 - 128)]
    calling = msgspec.structs.replace(inside, has_red_zone=False)
    assert dead_stack([(calling, bounds)]) == [(0x1000, 0x5000)]


def test_what_the_kernel_keeps() -> None:
    fdinfo = (
        b"pos:\t0\nflags:\t02\nmnt_id:\t16\nino:\t9\n"
        b"tfd:        5 events:       19 data:     55d0c2a1f2a0  pos:0 ino:61af sdev:7\n"
        b"tfd:       66 events: 80000019 data:                5  pos:0 ino:61b0 sdev:7\n"
    )
    assert parse_epoll(fdinfo) == [0x55D0C2A1F2A0, 5]
    timers = b"ID: 0\nsignal: 10/000055d0c2a1f310\nnotify: signal/pid.84\nClockID: 1\nID: 1\nsignal: 14/0x7\nnotify: none/pid.84\n"
    assert parse_timers(timers) == [0x55D0C2A1F310, 7]


@given(st.binary(max_size=200))
def test_hostile_descriptions_are_read(data: bytes) -> None:
    assert all(
        value < 1 << 64
        for parse in (parse_epoll, parse_timers)
        for value in parse(b"tfd: 1 data: " + data + b"\nsignal: 1/" + data)
    )
