"""Where a program keeps its pointers: from there everything reachable is reachable.

A thread's stack counts from the stack pointer up: what lies below is left over from calls that have returned.
Its bounds are those that glibc keeps in struct pthread: the kernel may have joined the mapping with its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from leakline.model.ranges import Range

RED_ZONE = 128  # System V ABI for x86-64, 3.2.2
_PTHREAD_WORDS = 512
_SMALLEST_STACK, _LARGEST_STACK = 8192, 1 << 40
_MOST_ABOVE = 1 << 16
_MOST_THREADS = 1 << 16
_MOST_MODULES = 1 << 16
_PAGE = 4096
# Where the head of the list of kept stacks lies behind that of those in use, since glibc 2.34: user, used, or both are before it.
_CACHE_BEHIND = (16, 32)
_HEADS_WITHIN = 8 * _PAGE  # libpthread.so of glibc 2.28 to 2.33: 2 KiB of .data, 17 KiB of .bss


class ThreadStack(msgspec.Struct, frozen=True, kw_only=True):
    """A stopped thread, as far as roots go."""

    stack_pointer: int
    thread_pointer: int
    has_red_zone: bool = True
    """Below the stack pointer too there may be words in use; not while the function that it ran is calling another."""


def stack_bounds(thread: ThreadStack, words: Callable[[int, int], Sequence[int]]) -> Range | None:
    """A thread's stack by struct pthread's `stackblock, stackblock_size, guardsize`, found by their shape; None if not found.

    Args:
        thread: its registers.
        words: reads (address, count) words of the target.

    """
    if not thread.thread_pointer:
        return None
    found = words(thread.thread_pointer, _PTHREAD_WORDS)
    for index in range(len(found) - 2):
        start, size, guard = found[index : index + 3]
        # The first thread has no block of its own here: its start is 0.
        if not start or not _SMALLEST_STACK <= size <= _LARGEST_STACK or start + size > 1 << 47 or guard > size:
            continue
        # The thread's own descriptor lies at the very end of its stack (nptl/allocatestack.c).
        if start <= thread.thread_pointer < start + size <= thread.thread_pointer + _MOST_ABOVE and guard % 4096 == 0:
            return start, start + size
    return None


def ended_stacks(threads: Iterable[tuple[int, int]], words: Callable[[int, int], Sequence[int]]) -> dict[int, Range]:
    """The stacks of threads that have ended, by the address of their struct pthread: the part that holds only left-overs.

    That is all of a stack that glibc keeps for the next thread. Where the thread may still be joined, its struct pthread leads to
    its result, and its TLS is still there.

    struct pthread has `list_t list; pid_t tid;` one behind the other (nptl/descr.h). The list of those in use, or of the first,
    leads to its head; the heads of the others lie beside it (`_dl_stack_used`, `_dl_stack_user`, `_dl_stack_cache` of
    sysdeps/generic/ldsodefs.h), or, before glibc 2.34, elsewhere in the data of libpthread (`stack_used`, `__stack_user`,
    `stack_cache` of nptl/allocatestack.c). An ended thread's tid is 0, and -1 once it was
    joined; that of a detached one is 0, and its `joinid` points to itself.

    Args:
        threads: tid and thread pointer of those that live.
        words: reads (address, count) words of the target.

    """
    places = ((pointer, _list_offset(tid, pointer, words)) for tid, pointer in threads)
    start, offset = next(((pointer, place) for pointer, place in places if place is not None), (0, 0))
    found: dict[int, Range] = {}
    if not start:
        return found
    known = [node for node in _ring(start + offset, words, set()) or () if not _is_descriptor(node - offset, words)]
    if len(known) != 1:
        return found
    seen: set[int] = set()
    for head in _heads_around(known[0], words):
        for node in _ring(head, words, seen) or ():
            descriptor = node - offset
            tid = next(iter(words(node + 16, 1)), 1) & 0xFFFFFFFF
            if 0 < tid < 1 << 31 or not _is_descriptor(descriptor, words):
                continue
            bounds = stack_bounds(ThreadStack(stack_pointer=0, thread_pointer=descriptor), words)
            if bounds is None:
                continue
            detached = descriptor in words(descriptor, min((bounds[1] - descriptor) // 8, _PTHREAD_WORDS))[3:]
            if tid or detached or head - known[0] in _CACHE_BEHIND:
                found[descriptor] = bounds
            else:
                found[descriptor] = bounds[0], _tls_start(descriptor, bounds[0], words)
    return found


def _tls_start(descriptor: int, stack_start: int, words: Callable[[int, int], Sequence[int]]) -> int:
    """Where a thread's TLS begins, which ends at its descriptor: its dtv names each module's block (sysdeps/x86_64/nptl/tls.h)."""
    dtv = next(iter(words(descriptor + 8, 1)), 0)
    entries = min(next(iter(words(dtv - 16, 1)), 0), _MOST_MODULES)
    return min((block for block in words(dtv + 16, 2 * entries)[::2] if stack_start <= block < descriptor), default=stack_start)


def _heads_around(address: int, words: Callable[[int, int], Sequence[int]]) -> Iterator[int]:
    """Addresses of what may be a list's head, as far from there as libpthread's data reaches: each is linked both ways."""
    page = address & -_PAGE
    for start in range(page - _HEADS_WITHIN, page + _HEADS_WITHIN + _PAGE, _PAGE):
        for index, following in enumerate(words(start, _PAGE // 8)):
            place = start + 8 * index
            if following not in (0, place) and following % 8 == 0 and next(iter(words(following + 8, 1)), 0) == place:
                yield place


def _list_offset(tid: int, pointer: int, words: Callable[[int, int], Sequence[int]]) -> int | None:
    """Where its list entry lies in a thread's descriptor: before its tid, and linked both ways."""
    descriptor = words(pointer, _PTHREAD_WORDS)
    for index in range(2, len(descriptor)):
        if descriptor[index] & 0xFFFFFFFF == tid:
            node = pointer + 8 * (index - 2)
            following = words(descriptor[index - 2], 2)
            if len(following) == 2 and following[1] == node:
                return 8 * (index - 2)
    return None


