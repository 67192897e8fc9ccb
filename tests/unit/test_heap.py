"""The C walker over heap images made by hand, and over damaged ones."""

from __future__ import annotations

import itertools
import mmap
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leakline.errors import LeaklineError
from leakline.native.heap import FREE, INDIRECT, POSSIBLE, REACHABLE, UNREACHED, Heap, MemoryCopy, SiteRecords, TcachesFound
from leakline.sources.allocators.glibc import GlibcVersion

BASE = 0x555500000000
ROOTS = 0x600000000000


class Image:
    """A heap under construction: chunks one behind the other from BASE."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.blocks: list[int] = []

    def chunk(self, size: int, *words: int, in_use_before: bool = True) -> int:
        before = 0 if in_use_before else BASE + len(self.data) - self.blocks[-1] + 16
        address = BASE + len(self.data) + 16
        body = struct.pack(f"<{len(words)}Q", *words)
        self.data += struct.pack("<QQ", before, size | in_use_before) + body.ljust(size - 16, b"\0")
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
    lost = image.chunk(48)
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
    rest = cache + layout.entries_offset + 8 * layout.bins, cache + layout.chunk_size + more - 8
    rests = (rest,) if rest[0] < rest[1] else ()
    for address in range(*rest, 8):  # what was there before malloc had it for itself
        image.data[address - BASE : address - BASE + 8] = words(lost)
    copy, top = image.copy()
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        assert heap.tcaches(layout) == TcachesFound(count=1, damaged=0, rests=rests)
        heap.leave_out(rests)
        heap.mark([], [cache])
        blocks, _ = heap.totals()
        assert (blocks[FREE], blocks[REACHABLE]) == (3, 1)


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
        assert heap.tcaches(layout) == TcachesFound(count=0, damaged=0)
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
        assert heap.fastbin(first - 16, 32, mangled=True) == 2
        assert heap.fastbin(third - 16 + 8, 32, mangled=True) is None
        assert heap.fastbin(first - 16, 32, mangled=True) is None, "it was taken already: a circle"


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
        heap.fastbin(BASE + 0x300, 32, mangled=True)
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
        found = heap.mark([(ROOTS, ROOTS + 4096)], [], [(table, table + 4096)], census=True)
    groups = {(g.state, g.first_word, g.size): (g.blocks, g.bytes) for g in found}
    assert groups == {
        (REACHABLE, table, 40): (2, 80),
        (REACHABLE, 0, 40): (1, 40),
        (REACHABLE, 0, 88): (1, 88),
        (UNREACHED, table, 40): (1, 40),
    }


@pytest.mark.parametrize(
    ("before", "to", "after", "left_over"),
    [
        ((7,), "chunk", (), True),  # bk: the program has overwritten fd
        ((), "chunk", ("other chunk",), True),
        ((), "chunk", ("bin",), True),
        ((), "chunk", (7,), False),
        ((), "chunk", ("other start",), False),
        ((7,), "within", (), False),
        (("bin",), "within", (), False),  # in its block's first words a chunk alone will do
        ((7, 0x51), "chunk", (), True),  # behind a size
        ((7, 0x50), "chunk", (7,), False),
        ((7, 0x51), "within", ("bin",), True),
        (
            (7, 0x51),
            "within",
            ("other within",),
            False,
        ),  # an odd number and two places in blocks: the program's own, for all one knows
        ((7, 0x51), "within", (7,), False),
        ((7, 0x51), "header", ("other header",), False),  # as pointers to objects of CPython
        ((7, 7), "within", ("bin",), False),
        ((7, 7, "other chunk"), "chunk", (), True),
        ((7, 0x51, "bin", "bin"), "chunk", (), True),  # fd_nextsize
        ((7, 0x51, "bin", 7), "within", ("other chunk",), True),
        ((7, 7, "bin", 7), "within", ("other chunk",), False),
        ((7, 7), "chunk", (7,), False),
    ],
)
def test_what_bins_left_over_in_a_block(
    before: tuple[int | str, ...], to: str, after: tuple[int | str, ...], left_over: bool
) -> None:
    """A pointer to a chunk is one into the block before it."""
    image = Image()
    target, other = image.chunk(96), image.chunk(96)
    places = {"chunk": 96 - 16, "within": 48, "header": 16, "start": 0}
    named = {f"other {name}": other + place for name, place in places.items()} | {"bin": ROOTS + 0x800}
    content = (*before, target + places[to], *after)
    holder = image.chunk(112, *(named[word] if isinstance(word, str) else word for word in content))
    image.chunk(32)
    for held, kind in ((holder, UNREACHED if left_over else POSSIBLE), (target + 80, POSSIBLE)):  # a root's pointers are its own
        copy, top = image.copy(words(held))
        with Heap(copy) as heap:
            heap.walk(BASE, top)
            heap.index()
            heap.arenas([(ROOTS + 0x700, ROOTS + 0x900)])
            roots = [(ROOTS, ROOTS + 8)]
            heap.mark(roots, [])
            assert {b.address: b.state for b in heap.lost()}[target] == kind
            path = heap.path(target, roots, [])
            assert (path == "not reached") == (kind == UNREACHED)


def recorded(blocks: dict[int, tuple[int, int]], *, bounds: bool = False) -> SiteRecords:
    """As the agent keeps them: of blocks the site and the size that was asked for."""
    table, first = 0x100000000000, BASE & -(1 << 14)
    entries = bytearray(0x40000)
    for block, (site, size) in blocks.items():
        struct.pack_into("<II", entries, ((block - first) >> 4) * 4, site, size)
    buffer = mmap.mmap(-1, len(entries))
    buffer[:] = bytes(entries)
    start = table + (first >> 4) * 4
    return SiteRecords(copy=MemoryCopy(buffer, [(start, start + len(entries))]), table=table, bounds=bounds)


@pytest.mark.parametrize("chunk", [32, 48, 0x20010])
@pytest.mark.parametrize("behind", [0, 1, 7, 8, 15, 16])
@pytest.mark.parametrize("bounds", [True, False])
def test_what_lies_behind_what_was_asked_for_is_not_followed(chunk: int, behind: int, bounds: bool) -> None:
    image = Image()
    block, target, other = image.chunk(chunk), image.chunk(64), image.chunk(64)
    usable = chunk - 8
    for end, pointer in ((usable, target), (usable - 16, other)):
        image.data[block - BASE + end - 8 : block - BASE + end] = words(pointer)
    copy, top = image.copy(words(block))
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        heap.mark([(ROOTS, ROOTS + 8)], [], records=recorded({block: (7, usable - behind)}, bounds=bounds))
        assert {b.address for b in heap.lost()} == ({target} if behind and bounds else set())


@pytest.mark.parametrize(("offset", "bounds", "state"), [(32, True, POSSIBLE), (33, True, UNREACHED), (33, False, POSSIBLE)])
@pytest.mark.parametrize("is_held_by_lost", [False, True])
def test_a_pointer_behind_what_was_asked_for_is_none(offset: int, bounds: bool, state: int, is_held_by_lost: bool) -> None:
    image = Image()
    holder, block = image.chunk(32), image.chunk(48)
    image.data[holder - BASE : holder - BASE + 8] = words(block + offset)
    copy, top = image.copy(words(0 if is_held_by_lost else block + offset))
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        heap.mark([(ROOTS, ROOTS + 8)], [], records=recorded({block: (7, 32)}, bounds=bounds))
        found = {b.address: b.state for b in heap.lost()}
    assert found[block] == (INDIRECT if is_held_by_lost and state == POSSIBLE else state)


def test_blocks_are_counted_by_who_allocated_them() -> None:
    image = Image()
    kept = [image.chunk(48), image.chunk(48), image.chunk(48), image.chunk(48), image.chunk(0x20010)]
    copy, top = image.copy(words(*kept))
    # Site 7 twice; an older, larger block's record; one of an unknown size; one that is a page too small at most.
    records = recorded(dict(zip(kept, zip((7, 7, 7, 9, 5), (36, 40, 41, 0xFFFFFFFF, 0x20000 - 4090), strict=True), strict=True)))
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        found = heap.mark([(ROOTS, ROOTS + 4096)], [], census=True, records=records)
    assert {(g.site, g.size, g.blocks) for g in found} == {(7, 40, 2), (0, 40, 1), (9, 40, 1), (5, 0x20008, 1)}


def test_a_block_that_is_possible_first_and_reachable_then_is_followed_and_counted_once() -> None:
    image = Image()
    held = image.chunk(32)
    inner, last = image.chunk(64), image.chunk(48)
    image.data[held - BASE : held - BASE + 8] = words(inner)
    image.data[inner - BASE : inner - BASE + 16] = words(0, last + 8)
    copy, top = image.copy(words(inner + 8, held, inner + 16))
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        groups = heap.mark([(ROOTS, ROOTS + 4096)], [], census=True)
        blocks, _ = heap.totals()
    assert (blocks[REACHABLE], blocks[POSSIBLE]) == (2, 1)
    assert {(g.state, g.size, g.blocks) for g in groups} == {(REACHABLE, 24, 1), (REACHABLE, 56, 1), (POSSIBLE, 40, 1)}


def test_more_kinds_of_blocks_than_are_told_apart() -> None:
    image = Image()
    table, count = 0x7F0000000000, 60_000
    for index in range(count):
        image.chunk(32, table + index)
    copy, top = image.copy()
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        groups = heap.mark([], [], [(table, table + (1 << 20))], census=True)
    assert sum(g.blocks for g in groups) == count
    assert len(groups) < count
    (rest,) = [g for g in groups if not g.size]
    assert rest.bytes == rest.blocks * 24


def test_a_long_lost_list_takes_no_longer_than_its_length() -> None:
    """Each node, as a list that grows at its head has it, points to the one before: leaders hang on leaders."""
    image = Image()
    count = 200_000
    for index in range(count):
        image.chunk(32, image.blocks[-1] if index else 0)
    copy, top = image.copy()
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        heap.mark([], [])
        began = time.process_time()
        found = list(heap.lost())
        assert time.process_time() - began < 5
    assert len(found) == count
    assert {block.leader for block in found} == {image.blocks[-1]}


def test_an_mmapped_block_of_terabytes_that_were_never_touched() -> None:
    size = 1 << 44
    buffer = mmap.mmap(-1, 4096)
    buffer[:16] = words(0, size | 2)
    began = time.process_time()
    with Heap(MemoryCopy(buffer, [(ROOTS, ROOTS + 4096)])) as heap:
        assert heap.mmapped(ROOTS, ROOTS + size) == [(ROOTS, ROOTS + size)]
        heap.index()
        heap.mark([], [ROOTS + 16])
    assert time.process_time() - began < 5


def test_a_path_and_holders_in_memory_of_terabytes_that_was_never_touched() -> None:
    size = 1 << 44
    buffer = mmap.mmap(-1, 8192)
    buffer[:16] = words(0, size | 2)
    buffer[4096:4104] = words(ROOTS + 16)
    copy = MemoryCopy(buffer, [(ROOTS, ROOTS + 4096), (ROOTS + 2 * size, ROOTS + 2 * size + 4096)])
    began = time.process_time()
    with Heap(copy) as heap:
        heap.mmapped(ROOTS, ROOTS + size)
        heap.index()
        heap.mark([], [])
        assert heap.path(ROOTS + 16, [(ROOTS, ROOTS + 1)], []) == "not reached"
        assert len(heap.path(ROOTS + 16, [(0, 4 * size + ROOTS)], [])) == 1
        assert heap.referrers(ROOTS + 16) == []
    assert time.process_time() - began < 5


def test_kinds_that_would_all_be_counted_at_one_place() -> None:
    image = Image()
    count, bits = 40_000, (1 << 64) - 1
    back = pow(0xFF51AFD7ED558CCD, -1, 1 << 64)
    for index in range(count):
        # Same 16 bits from the 32nd on of the hash in census.c: each word differs from the others, and is spread by nothing.
        image.chunk(32, ((index << 48) + index) * back & bits ^ 24 * 0x9E3779B97F4A7C15 & bits)
    copy, top = image.copy()
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        began = time.process_time()
        groups = heap.mark([], [], [(0, bits)], census=True)
        assert time.process_time() - began < 1
    assert sum(g.blocks for g in groups) == count
    assert len(groups) < 100


def test_walks_that_fail_are_not_taken_again_behind_each_gap() -> None:
    """A false chain leads through what lies behind each pair of fenceposts, to fail at the end."""
    image = Image()
    count = 80_000
    for _ in range(count):
        image.chunk(64)
        image.data += words(0, 17, 0, 17)
        image.data += words(0, 128 | 1, 0, 0)
    copy, top = image.copy()
    gaps, first = 0, BASE
    with Heap(copy) as heap:
        began = time.process_time()
        while first < top:
            walk = heap.walk(first, top)
            assert walk.end == "fencepost"
            gaps += 1
            first = heap.resume(walk.stopped_at + 32, top) or top
        assert time.process_time() - began < 5
    assert gaps == count


@pytest.mark.parametrize("chunks", [0, 3, 4])
def test_where_no_chunks_lie_behind_somebody_elses_memory_there_is_only_the_top(chunks: int) -> None:
    image = Image()
    image.data += bytes(5008)
    for _ in range(chunks):
        image.chunk(64)
    if chunks:
        image.data += words(0, 0)  # no chunk: what leads there does not lead to the top
    copy, top = image.copy()
    with Heap(copy) as heap:
        assert heap.resume(BASE, top) == (None if chunks == 4 else top)


def test_a_free_chunk_whose_size_does_not_stand_behind_it_is_corrupt() -> None:
    image = Image()
    image.chunk(32)
    image.chunk(64)
    image.chunk(32, in_use_before=False)
    image.data[96:104] = words(80)
    copy, top = image.copy()
    with Heap(copy) as heap:
        walk = heap.walk(BASE, top)
        assert (walk.end, walk.stopped_at) == ("corrupt", BASE + 32)
    with Heap(copy) as heap:
        assert heap.walk(BASE, top, torn=True).end == "end"


def test_one_fencepost_is_none() -> None:
    image = Image()
    image.chunk(32)
    image.chunk(16)
    image.chunk(32)
    copy, top = image.copy()
    with Heap(copy) as heap:
        assert heap.walk(BASE, top).end == "corrupt"


def test_a_damaged_tcache_is_told_and_what_it_holds_taken_out() -> None:
    layout = GlibcVersion(2, 36).tcache
    image = Image()
    cache = image.chunk(layout.chunk_size) - BASE
    small, larger = image.chunk(32), image.chunk(48)
    for address in (small, larger):
        image.data[address - BASE : address - BASE + 8] = words(address >> 12)
    image.data[cache : cache + 4] = struct.pack("<2H", 1, 4)  # the second count is wrong
    image.data[cache + layout.entries_offset : cache + layout.entries_offset + 16] = words(small, larger)
    copy, top = image.copy()
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        assert heap.tcaches(layout) == TcachesFound(
            count=1,
            damaged=1,
            rests=((BASE + cache + layout.entries_offset + 8 * layout.bins, BASE + cache + layout.chunk_size - 8),),
        )
        assert heap.totals()[0][FREE] == 2


def test_blocks_that_share_long_lists_do_not_pass_for_tcaches_for_ever() -> None:
    layout = GlibcVersion(2, 42).tcache
    image = Image()
    nodes = [image.chunk(1024 + 64) for _ in range(5000)]
    for node, following in itertools.pairwise([*nodes, 0]):
        image.data[node - BASE : node - BASE + 8] = words(following ^ (node >> 12))
    heads = [0] * 64 + [nodes[0]] * 7 + [1] * 5  # long lists, and five that are broken
    caches = [image.chunk(layout.chunk_size) for _ in range(2000)]
    image.chunk(32)
    for cache in caches:
        entries = cache - BASE + layout.entries_offset
        image.data[entries : entries + 8 * len(heads)] = words(*heads)
    copy, top = image.copy()
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        assert heap.tcaches(layout) is None


def test_a_fastbin_holds_chunks_of_its_size_only() -> None:
    image = Image()
    block = image.chunk(48)
    image.data[block - BASE : block - BASE + 8] = words(block >> 12)
    copy, top = image.copy()
    with Heap(copy) as heap:
        heap.walk(BASE, top)
        heap.index()
        assert heap.fastbin(block - 16, 32, mangled=True) is None
        assert heap.fastbin(block - 16, 48, mangled=True) == 1
