"""A copied address space, and the C code that walks and marks it (native/heap/)."""

from __future__ import annotations

import bisect
import ctypes
import mmap
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Literal, Self

import msgspec

from leakline.errors import LeaklineError, NotPossible
from leakline.native.parts import load_heap_library

PAGE = mmap.PAGESIZE
WalkEnd = Literal["end", "fencepost", "corrupt", "not copied"]
_WALK_ENDS: tuple[WalkEnd, ...] = ("end", "fencepost", "corrupt", "not copied")
UNREACHED, POSSIBLE, REACHABLE, INDIRECT, FREE = range(5)
WhyNot = Literal["not reached", "no block", "free"]
_WHY_NOT: dict[int, WhyNot] = {0: "not reached", -1: "no block", -2: "free"}
_NO_MEMORY = -3
_MOST_STEPS, _MOST_REFERRERS, _MOST_GROUPS = 1 << 16, 16, 1 << 16
_MOST_GROUPS_BY_SITE = 1 << 18
_MOST_RESTS = 4096


class _Segment(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("size", ctypes.c_uint64), ("data", ctypes.c_void_p))


class _Range(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("end", ctypes.c_uint64))


class _WalkResult(ctypes.Structure):
    _fields_ = (
        ("stopped_at", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("free_bytes", ctypes.c_uint64),
        ("end", ctypes.c_uint32),
    )


class _Modules(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.POINTER(_Range)),
        ("n_files", ctypes.c_size_t),
        ("code", ctypes.POINTER(_Range)),
        ("n_code", ctypes.c_size_t),
    )


