"""Why a page fault was served as it was: from the mapping, the access, and what was there before.

Sources: mm/memory.c of Linux 6.12 (handle_pte_fault and below), Intel SDM 3A 4.7 for the error code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from leakline.model.faults import ABSENT, FILE, SHARED, SWAPPED, WRITTEN, ZERO

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leakline.model.faults import Access, FaultCause, FaultVma

_PAGE_SHIFT, _CHUNK_PAGES, _CHUNK_SHIFT = 12, 512, 21
CODE_PRESENT, CODE_WRITE, CODE_FETCH = 1, 2, 16
_AFTER_FORK = bytes((ABSENT, ZERO, SHARED, FILE, SHARED, SWAPPED)) + bytes(range(6, 256))
_SPURIOUS_NS = 5_000


class PageStates:
    """What is known of a process's pages: a byte for each, for those that were met."""

    def __init__(self) -> None:
        self._chunks: dict[int, bytearray] = {}
        self.forked = False
        """Whether pages may be shared with a relative, copy on write."""
        self._before_fork: dict[int, bytes] | None = None
        self._parent_forked = False

    def get(self, address: int) -> int:
        """The state of a page."""
        chunk = self._chunks.get(address >> _CHUNK_SHIFT)
        return ABSENT if chunk is None else chunk[address >> _PAGE_SHIFT & _CHUNK_PAGES - 1]

    def set(self, address: int, state: int) -> None:
        """Note it."""
        chunk = self._chunks.get(address >> _CHUNK_SHIFT)
        if chunk is None:
            chunk = self._chunks[address >> _CHUNK_SHIFT] = bytearray(_CHUNK_PAGES)
        chunk[address >> _PAGE_SHIFT & _CHUNK_PAGES - 1] = state

    def fill(self, start: int, states: bytes) -> None:
        """Note the states of pages from an address on."""
        page, at = start >> _PAGE_SHIFT, 0
        while at < len(states):
            inside = page & _CHUNK_PAGES - 1
            count = min(_CHUNK_PAGES - inside, len(states) - at)
            piece = states[at : at + count]
            if any(piece):
                chunk = self._chunks.setdefault(page >> 9, bytearray(_CHUNK_PAGES))
                chunk[inside : inside + count] = piece
            page, at = page + count, at + count

    def forget(self, start: int, end: int) -> None:
        """Nothing is there any more."""
        for number in [n for n in self._chunks if start >> _CHUNK_SHIFT <= n <= end - 1 >> _CHUNK_SHIFT]:
            low = max(start >> _PAGE_SHIFT, number << 9) & _CHUNK_PAGES - 1
            high = min((end - 1 >> _PAGE_SHIFT) - (number << 9), _CHUNK_PAGES - 1)
            self._chunks[number][low : high + 1] = bytes(high + 1 - low)

    def fork(self) -> PageStates:
        """A child's pages. Both share what was written from now on."""
        child = PageStates()
        child._before_fork = {number: bytes(chunk) for number, chunk in self._chunks.items()}
        child._parent_forked = self.forked
        for number, chunk in self._chunks.items():
            chunk[:] = chunk.translate(_AFTER_FORK)
            child._chunks[number] = bytearray(chunk)
        self.forked = child.forked = True
        return child

    def take_back(self, child: PageStates) -> None:
        """The child used its parent's memory itself, as vfork(2) has it: nothing was shared copy on write."""
        for number, before in (child._before_fork or {}).items():
            chunk = self._chunks.get(number)
            if chunk is not None and SHARED in chunk and WRITTEN in before:
                for place, (was, now) in enumerate(zip(before, chunk, strict=True)):
                    if was == WRITTEN and now == SHARED:
                        chunk[place] = WRITTEN
        self.forked = child._parent_forked


class Touch(NamedTuple):
    """A fault, for judging."""

    time_ns: int
    tid: int
    address: int
    major: bool
    access: Access | None
    code: int | None
    """The processor's error code, where it is known."""
    began_ns: int | None = None
    """When the fault began; `time_ns` is when it had been served."""