def _is_descriptor(address: int, words: Callable[[int, int], Sequence[int]]) -> bool:
    """Whether a struct pthread begins there: its `tcb` and `self` point to itself (sysdeps/x86_64/nptl/tls.h)."""
    found = words(address, 3)
    return len(found) == 3 and found[0] == address == found[2]


def _ring(first: int, words: Callable[[int, int], Sequence[int]], seen: set[int]) -> list[int] | None:
    """The nodes of a circular list; None if it is none.

    Args:
        first: a node.
        words: reads (address, count) words of the target.
        seen: nodes of rings and of what began as one, from earlier calls: none is followed again, and only so many are in all.

    """
    if first in seen:
        return None
    nodes, before, node = [first], first, next(iter(words(first, 1)), 0)
    seen.add(first)
    while node != first:
        links = words(node, 2)
        if len(links) < 2 or links[1] != before or node in seen or len(seen) > _MOST_THREADS:
            return None
        nodes.append(node)
        seen.add(node)
        before, node = node, links[0]
    return nodes


def dead_stack(threads: Iterable[tuple[ThreadStack, Range | None]]) -> list[Range]:
    """The parts of stacks below the stack pointers, which hold only left-overs.

    A stack pointer outside the bounds (a coroutine, sigaltstack) leaves the whole stack alive. Where two processes share a stack,
    as after vfork(2), the lower stack pointer counts.
    """
    lowest: dict[Range, int] = {}
    for thread, bounds in threads:
        if bounds is not None and bounds[0] <= thread.stack_pointer < bounds[1]:
            in_use = thread.stack_pointer - (RED_ZONE if thread.has_red_zone else 0)
            lowest[bounds] = min(in_use, lowest.get(bounds, in_use))
    return [(start, max(start, in_use)) for (start, _), in_use in lowest.items()]
