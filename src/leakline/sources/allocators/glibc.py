"""glibc's malloc, 2.28 to 2.43 on x86-64: where its arenas are, found by their shape and so without debug symbols.

Sources: malloc/malloc.c and malloc/arena.c of glibc 2.28, 2.30, 2.31, 2.32, 2.35, 2.36, 2.41, 2.42 and 2.43.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from leakline.errors import LeaklineError, NotPossible, NotSupported
from leakline.model.ranges import subtract
from leakline.native.heap import TcacheLayout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leakline.model.vma import Vma
    from leakline.native.heap import Heap, MemoryCopy

_VERSION = re.compile(rb"GNU C Library [^\n\0]*version (\d+)\.(\d+)")
OLDEST, NEWEST = (2, 28), (2, 43)

_FASTBINS, _BIN_COUNT = 0x10, 127
_HEAP_MAX = 64 << 20
_MOST_ARENAS = 65536


class ArenaLayout(msgspec.Struct, frozen=True, kw_only=True):
    """The form of glibc's struct malloc_state, which differs by version: offsets in bytes."""

    fastbin_count: int
    top: int
    bins: int
    next: int
    system_mem: int
    size: int


class GlibcVersion(msgspec.Struct, frozen=True, order=True):
    """A release, such as 2.36."""

    major: int
    minor: int

    def __str__(self) -> str:
        """As glibc writes it."""
        return f"{self.major}.{self.minor}"

    @property
    def is_known(self) -> bool:
        """Whether leakline reads the heaps of this release."""
        return OLDEST <= (self.major, self.minor) <= NEWEST

    @property
    def mangles_links(self) -> bool:
        """Safe-linking, since 2.32."""
        return (self.major, self.minor) >= (2, 32)

    @property
    def arena(self) -> ArenaLayout:
        """Struct malloc_state: the same from 2.27 to 2.42; without fastbins since 2.43."""
        count, shift = (0, 0x58) if (self.major, self.minor) >= (2, 43) else (10, 0)
        return ArenaLayout(
            fastbin_count=count,
            top=0x60 - shift,
            bins=0x70 - shift,
            next=0x870 - shift,
            system_mem=0x888 - shift,
            size=0x898 - shift,
        )

    @property
    def tcache(self) -> TcacheLayout:
        """Struct tcache_perthread_struct: one-byte counts up to 2.29; 12 more bins, and counts of free places, since 2.42."""
        version = (self.major, self.minor)
        bins, count_bytes = (76 if version >= (2, 42) else 64), (1 if version < (2, 30) else 2)
        entries = bins * count_bytes
        chunk = (entries + 8 * bins + 8 + 15) & ~15
        return TcacheLayout(
            chunk_size=chunk,
            bins=bins,
            small_bins=64,
            count_bytes=count_bytes,
            counts_entries=int(version < (2, 42)),
            entries_offset=entries,
            mangled=int(self.mangles_links),
        )


def parse_version(libc: bytes) -> GlibcVersion:
    """The release that a libc.so.6 names itself.

    Raises:
        NotSupported: it names none, or one that leakline does not know.

    """
    match = _VERSION.search(libc)
    if match is None:
        raise NotSupported("not supported: a libc that does not say which glibc it is")
    version = GlibcVersion(int(match[1]), int(match[2]))
    if not version.is_known:
        raise NotSupported(
            f"not supported: glibc {version}",
            hint="leakline reads the heaps of glibc {}.{} to {}.{}; a newer leakline may know this one.".format(*OLDEST, *NEWEST),
        )
    return version


class Arena(msgspec.Struct, frozen=True, kw_only=True):
    """One malloc_state and the memory that it serves."""

    address: int
    top: int
    top_size: int
    fastbins: tuple[int, ...]
    heaps: tuple[tuple[int, int], ...]
    """(first chunk, end) of each run of chunks; the newest ends at the top chunk."""
    memory: tuple[tuple[int, int], ...]
    """All address ranges that belong to the arena, its bookkeeping included."""


class HeapLayout(msgspec.Struct, frozen=True, kw_only=True):
    """What the walk found, and which memory is the allocator's."""

    bookkeeping: tuple[tuple[int, int], ...]
    """Ranges that belong to malloc: they are no roots."""
    free_bytes: int
    problems: tuple[str, ...]