class Judge:
    """Judges the faults of one process, in order, and remembers pages for the next.

    Args:
        states: of its pages.
        numa: the kernel moves pages between memory nodes, and unmaps them to see who uses them.

    """

    def __init__(self, states: PageStates, *, numa: bool) -> None:
        self.states = states
        self._numa = numa
        self._last: dict[int, tuple[int, int]] = {}

    def cause(self, touch: Touch, vma: FaultVma | None, flags: Iterable[str] = ()) -> FaultCause:
        """Why the fault was served so.

        Args:
            touch: the fault.
            vma: where it was.
            flags: VmFlags of the mapping, as far as they are known.

        """
        state = self.states.get(touch.address)
        found = self._cause(touch, vma, state, frozenset(flags))
        self._remember(touch, vma, found)
        return found

    def mapped(self, start: int, end: int) -> None:
        """There is another mapping: who touches it next is not late."""
        first, last = start >> _PAGE_SHIFT, end - 1 >> _PAGE_SHIFT
        pages = range(first, last + 1) if last - first < len(self._last) else [p for p in self._last if first <= p <= last]
        for page in pages:
            self._last.pop(page, None)

    def _cause(self, touch: Touch, vma: FaultVma | None, state: int, flags: frozenset[str]) -> FaultCause:
        if vma is None:
            return "unknown"
        if _is_provided(touch, state, flags):
            return "userfaultfd"
        if self._again(touch):
            return "spurious"
        shared, file = vma.perms[3] == "s", _is_file(vma)
        present = None if touch.code is None else bool(touch.code & CODE_PRESENT)
        if touch.major:
            return "read-from-disk" if file and state not in (SWAPPED, WRITTEN, SHARED) else "swap-in"
        if present:
            return _protected(touch, shared=shared)
        if self._numa and state in (WRITTEN, FILE) and touch.access == "read":
            return "numa"
        if state == SWAPPED:
            return "swap-in"
        if file or (vma.kind == "hugetlb" and shared):
            return _of_file(touch, state, present, shared=shared)
        if shared:
            return "page-cache" if state == FILE else "first-touch"
        return self._anonymous(touch, state, present)

    def _anonymous(self, touch: Touch, state: int, present: bool | None) -> FaultCause:
        if touch.access == "write" or touch.access is None:
            # Without an error code, what was there before tells; what was given back (madvise) and came again is new.
            copied = present is None and (state == SHARED or (state == ZERO and touch.access == "write"))
            return "copy-on-write" if copied else "first-touch"
        return "zero-page"

    def _again(self, touch: Touch) -> bool:
        """Another thread made the same fault at the same time, and was served first."""
        served, by = self._last.get(touch.address >> _PAGE_SHIFT, (0, touch.tid))
        if by == touch.tid or touch.code not in (None, 4, 6):
            return False
        return touch.time_ns - served < _SPURIOUS_NS if touch.began_ns is None else touch.began_ns < served

    def _remember(self, touch: Touch, vma: FaultVma | None, cause: FaultCause) -> None:
        if len(self._last) > 4096:
            self._last.clear()
        self._last[touch.address >> _PAGE_SHIFT] = touch.time_ns, touch.tid
        if vma is None or cause == "spurious":
            return
        private_write = touch.access == "write" and vma.perms[3] != "s"
        after = WRITTEN if private_write else ZERO if cause == "zero-page" else FILE
        self.states.set(touch.address, after if cause != "swap-in" or _is_file(vma) else WRITTEN)


def _is_provided(touch: Touch, state: int, flags: frozenset[str]) -> bool:
    """Whether somebody else had to give the page (um), or to allow the write (uw)."""
    there = state not in (ABSENT, SWAPPED) if touch.code is None else bool(touch.code & CODE_PRESENT)
    return ("um" in flags and not there) or ("uw" in flags and there and touch.access == "write")


def _is_file(vma: FaultVma) -> bool:
    return vma.kind in ("text", "rodata", "data", "file")


def _protected(touch: Touch, *, shared: bool) -> FaultCause:
    """The page was there, and what was asked of it was not allowed yet."""
    if touch.code is not None and touch.code & CODE_WRITE:
        return "write-notify" if shared else "copy-on-write"
    return "spurious"


def _of_file(touch: Touch, state: int, present: bool | None, *, shared: bool) -> FaultCause:
    if touch.access == "write" and not shared:
        return "copy-on-write"
    if touch.access == "write" and present is None and state == FILE:
        return "write-notify"
    return "page-cache"


WORDS: dict[FaultCause, str] = {
    "first-touch": "a page that the program had asked for, touched for the first time: the kernel gave it a page of zeros",
    "zero-page": "a read of memory that was never written: the kernel mapped its one page of zeros, which costs no memory",
    "copy-on-write": "a write to a page that was shared: the kernel made a private copy of it",
    "page-cache": "a page of a file that was in memory already: the kernel only had to map it",
    "read-from-disk": "a page of a file that was not in memory: the program waited until it was read from disk",
    "swap-in": "a page that had been moved to swap: the program waited until it was back, unless it still lay in memory",
    "userfaultfd": "a page that another thread or process had to provide (userfaultfd)",
    "write-notify": "the first write to a shared page of a file since it was written to disk: the file system had to be told",
    "numa": "the kernel had unmapped the page to see which CPU uses it (NUMA balancing)",
    "spurious": "there was nothing to do: another thread had been served first, or the processor knew old permissions",
    "unknown": "the mapping was gone before it could be looked up",
}
"""What each cause means."""
