"""Where the stacks of an image's threads lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.analysis.roots import ThreadStack, stack_bounds

if TYPE_CHECKING:
    from leakline.model.ranges import Range
    from leakline.sources.heap_image import HeapImage


def thread_stacks(image: HeapImage) -> list[tuple[ThreadStack, Range | None]]:
    """Each thread with the bounds of its stack, where they are known: those of [stack] for one that runs on it."""
    first = next((vma for vma in image.vmas if vma.path == "[stack]"), None)
    found: list[tuple[ThreadStack, Range | None]] = []
    for state in image.threads:
        thread = ThreadStack(
            stack_pointer=state.stack_pointer, thread_pointer=state.thread_pointer, has_red_zone=state.has_red_zone
        )
        if first is not None and state.stack_pointer in first:
            found.append((thread, (first.start, first.end)))
        else:
            found.append((thread, stack_bounds(thread, image.copy.words)))
    return found