def _broken_bins(copy: MemoryCopy, first: int) -> int | None:
    """How many bins of a malloc_state whose bins begin there do not hold together; None if it is none.

    Bins are circular lists that begin in the arena itself: an empty one points twice to its own place, and the first and the
    last chunk of another one point back to it.
    """
    bins = copy.words(first, 2 * (_BIN_COUNT - 1))
    if len(bins) < 2 * (_BIN_COUNT - 1):
        return None
    broken = 0
    for index in range(_BIN_COUNT - 1):
        here, forward, backward = first + 16 * index - 16, bins[2 * index], bins[2 * index + 1]
        if forward == backward == here:
            continue
        if not forward or not backward or forward % 16 or backward % 16:
            return None
        broken += copy.word(forward + 24) != here or copy.word(backward + 16) != here
        if broken > 2:
            return None
    return broken


def find_main_arena(copy: MemoryCopy, layout: ArenaLayout, libc: Iterable[Vma]) -> int | None:
    """The address of main_arena in libc's data; None if malloc was never called (its bins are zero until then).

    One bin may be broken, where a thread was stopped while it linked a chunk in. An address near the true one may look nearly
    as good: the best one is taken.
    """
    best: tuple[int, int] | None = None
    for vma in libc:
        for start, end in copy.pieces(vma.start, vma.end):
            words = copy.words(start, (end - start) // 8)
            for index in range(len(words) - layout.size // 8 + 1):
                first, bins = start + 8 * index + layout.bins, index + layout.bins // 8
                # Bins that are rarely all in use at once: a quick look before the whole check.
                if any(words[bins + 2 * b] == first + 16 * b - 16 for b in range(0, _BIN_COUNT - 1, 7)):
                    broken = _broken_bins(copy, first)
                    if broken is not None and (best is None or broken < best[0]):
                        best = broken, start + 8 * index
    return None if best is None or best[0] > 1 else best[1]


def main_top(copy: MemoryCopy, layout: ArenaLayout, main_arena: int) -> int | None:
    """The address of the main arena's top chunk, which lies in [heap]; None where it was not copied."""
    return copy.word(main_arena + layout.top)


def _main_heap(
    copy: MemoryCopy, layout: ArenaLayout, address: int, vmas: list[Vma]
) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    top = copy.word(address + layout.top) or 0
    brk = [vma for vma in vmas if vma.path == "[heap]"]
    if not brk or not brk[0].start <= top < brk[-1].end:
        return (), ()
    return ((brk[0].start, top),), ((brk[0].start, brk[-1].end),)


def _thread_heaps(
    copy: MemoryCopy, layout: ArenaLayout, arena: int, vmas: list[Vma]
) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """The 64 MiB-aligned heap_infos of a thread's arena, newest first: {arena, previous heap, size, ...}."""
    first = arena & ~(_HEAP_MAX - 1)
    info = arena - first
    top = copy.word(arena + layout.top) or 0
    heap = top & ~(_HEAP_MAX - 1)
    runs, memory = [], []
    end = top
    while heap:
        words = copy.words(heap, 3)
        if len(words) < 3 or words[0] != arena or words[2] > _HEAP_MAX:
            raise ValueError
        start = arena + layout.size if heap == first else heap + info
        runs.append(((start + 15) & ~15, end if heap == top & ~(_HEAP_MAX - 1) else heap + words[2]))
        mapped = next((vma.end for vma in vmas if heap in vma), heap + words[2])
        memory.append((heap, min(mapped, heap + _HEAP_MAX)))
        heap, end = words[1], 0
        if len(runs) > _MOST_ARENAS:
            raise ValueError
    return tuple(runs), tuple(memory)


def find_arenas(copy: MemoryCopy, layout: ArenaLayout, main_arena: int, vmas: list[Vma]) -> tuple[list[Arena], list[str]]:
    """The main arena and those of threads, which form a circle; and what was broken."""
    arenas: list[Arena] = []
    problems: list[str] = []
    visited: set[int] = set()
    address = main_arena
    while address and len(arenas) < _MOST_ARENAS:
        if address in visited:
            problems.append(f"the arena at {address:#x} is corrupt: it is its own successor")
            break
        visited.add(address)
        try:
            heaps, memory = (_main_heap if address == main_arena else _thread_heaps)(copy, layout, address, vmas)
        except ValueError:
            problems.append(f"the arena at {address:#x} is corrupt: its heaps do not belong together")
            break
        top = copy.word(address + layout.top) or 0
        header = copy.word(top + 8) if heaps else None
        if (
            address == main_arena
            and not heaps
            and (copy.word(address + layout.system_mem) or any(v.path == "[heap]" for v in vmas))
        ):
            problems.append("the main arena does not end in [heap], as where sbrk failed once: its blocks were not read")
        arenas.append(
            Arena(
                address=address,
                top=top,
                top_size=(header or 0) & ~7,
                fastbins=copy.words(address + _FASTBINS, layout.fastbin_count),
                heaps=heaps,
                memory=(*memory, (address, address + layout.size)),
            )
        )
        following = copy.word(address + layout.next)
        if following is None or following % 8:
            problems.append(f"the arena at {address:#x} is corrupt: it has no successor")
            break
        address = 0 if following == main_arena else following
    return arenas, problems


def _walk(heap: Heap, first: int, end: int, problems: list[str], *, main: bool) -> tuple[int, list[tuple[int, int]]]:
    """Walk a run of chunks; returns free bytes, and the gaps that are no heap, or could not be read as one.

    In the main arena others may have called sbrk: before malloc first did, or in between, behind a fencepost.
    """
    free: int = 0
    gaps: list[tuple[int, int]] = []
    begin = first
    while first < end:
        walk = heap.walk(first, end)
        free += walk.free_bytes
        if walk.end == "out of memory":
            raise MemoryError
        if walk.end == "end" or (walk.end == "fencepost" and not main):
            break
        stop = walk.stopped_at + 32 if walk.end == "fencepost" else walk.stopped_at
        following = heap.resume(stop, end) if main and (walk.end == "fencepost" or stop == begin) else None
        if following is not None:
            gaps.append((stop, following))
            first = following
            continue
        # What cannot be read as a heap stays a root: it may hold the only pointer to a block.
        gaps.append((stop, end))
        where = "could not be read" if walk.end == "not copied" else "is corrupt"
        problems.append(f"the heap {where} at {stop:#x}: the {end - stop} bytes behind were not judged")
        break
    return free, gaps


def add_blocks(heap: Heap, version: GlibcVersion, arenas: list[Arena], vmas: list[Vma]) -> HeapLayout:
    """Add all blocks of the process to `heap`, indexed, with the allocator's free lists taken out."""
    bookkeeping: list[tuple[int, int]] = []
    problems: list[str] = []
    free = 0
    for number, arena in enumerate(arenas):
        gaps: list[tuple[int, int]] = []
        for first, end in arena.heaps:
            more, found = _walk(heap, first, end, problems, main=number == 0)
            free += more
            gaps += found
        if number == 0 and arena.heaps:
            # Behind the top chunk [heap] belongs to whoever called sbrk last.
            gaps.append((arena.top + max(arena.top_size, 16), arena.memory[0][1]))
        bookkeeping += subtract(arena.memory, gaps)
        free += arena.top_size
    taken = sorted(bookkeeping)
    for vma in vmas:
        if vma.is_file or vma.is_shared or not (vma.path is None or vma.path.startswith("[anon: glibc: malloc")):
            continue
        # The kernel joins neighbours: one mapping may hold an arena's heap and mmapped chunks.
        for start, end in subtract([(vma.start, vma.end)], taken):
            bookkeeping += heap.mmapped(start, end)
    try:
        heap.index()
    except LeaklineError as error:
        raise NotPossible(
            f"the heap is corrupt: {error.message}", hint="valgrind can find what writes where it must not."
        ) from error
    heap.tcaches(version.tcache)
    for arena in arenas:
        broken = [head for head in arena.fastbins if heap.fastbin(head, mangled=version.mangles_links) is None]
        problems += [f"a fastbin of the arena at {arena.address:#x} is corrupt"] if broken else []
    return HeapLayout(bookkeeping=tuple(bookkeeping), free_bytes=free + heap.freed(), problems=tuple(problems))
