"""The C walker over heap images made by hand, and over damaged ones."""

from __future__ import annotations

import mmap
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leakline.errors import LeaklineError
from leakline.native.heap import FREE, INDIRECT, POSSIBLE, REACHABLE, UNREACHED, Heap, MemoryCopy
from leakline.sources.allocators.glibc import GlibcVersion

BASE = 0x555500000000
ROOTS = 0x600000000000


class Image:
    """A heap under construction: chunks one behind the other from BASE."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.blocks: list[int] = []

    def chunk(self, size: int, *words: int, in_use_before: bool = True) -> int:
        address = BASE + len(self.data) + 16
        body = struct.pack(f"<{len(words)}Q", *words)
        self.data += struct.pack("<QQ", 0, size | in_use_before) + body.ljust(size - 16, b"\0")
        self.blocks.append(address)
        return address

    def copy(self, roots: bytes = b"") -> tuple[MemoryCopy, int]:
        """With a top chunk at the end, and a page of roots elsewhere."""
        top = BASE + len(self.data)
        heap = (bytes(self.data) + struct.pack("<QQ", 0, 0x1000 | 1)).ljust(-(-(len(self.data) + 16) // 4096) * 4096, b"\0")
        page = roots.ljust(4096, b"\0")
        buffer = mmap.mmap(-1, len(heap) + len(page))
        buffer[: len(heap)] = heap
        buffer[len(heap) :] = page
        return MemoryCopy(buffer, [(BASE, BASE + len(heap)), (ROOTS, ROOTS + 4096)]), top


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def test_each_kind_as_valgrind_has_it() -> None:
    image = Image()
    held = image.chunk(32)
    inner = image.chunk(64)
    lost = image.chunk(32)
    image.chunk(48)  # hangs on lost
    cycle = image.chunk(32)
    other = image.chunk(32)
    offset = cycle - BASE
    image.data[offset : offset + 8] = words(other)
    image.data[other - BASE : other - BASE + 8] = words(cycle)
    image.data[lost - BASE : lost - BASE + 8] = words(lost + 32)
    copy, top = image.copy(words(held, inner + 8))
    with Heap(copy) as heap:
        walk = heap.walk(BASE, top)
        assert (walk.end, walk.blocks) == ("end", 6)
        heap.index()
        heap.mark([(ROOTS, ROOTS + 4096)], [])
        blocks, _ = heap.totals()
        assert [blocks[s] for s in (REACHABLE, POSSIBLE, UNREACHED, INDIRECT, FREE)] == [1, 1, 2, 2, 0]
        found = {b.address: (b.state, b.leader) for b in heap.lost()}
    assert found[lost] == (UNREACHED, lost)
    assert found[lost + 32] == (INDIRECT, lost)
    assert found[cycle] == (UNREACHED, cycle)
    assert found[other] == (INDIRECT, cycle)
    assert found[inner][0] == POSSIBLE


def test_a_leader_that_hangs_on_a_later_block_hands_its_blocks_on() -> None:
    image = Image()
    first, second = image.chunk(32), image.chunk(32)
    leaf = image.chunk(32)
    image.data[first - BASE : first - BASE + 8] = words(leaf)
    image.data[second - BASE : second - BASE + 8] = words(first)
    copy, top = image.copy()
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        heap.mark([], [])
        found = {b.address: (b.state, b.leader) for b in heap.lost()}
    assert found == {first: (INDIRECT, second), second: (UNREACHED, second), leaf: (INDIRECT, second)}


def test_a_register_is_a_root() -> None:
    image = Image()
    block = image.chunk(32)
    copy, top = image.copy()
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        heap.mark([], [block])
        assert heap.totals()[0][REACHABLE] == 1


def test_a_free_chunk_is_no_block() -> None:
    image = Image()
    image.chunk(32)
    image.chunk(64)  # free: the next chunk says so
    image.chunk(32, in_use_before=False)
    copy, top = image.copy()
    with Heap(copy) as heap:
        walk = heap.walk(BASE, top)
    assert (walk.blocks, walk.free_bytes) == (2, 64)


@pytest.mark.parametrize("version", [GlibcVersion(2, 28), GlibcVersion(2, 31), GlibcVersion(2, 36), GlibcVersion(2, 42)])
@pytest.mark.parametrize("more", [0, 16, 32])
def test_a_tcache_takes_its_blocks_out(version: GlibcVersion, more: int) -> None:
    layout = version.tcache
    image = Image()
    cache = image.chunk(layout.chunk_size + more)
    freed = [image.chunk(48) for _ in range(3)]
    image.chunk(48)
    following = None
    for address in freed:
        link = following or 0
        stored = link ^ (address >> 12) if version.mangles_links else link
        image.data[address - BASE : address - BASE + 8] = words(stored)
        following = address
    count = 3 if layout.counts_entries else 4
    at = cache - BASE + layout.count_bytes * 1
    image.data[at : at + layout.count_bytes] = count.to_bytes(layout.count_bytes, "little")
    entry = cache - BASE + layout.entries_offset + 8
    image.data[entry : entry + 8] = words(freed[-1])
    copy, top = image.copy()
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        assert heap.tcaches(layout) == 1
        assert heap.totals()[0][FREE] == 3


def test_what_only_looks_like_a_tcache_is_left_alone() -> None:
    layout = GlibcVersion(2, 36).tcache
    image = Image()
    cache = image.chunk(layout.chunk_size)
    victim = image.chunk(48)
    entry = cache - BASE + layout.entries_offset + 8
    image.data[entry : entry + 8] = words(victim)  # an entry, but a count of 0
    copy, top = image.copy()
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        assert heap.tcaches(layout) == 0
        assert heap.totals()[0][FREE] == 0


def test_a_fastbin_takes_its_blocks_out_and_a_broken_one_is_told() -> None:
    image = Image()
    first, second, third = image.chunk(32), image.chunk(32), image.chunk(32)
    image.data[first - BASE : first - BASE + 8] = words((second - 16) ^ (first >> 12))
    image.data[second - BASE : second - BASE + 8] = words(0 ^ (second >> 12))
    copy, top = image.copy()
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        assert heap.fastbin(first - 16, mangled=True) == 2
        assert heap.fastbin(third - 16 + 8, mangled=True) is None
        assert heap.fastbin(first - 16, mangled=True) is None, "it was taken already: a circle"


@pytest.mark.parametrize(
    ("before", "size", "usable"),
    [
        (0, 8192, 8192 - 16),  # up to 2.42
        (0, 8192 - 16, 8192 - 24),  # since 2.43: as any other chunk, and 16 bytes behind
        (1, 8192 - 16, 8192 - 24),  # on huge pages
    ],
)
def test_an_mmapped_chunk_ends_with_its_mapping(before: int, size: int, usable: int) -> None:
    buffer = mmap.mmap(-1, 8192)
    buffer[:16] = words(before, size | 2)
    with Heap(MemoryCopy(buffer, [(ROOTS, ROOTS + 8192)])) as heap:
        assert heap.mmapped(ROOTS, ROOTS + 8192) == [(ROOTS, ROOTS + 8192)]
        heap.index()
        heap.mark([], [])
        assert [(block.address, block.size) for block in heap.lost()] == [(ROOTS + 16, usable)]


def test_a_heap_without_a_copy_is_not_walked() -> None:
    copy, _ = Image().copy()
    with Heap(copy) as heap:
        assert heap.walk(0x1000, 0x2000).end == "not copied"
        heap.index()
        heap.mark([(0, 1 << 20)], [0xDEAD])
        assert list(heap.lost()) == []


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 7)), min_size=1, max_size=12), st.integers(0, 400))
def test_flipped_bits_neither_crash_nor_hang(flips: list[tuple[int, int]], resume_at: int) -> None:
    layout = GlibcVersion(2, 36).tcache
    image = Image()
    image.chunk(layout.chunk_size)
    for size in (32, 48, 32, 1040, 64, 32, 96, 512):
        image.chunk(size, BASE + 16, BASE + 700)
    for place, bit in flips:
        image.data[place % len(image.data)] ^= 1 << bit
    copy, top = image.copy(words(BASE + 16))
    with Heap(copy) as heap:
        walk = heap.walk(BASE, top)
        if walk.end != "end":
            following = heap.resume(max(walk.stopped_at, BASE + resume_at), top)
            if following is not None and following >= walk.stopped_at + 8:
                heap.walk(following, top)
        heap.mmapped(ROOTS, ROOTS + 4096)
        try:
            heap.index()
        except LeaklineError:
            return
        heap.tcaches(layout)
        heap.fastbin(BASE + 0x300, mangled=True)
        heap.mark([(ROOTS, ROOTS + 4096)], [BASE + 0x2A0])
        blocks, _ = heap.totals()
        assert sum(blocks) >= len(list(heap.lost()))


def test_the_path_from_a_root_is_the_shortest() -> None:
    image = Image()
    last = image.chunk(48)
    middle = image.chunk(64, 0, last)
    image.chunk(48, middle)
    first = image.chunk(80, image.blocks[-1], middle + 8)
    copy, top = image.copy(words(0, first))
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        roots = [(ROOTS, ROOTS + 4096)]
        heap.mark(roots, [])
        found = heap.path(last + 5, roots, [])
        assert not isinstance(found, str)
        assert [(step.address, step.held_at, step.interior) for step in found] == [
            (last, middle + 8, False),
            (middle, first + 8, True),
            (first, ROOTS + 8, False),
        ]
        held = heap.path(last, roots, [0, last])[0]
        assert not isinstance(held, str)
        assert (held.is_value, held.held_at) == (True, 1)
        assert heap.path(ROOTS, roots, []) == "no block"


def test_who_points_to_a_block_that_no_root_leads_to() -> None:
    image = Image()
    lost = image.chunk(48)
    holder = image.chunk(64, 0, lost + 16)
    image.chunk(48)
    copy, top = image.copy()
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        heap.mark([], [])
        assert heap.path(lost, [], []) == "not reached"
        (step,) = heap.referrers(lost)
        assert (step.address, step.held_at, step.interior) == (holder, holder + 8, True)


def test_blocks_are_counted_by_state_size_and_first_word() -> None:
    image = Image()
    table = 0x7F0000001000
    kept = [image.chunk(48, table), image.chunk(48, table), image.chunk(48, 5), image.chunk(96)]
    image.chunk(48, table)
    copy, top = image.copy(words(*kept))
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        heap.mark([(ROOTS, ROOTS + 4096)], [])
        groups = {(g.state, g.first_word, g.size): (g.blocks, g.bytes) for g in heap.census([(table, table + 4096)])}
    assert groups == {
        (REACHABLE, table, 40): (2, 80),
        (REACHABLE, 0, 40): (1, 40),
        (REACHABLE, 0, 88): (1, 88),
        (UNREACHED, table, 40): (1, 40),
    }


def test_more_kinds_of_blocks_than_are_told_apart() -> None:
    image = Image()
    table, count = 0x7F0000000000, 60_000
    for index in range(count):
        image.chunk(32, table + index)
    copy, top = image.copy()
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        heap.mark([], [])
        groups = heap.census([(table, table + (1 << 20))])
    assert sum(g.blocks for g in groups) == count
    assert len(groups) < count
    (rest,) = [g for g in groups if not g.size]
    assert rest.bytes == rest.blocks * 24
