"""glibc's malloc, 2.28 to 2.43 on x86-64: where its arenas are, found by their shape and so without debug symbols.

Sources: malloc/malloc.c and malloc/arena.c of glibc 2.28, 2.30, 2.31, 2.32, 2.35, 2.36, 2.41, 2.42 and 2.43.
"""

from __future__ import annotations

import bisect
import re
from typing import TYPE_CHECKING, Literal

import msgspec

from leakline.errors import LeaklineError, NotPossible, NotSupported
from leakline.model.ranges import subtract
from leakline.native.heap import PAGE, TcacheLayout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leakline.model.vma import Vma
    from leakline.native.heap import Heap, MemoryCopy

_VERSION = re.compile(rb"GNU C Library [^\n\0]*version (\d+)\.(\d+)")
OLDEST, NEWEST = (2, 28), (2, 43)

_FASTBINS, _BIN_COUNT = 0x10, 127
_HEAP_MAX = 64 << 20
_MOST_ARENAS = 65536
_MOST_GAPS = 65536
_PREV_INUSE, _FLAGS, _ALIGN, _MINSIZE = 1, 7, 16, 32
_MUTEX = 0xFFFFFFFF  # the first word of struct malloc_state begins with it: 0 when it is free


Moment = Literal["at rest", "at work", "running"]
"""When a process was copied: `at work` is that its only thread may have been amid malloc, which then takes no lock (one of several
threads holds that of its arena, where a bin may be half linked); `running`, that it ran on, so that nothing need fit together."""


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
    """(first chunk, end) of each run of chunks, the newest first: it ends at the top chunk, an older one at a fencepost."""
    memory: tuple[tuple[int, int], ...]
    """All address ranges that belong to the arena, its bookkeeping included."""
    begins: bool
    """Whether its memory surely begins with a chunk: before malloc's first call sbrk may have been somebody else's."""


class HeapLayout(msgspec.Struct, frozen=True, kw_only=True):
    """What the walk found, and which memory is the allocator's."""

    bookkeeping: tuple[tuple[int, int], ...]
    """Ranges that belong to malloc: they are no roots."""
    rests: tuple[tuple[int, int], ...]
    """Ranges within malloc's own blocks that it never writes: they hold what was there before."""
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
        broken += copy.word(forward + 24) != here or copy.word(backward + 16) != here
        if broken > 2:
            return None
    return broken


