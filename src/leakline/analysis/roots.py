"""Where a program keeps its pointers: from there everything reachable is reachable.

A thread's stack counts from the stack pointer up: what lies below is left over from calls that have returned.
Its bounds are those that glibc keeps in struct pthread: the kernel may have joined the mapping with its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from leakline.model.ranges import Range

RED_ZONE = 128  # System V ABI for x86-64, 3.2.2
_PTHREAD_WORDS = 512
_SMALLEST_STACK = 8192


class ThreadStack(msgspec.Struct, frozen=True, kw_only=True):
    """A stopped thread, as far as roots go."""

    stack_pointer: int
    thread_pointer: int


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
        if not start or size < _SMALLEST_STACK or start + size > 1 << 47 or guard > size:
            continue
        # The thread's own descriptor lies at the end of a stack that glibc made.
        if start <= thread.thread_pointer < start + size and guard % 4096 == 0:
            return start, start + size
    return None


def dead_stack(threads: Iterable[tuple[ThreadStack, Range | None]]) -> list[Range]:
    """The parts of stacks below the stack pointers, which hold only left-overs.

    A stack pointer outside the bounds (a coroutine, sigaltstack) leaves the whole stack alive.
    """
    dead = []
    for thread, bounds in threads:
        if bounds is not None and bounds[0] <= thread.stack_pointer < bounds[1]:
            dead.append((bounds[0], max(bounds[0], thread.stack_pointer - RED_ZONE)))
    return dead
