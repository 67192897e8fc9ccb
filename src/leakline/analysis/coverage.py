"""What a scan of malloc's heap did not see into, by name and with its share of the process."""

from __future__ import annotations

import re
from collections.abc import Sequence

from leakline.model.finding import NotJudged
from leakline.model.ranges import Range
from leakline.model.vma import Vma, VmaUsage

# Runtimes that keep objects in mappings of their own, by a file that their processes map.
_RUNTIMES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"/libjvm\.so"), "a JVM's heap"),
    (re.compile(r"/libpython3[^/]*\.so|/python3[^/]*$"), "Python's object arenas (pymalloc)"),
    (re.compile(r"/libcoreclr\.so|/libmonosgen"), ".NET's heap"),
    (re.compile(r"/node$|/libnode\.so|/chrom(?:e|ium)$"), "V8's heap"),
    (re.compile(r"/libruby[^/]*\.so"), "Ruby's object pages"),
    (re.compile(r"/libluajit"), "LuaJIT's heap"),
)
_WORTH_NAMING = 0.05, 1 << 20
_GROWTH_WORTH_NAMING = 64 * 1024


def runtime(vmas: Sequence[Vma]) -> str | None:
    """The runtime with a heap of its own that the process holds, if leakline knows it."""
    paths = {vma.path for vma in vmas if vma.is_file and vma.path}
    return next((name for pattern, name in _RUNTIMES if any(pattern.search(path) for path in paths)), None)


def outside_heap(usages: Sequence[VmaUsage], heap: Sequence[Range]) -> list[VmaUsage]:
    """Private memory that is neither the scanned heap, a stack, nor a file's."""
    return [
        u
        for u in usages
        if not u.vma.is_file
        and not u.vma.is_shared
        and not (u.vma.path or "").startswith(("[stack", "[vdso", "[vvar", "[heap"))
        and not any(start < u.vma.end and u.vma.start < end for start, end in heap)
    ]


def not_judged(
    before: Sequence[VmaUsage], after: Sequence[VmaUsage], heap: Sequence[Range], problems: Sequence[str]
) -> list[NotJudged]:
    """Memory outside malloc's heap that is a share worth naming, mappings there that grew, and what was unreadable."""
    held = sum(u.usage.uss + u.usage.swap for u in after)
    found = [NotJudged(name="part of the heap", bytes=None, share=None, why=problem) for problem in problems]
    elsewhere = outside_heap(after, heap)
    amount = sum(u.usage.uss + u.usage.swap for u in elsewhere)
    held_before = {u.vma.start: u.usage.uss + u.usage.swap for u in before}
    growth = amount - sum(held_before.get(u.vma.start, 0) for u in elsewhere)
    if growth >= _GROWTH_WORTH_NAMING or (held and amount >= max(_WORTH_NAMING[0] * held, _WORTH_NAMING[1])):
        name = runtime([u.vma for u in after]) or "anonymous mappings outside malloc's heap"
        why = "the scan reads glibc's heap only"
        if growth >= _GROWTH_WORTH_NAMING:
            why += f"; it grew by {growth} bytes while we looked"
        found.append(NotJudged(name=name, bytes=amount, share=round(amount / held, 4) if held else None, why=why))
    return found