def find_main_arena(copy: MemoryCopy, layout: ArenaLayout, libc: Iterable[Vma]) -> int | None:
    """The address of main_arena in libc's data; None if malloc was never called (its bins are zero until then).

    One bin may be broken, where a thread was stopped while it linked a chunk in, or the link to the next arena. An address near
    the true one may look nearly as good, but has no such link: the best one is taken.
    """
    best: tuple[int, int] | None = None
    for vma in libc:
        for start, end in copy.pieces(vma.start, vma.end):
            words = copy.words(start, (end - start) // 8)
            empty = [at for at, word in enumerate(words) if word == start + 8 * at - 16]
            # Bins that are rarely all in use at once: a quick look before the whole check.
            begins = {at - layout.bins // 8 - 2 * b for at in empty for b in range(0, _BIN_COUNT - 1, 7)}
            for index in sorted(index for index in begins if 0 <= index <= len(words) - layout.size // 8):
                broken = _broken_bins(copy, start + 8 * index + layout.bins)
                if broken is None:
                    continue
                broken += _successor(copy, layout, start + 8 * index) is None
                if best is None or broken < best[0]:
                    best = broken, start + 8 * index
    return None if best is None or best[0] > 1 else best[1]


def main_top(copy: MemoryCopy, layout: ArenaLayout, main_arena: int) -> int | None:
    """The address of the main arena's top chunk, which lies in [heap]; None where it was not copied."""
    return copy.word(main_arena + layout.top)


def _successor(copy: MemoryCopy, layout: ArenaLayout, address: int) -> int | None:
    """The arena that an arena leads to; None if it cannot be one."""
    following = copy.word(address + layout.next)
    return following if following and following % 8 == 0 else None


class _Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What an arena serves chunks from."""

    runs: tuple[tuple[int, int], ...]
    memory: tuple[tuple[int, int], ...]
    end: int
    """Where the newest heap ends, and with it the top chunk."""
    whole: bool = True
    """Whether all heaps were found."""


def _main_heap(copy: MemoryCopy, layout: ArenaLayout, address: int, vmas: list[Vma]) -> _Memory:
    top = copy.word(address + layout.top) or 0
    brk = [vma for vma in vmas if vma.path == "[heap]"]
    if not brk or not brk[0].start <= top < brk[-1].end:
        return _Memory(runs=(), memory=(), end=0, whole=not brk and not copy.word(address + layout.system_mem))
    start, end = brk[0].start, brk[-1].end
    header = copy.word(top + 8) or 0
    # Others may have called sbrk since: then the top chunk ends earlier, at a page (sysmalloc asserts that).
    own = top + (header & ~_FLAGS)
    return _Memory(runs=((start, top),), memory=((start, end),), end=own if own <= end and own % PAGE == 0 else end)


def _thread_heaps(copy: MemoryCopy, layout: ArenaLayout, arena: int, vmas: list[Vma]) -> _Memory:
    """The 64 MiB-aligned heap_infos of a thread's arena, newest first: {arena, previous heap, size, ...}."""
    oldest = arena & ~(_HEAP_MAX - 1)
    top = copy.word(arena + layout.top) or 0
    heap = newest = top & ~(_HEAP_MAX - 1)
    runs: list[tuple[int, int]] = []
    memory: list[tuple[int, int]] = []
    newest_end = 0
    seen: set[int] = set()
    while True:
        words = copy.words(heap, 3)
        start = (arena + layout.size if heap == oldest else heap + arena - oldest) + 15 & ~15
        end = heap + words[2] if len(words) == 3 else 0
        if end <= start or words[0] != arena or words[2] > _HEAP_MAX or heap in seen:
            return _Memory(runs=tuple(runs), memory=tuple(memory), end=newest_end, whole=False)
        seen.add(heap)
        runs.append((start, top if heap == newest else end))
        newest_end = newest_end or end
        index = bisect.bisect_right(vmas, heap, key=lambda vma: vma.start) - 1
        mapped = vmas[index].end if index >= 0 and heap in vmas[index] else end
        memory.append((heap, min(mapped, heap + _HEAP_MAX)))
        if heap == oldest:
            return _Memory(runs=tuple(runs), memory=tuple(memory), end=newest_end, whole=not words[1])
        heap = words[1]


def _top_size(copy: MemoryCopy, top: int, end: int, *, busy: bool) -> int | None:
    """The size of a top chunk that reaches to the end, or None: malloc itself aborts on any other (sysmalloc).

    A thread that is at work moves the end first, and then sets the size.
    """
    header = copy.word(top + 8)
    if header is None or top % _ALIGN or not header & _PREV_INUSE or end - top < _MINSIZE:
        return None
    return end - top if top + (header & ~_FLAGS) == end or busy else None


def find_arenas(
    copy: MemoryCopy, layout: ArenaLayout, main_arena: int, vmas: list[Vma], *, moment: Moment = "at rest"
) -> tuple[list[Arena], list[str]]:
    """The main arena and those of threads, which form a circle; and what was broken.

    Args:
        copy: the process.
        layout: the form of its arenas.
        main_arena: address of the first.
        vmas: its mappings.
        moment: when it was copied.

    """
    arenas: list[Arena] = []
    problems: list[str] = []
    visited: set[int] = set()
    address: int | None = main_arena
    while address is not None and len(arenas) < _MOST_ARENAS:
        if address in visited:
            problems.append(f"the arena at {address:#x} is corrupt: it is its own successor")
            break
        visited.add(address)
        main = address == main_arena
        found = (_main_heap if main else _thread_heaps)(copy, layout, address, vmas)
        corrupt = f"the arena at {address:#x} is corrupt"
        if not found.whole:
            problems.append(
                "the main arena does not end in [heap], as where sbrk failed once: its blocks were not read"
                if main
                else f"{corrupt}: its heaps do not belong together"
            )
        busy = moment != "at rest" or bool((copy.word(address) or 0) & _MUTEX)
        broken = _broken_bins(copy, address + layout.bins)
        if moment != "running" and (broken is None or broken > busy):
            problems.append(f"{corrupt}, or a thread was at work in it: its bins do not hold together")
        runs = list(found.runs)
        top = copy.word(address + layout.top) or 0
        size = _top_size(copy, top, found.end, busy=busy) if runs else 0
        if size is None and moment == "running":
            size = max(found.end - top, 0)
        if size is None:
            problems.append(f"{corrupt}: its top chunk does not reach the end of its heap")
            # The walk tells how far its chunks go.
            runs[0], top, size = (runs[0][0], found.end), found.end, 0
        if runs or main:
            arenas.append(
                Arena(
                    address=address,
                    top=top,
                    top_size=size,
                    fastbins=copy.words(address + _FASTBINS, layout.fastbin_count),
                    heaps=tuple(runs),
                    memory=(*found.memory, (address, address + layout.size)),
                    begins=not main or not runs or found.end - (copy.word(address + layout.system_mem) or 0) == runs[0][0],
                )
            )
        following = _successor(copy, layout, address)
        if following is None:
            problems.append(f"{corrupt}: it has no successor")
        address = None if following == main_arena else following
    return arenas, problems


def _walk(
    heap: Heap, first: int, end: int, problems: list[str], *, main: bool, begins: bool, older: bool, torn: bool
) -> tuple[int, list[tuple[int, int]]]:
    """Walk a run of chunks; returns free bytes, and the gaps that are no heap, or could not be read as one.

    In the main arena others may have called sbrk: before malloc first did, or in between, behind a fencepost. Behind that may be
    nothing but the top chunk, where the others were joined with it.
    An older heap of a thread's arena ends in one, of 16 to 48 bytes.
    """
    free: int = 0
    gaps: list[tuple[int, int]] = []
    begin = first
    while first < end:
        walk = heap.walk(first, end, torn=torn)
        free += walk.free_bytes
        if walk.end == "fencepost" and older and end - walk.stopped_at <= 48:
            break
        if walk.end == "end" and not older:
            break
        fence = walk.end == "fencepost" and main
        stop = walk.stopped_at + 32 if fence else walk.stopped_at
        at_once = walk.stopped_at == begin
        following = heap.resume(stop, end) if main and (fence or at_once) and len(gaps) < _MOST_GAPS else None
        if following == end and fence and stop % PAGE:
            following = None  # not where malloc once set the end of its memory: nothing says that only the top lies behind
        # What cannot be read as a heap stays a root: it may hold the only pointer to a block.
        gaps.append((stop, following or end))
        if following is None or (begins and at_once):
            where = "could not be read" if walk.end == "not copied" else "is corrupt"
            problems.append(f"the heap {where} at {stop:#x}: the {(following or end) - stop} bytes behind were not judged")
        first = following or end
    return free, gaps


def add_blocks(
    heap: Heap, version: GlibcVersion, arenas: list[Arena], vmas: list[Vma], *, moment: Moment = "at rest"
) -> HeapLayout:
    """Add all blocks of the process to `heap`, indexed, with the allocator's free lists taken out."""
    bookkeeping: list[tuple[int, int]] = []
    problems: list[str] = []
    free = 0
    for number, arena in enumerate(arenas):
        gaps: list[tuple[int, int]] = []
        for age, (first, end) in enumerate(arena.heaps):
            kind = {"main": number == 0, "begins": arena.begins, "older": age > 0, "torn": moment == "running"}
            more, found = _walk(heap, first, end, problems, **kind)
            free += more
            gaps += found
        if number == 0 and arena.heaps:
            # Behind the top chunk [heap] belongs to whoever called sbrk last.
            gaps.append((arena.top + max(arena.top_size, 16), arena.memory[0][1]))
        bookkeeping += subtract(arena.memory, gaps)
        free += arena.top_size
    anonymous = [
        (vma.start, vma.end)
        for vma in vmas
        if not (vma.is_file or vma.is_shared) and (vma.path is None or vma.path.startswith("[anon: glibc: malloc"))
    ]
    # The kernel joins neighbours: one mapping may hold an arena's heap and mmapped chunks.
    for start, end in subtract(anonymous, (piece for arena in arenas for piece in arena.memory)):
        bookkeeping += heap.mmapped(start, end)
    try:
        heap.index()
    except LeaklineError as error:
        raise NotPossible(
            f"the heap is corrupt: {error.message}", hint="valgrind can find what writes where it must not."
        ) from error
    tcaches = heap.tcaches(version.tcache)
    if tcaches is None:
        problems.append("too many blocks look like a thread's cache: some that are free may be called lost")
    elif tcaches.damaged and moment != "running":
        problems.append(f"{tcaches.damaged} caches of threads are corrupt: some blocks that are free may be called lost")
    for arena in arenas:
        sizes_and_heads = enumerate(arena.fastbins, 2)
        broken = [head for size, head in sizes_and_heads if heap.fastbin(head, 16 * size, mangled=version.mangles_links) is None]
        problems += [f"a fastbin of the arena at {arena.address:#x} is corrupt"] if broken else []
    rests = () if tcaches is None else tcaches.rests
    return HeapLayout(bookkeeping=tuple(bookkeeping), rests=rests, free_bytes=free + heap.freed(), problems=tuple(problems))