class _LostBlock(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("leader", ctypes.c_uint64),
        ("first_word", ctypes.c_uint64),
        ("kind", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class _Totals(ctypes.Structure):
    _fields_ = (("blocks", ctypes.c_uint64 * 5), ("bytes", ctypes.c_uint64 * 5))


class _Step(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("held_at", ctypes.c_uint64),
        ("is_value", ctypes.c_uint32),
        ("interior", ctypes.c_uint32),
    )


class _Group(ctypes.Structure):
    _fields_ = (
        ("first_word", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("state", ctypes.c_uint32),
        ("site", ctypes.c_uint32),
    )


class _Records(ctypes.Structure):
    _fields_ = (
        ("runs", ctypes.POINTER(_Segment)),
        ("n_runs", ctypes.c_size_t),
        ("table", ctypes.c_uint64),
        ("bounds", ctypes.c_uint64),
    )


class _TcacheLayout(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint32)
        for name in ("chunk_size", "bins", "small_bins", "count_bytes", "counts_entries", "entries_offset", "mangled")
    )


class TcacheLayout(msgspec.Struct, frozen=True, kw_only=True):
    """The form of glibc's struct tcache_perthread_struct, which differs by version."""

    chunk_size: int
    bins: int
    small_bins: int
    count_bytes: int
    counts_entries: int
    entries_offset: int
    mangled: int


class Walk(msgspec.Struct, frozen=True, kw_only=True):
    """Where a walk over chunks ended, and what it met."""

    stopped_at: int
    blocks: int
    free_bytes: int
    end: WalkEnd


class TcachesFound(msgspec.Struct, frozen=True, kw_only=True):
    """The threads' caches."""

    count: int
    damaged: int
    """How many of them have a broken list."""
    rests: tuple[tuple[int, int], ...] = ()
    """Ranges within their blocks that malloc never writes: what was there before stays."""


class RawLostBlock(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A block that is not reachable: state is UNREACHED (definite), INDIRECT or POSSIBLE."""

    address: int
    size: int
    leader: int
    first_word: int
    state: int


class RawStep(msgspec.Struct, frozen=True, kw_only=True):
    """A block, and the word that points into it."""

    address: int
    size: int
    held_at: int
    """Address of the word; for a register its index among the values."""
    is_value: bool
    interior: bool
    """It points past the block's start."""


class RawGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks of one kind, size, first word and site."""

    first_word: int
    """An address in a module's mapping; 0 for any other first word."""
    size: int
    """Usable bytes of each; 0 where there were more kinds than are told apart."""
    blocks: int
    bytes: int
    state: int
    site: int
    """The agent's number for the stack that allocated them; 0 where that is not known."""


class MemoryCopy:
    """Runs of a target's memory in one buffer of ours.

    Args:
        buffer: what holds them.
        runs: (start, end), not overlapping; one behind the other in the order in which they lie there.
        offsets: where each lies instead.

    """

    def __init__(self, buffer: mmap.mmap, runs: Sequence[tuple[int, int]], offsets: Sequence[int] | None = None) -> None:
        self._buffer = buffer
        sizes = [end - start for start, end in runs]
        self.size = sum(sizes)
        places = accumulate(sizes, initial=0) if offsets is None else offsets
        placed = sorted((start, end, place) for (start, end), place in zip(runs, places, strict=False))
        self.runs = tuple((start, end) for start, end, _ in placed)
        self._starts = [start for start, _, _ in placed]
        self._offsets = [offset for _, _, offset in placed]

    def read(self, address: int, size: int) -> bytes:
        """The bytes there, fewer where the copy ends; empty where nothing was copied."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return b""
        start, end = self.runs[index]
        if address >= end:
            return b""
        at = self._offsets[index] + address - start
        return self._buffer[at : at + min(size, end - address)]

    def word(self, address: int) -> int | None:
        """The 8 bytes there as a number; None where they were not copied."""
        data = self.read(address, 8)
        return int.from_bytes(data, "little") if len(data) == 8 else None

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Numbers of 8 bytes from there on, fewer where the copy ends."""
        data = self.read(address, 8 * count)
        return tuple(memoryview(data)[: len(data) // 8 * 8].cast("Q"))

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of [start, end) that were copied."""
        index = max(bisect.bisect_right(self._starts, start) - 1, 0)
        for first, last in self.runs[index:]:
            if first >= end:
                return
            if last > start:
                yield max(first, start), min(last, end)

    def base_address(self) -> int:
        """Where the buffer lies in our own memory."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))

    def view(self, address: int, size: int) -> memoryview:
        """As `read`, without a copy."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0 or address >= self.runs[index][1]:
            return memoryview(b"")
        start, end = self.runs[index]
        at = self._offsets[index] + address - start
        return memoryview(self._buffer)[at : at + min(size, end - address)]

    def offset(self, run: int) -> int:
        """Where the run begins in the buffer."""
        return self._offsets[run]


class SiteRecords(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent recorded of blocks (native/agent/agent.h, `shadow`)."""

    copy: MemoryCopy
    """The pages of its table that were ever written."""
    table: int
    """The table's address: for each 16 bytes of memory it has 4; of a block its site's number, and then its size as requested."""
    bounds: bool
    """The program uses no more of a block than it asked for."""


class Heap:
    """The blocks of a copied address space. Use as a context manager; it frees the C side at the end.

    Order of calls: walk and mmapped for every area, index, tcaches and fastbin, arenas, leave_out, mark, totals and lost.
    """

    def __init__(self, copy: MemoryCopy) -> None:
        self._library = load_heap_library()
        self._copy = copy
        self._segments = _segments(copy)
        self._totals: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._library.leakline_heap_new.restype = ctypes.c_void_p
        self._heap = ctypes.c_void_p(self._library.leakline_heap_new(self._segments, ctypes.c_size_t(len(copy.runs))))
        if not self._heap:
            raise _no_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.leakline_heap_free(self._heap)

    def walk(self, first: int, end: int, *, torn: bool = False) -> Walk:
        """Add the chunks from first to end.

        Args:
            first: address of the first.
            end: where the last one ends.
            torn: it was copied while the program changed it: a free chunk's two sizes may differ.

        """
        result = _WalkResult()
        arguments = ctypes.c_uint64(first), ctypes.c_uint64(end), ctypes.c_int(torn), ctypes.byref(result)
        self._library.leakline_heap_walk(self._heap, *arguments)
        if result.end >= len(_WALK_ENDS):
            raise _no_memory()
        return Walk(
            stopped_at=result.stopped_at,
            blocks=result.blocks,
            free_bytes=result.free_bytes,
            end=_WALK_ENDS[result.end],
        )

    def resume(self, start: int, end: int) -> int | None:
        """Where the main arena goes on behind somebody else's sbrk."""
        function = self._library.leakline_heap_resume
        function.restype = ctypes.c_uint64
        return function(self._heap, ctypes.c_uint64(start), ctypes.c_uint64(end)) or None

    def mmapped(self, start: int, end: int) -> list[tuple[int, int]]:
        """Add the mmapped chunks of a mapping; returns their (start, end), the alignment's gap before a chunk included."""
        room = min(sum(last - first for first, last in self._copy.pieces(start, end)) // PAGE, 1 << 20)  # each begins with a header
        found = (_Range * room)()
        function = self._library.leakline_heap_mmapped
        function.restype = ctypes.c_int64
        arguments = (ctypes.c_uint64(start), ctypes.c_uint64(end), ctypes.c_uint64(PAGE), found, ctypes.c_size_t(room))
        count = function(self._heap, *arguments)
        if count < 0:
            raise _no_memory()
        return [(found[i].start, found[i].end) for i in range(count)]

    def index(self) -> None:
        """Make blocks findable by address."""
        status = self._library.leakline_heap_index(self._heap)
        if status == -1:
            raise _no_memory()
        if status:
            raise LeaklineError("two areas of the heap overlap")

    def tcaches(self, layout: TcacheLayout) -> TcachesFound | None:
        """Take out what the threads' caches hold; None where too many blocks look like one to tell them apart."""
        raw = _TcacheLayout(**{name: getattr(layout, name) for name in layout.__struct_fields__})
        function = self._library.leakline_heap_tcaches
        function.restype = ctypes.c_int64
        damaged, rests = ctypes.c_uint64(), (_Range * _MOST_RESTS)()
        count = function(self._heap, ctypes.byref(raw), ctypes.byref(damaged), rests, ctypes.c_size_t(_MOST_RESTS))
        if count < 0:
            return None
        ranges = tuple((rest.start, rest.end) for rest in rests[: min(count, _MOST_RESTS)] if rest.start < rest.end)
        return TcachesFound(count=count, damaged=damaged.value, rests=ranges)

    def fastbin(self, head: int, chunk_size: int, *, mangled: bool) -> int | None:
        """Take out what a fastbin for chunks of a size holds; returns how many blocks, None for a broken list."""
        function = self._library.leakline_heap_fastbin
        function.restype = ctypes.c_int64
        count = function(self._heap, ctypes.c_uint64(head), ctypes.c_uint64(chunk_size), ctypes.c_int(mangled))
        return None if count < 0 else int(count)

    def arenas(self, arenas: Sequence[tuple[int, int]]) -> None:
        """Say where the bins lie (struct malloc_state): what points to them and to chunks is left over from free memory."""
        self._arenas = _ranges(sorted(arenas))
        self._library.leakline_heap_arenas(self._heap, self._arenas, ctypes.c_size_t(len(arenas)))

    def leave_out(self, dead: Sequence[tuple[int, int]]) -> None:
        """Follow no pointers from memory that holds only left-overs, within blocks too: sorted ranges, apart from each other."""
        self._dead = _ranges(dead)
        self._library.leakline_heap_leave_out(self._heap, self._dead, ctypes.c_size_t(len(dead)))

    def mark(
        self,
        roots: Sequence[tuple[int, int]],
        values: Sequence[int],
        files: Sequence[tuple[int, int]] = (),
        code: Sequence[tuple[int, int]] = (),
        *,
        census: bool = False,
        records: SiteRecords | None = None,
    ) -> list[RawGroup]:
        """Follow pointers from ranges of memory and from values of registers.

        Args:
            roots: the ranges.
            values: the registers.
            files: readable mappings of files, sorted: where vtables lie.
            code: executable ones, sorted.
            census: count all blocks that are not free.
            records: who allocated them, and how much of them is in use.

        Returns:
            with `census` the blocks by state, size, site and first word: one that points to none of the files is not told apart.

        """
        modules = _Modules(_ranges(files), len(files), _ranges(code), len(code))
        room = _MOST_GROUPS if records is None else _MOST_GROUPS_BY_SITE
        groups = (_Group * room)() if census else None
        recorded = _Records() if records is None else _records(records)
        function = self._library.leakline_heap_mark
        function.restype = ctypes.c_int64
        arguments = *_places(roots, values), ctypes.byref(modules), groups, ctypes.c_size_t(room), ctypes.byref(recorded)
        count = int(function(self._heap, *arguments))
        if count < 0:
            raise _no_memory()
        return [
            RawGroup(first_word=g.first_word, size=g.size, blocks=g.blocks, bytes=g.bytes, state=g.state, site=g.site)
            for g in (groups[:count] if groups is not None else ())
        ]

    def path(self, address: int, roots: Sequence[tuple[int, int]], values: Sequence[int]) -> list[RawStep] | WhyNot:
        """The shortest path from a root to the block that holds the address, the block first; or why there is none."""
        steps = (_Step * _MOST_STEPS)()
        function = self._library.leakline_heap_path
        function.restype = ctypes.c_int64
        room = ctypes.c_size_t(_MOST_STEPS)
        count = int(function(self._heap, *_places(roots, values), ctypes.c_uint64(address), steps, room))
        if count == _NO_MEMORY:
            raise _no_memory()
        return _WHY_NOT[count] if count <= 0 else _steps(steps, count)

    def referrers(self, address: int) -> list[RawStep]:
        """Some of the other blocks that point into the block that holds the address."""
        steps = (_Step * _MOST_REFERRERS)()
        function = self._library.leakline_heap_referrers
        function.restype = ctypes.c_int64
        return _steps(steps, int(function(self._heap, ctypes.c_uint64(address), steps, ctypes.c_size_t(_MOST_REFERRERS))))

    def freed(self) -> int:
        """Usable bytes of what tcaches and fastbins hold."""
        function = self._library.leakline_heap_freed
        function.restype = ctypes.c_uint64
        return int(function(self._heap))

    def totals(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Blocks and usable bytes by state, once all are marked."""
        if self._totals is None:
            totals = _Totals()
            self._library.leakline_heap_totals(self._heap, ctypes.byref(totals))
            self._totals = tuple(totals.blocks), tuple(totals.bytes)
        return self._totals

    def lost(self) -> Iterable[RawLostBlock]:
        """Every block that is neither reachable nor free."""
        blocks, _ = self.totals()
        room = blocks[UNREACHED] + blocks[POSSIBLE] + blocks[INDIRECT]
        raw = (_LostBlock * max(room, 1))()
        function = self._library.leakline_heap_lost
        function.restype = ctypes.c_size_t
        count = function(self._heap, raw, ctypes.c_size_t(room))
        return (
            RawLostBlock(address=b.address, size=b.size, leader=b.leader, first_word=b.first_word, state=b.kind)
            for b in raw[:count]
        )


def _records(records: SiteRecords) -> _Records:
    return _Records(_segments(records.copy), len(records.copy.runs), records.table, records.bounds)


def _segments(copy: MemoryCopy) -> ctypes.Array[_Segment]:
    base = copy.base_address()
    return (_Segment * max(len(copy.runs), 1))(
        *(_Segment(start, end - start, base + copy.offset(i)) for i, (start, end) in enumerate(copy.runs))
    )


def _places(
    roots: Sequence[tuple[int, int]], values: Sequence[int]
) -> tuple[ctypes.Array[_Range], ctypes.c_size_t, ctypes.Array[ctypes.c_uint64], ctypes.c_size_t]:
    registers = (ctypes.c_uint64 * max(len(values), 1))(*values)
    return _ranges(roots), ctypes.c_size_t(len(roots)), registers, ctypes.c_size_t(len(values))


def _steps(steps: ctypes.Array[_Step], count: int) -> list[RawStep]:
    return [
        RawStep(address=s.address, size=s.size, held_at=s.held_at, is_value=bool(s.is_value), interior=bool(s.interior))
        for s in steps[: max(count, 0)]
    ]


def _no_memory() -> NotPossible:
    return NotPossible("no memory left to judge the heap", hint="Run it where there is more memory, or when there is.")


def _ranges(ranges: Sequence[tuple[int, int]]) -> ctypes.Array[_Range]:
    return (_Range * max(len(ranges), 1))(*(_Range(start, end) for start, end in ranges))
