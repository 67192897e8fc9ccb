"""Searching an image of a process for blocks that no root leads to."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.roots import dead_stack, ended_stacks
from leakline.analysis.streams import unused_buffers
from leakline.errors import NotPossible
from leakline.model.heap import BlockGroup, BlockTotal, Census, HeapScan, LeakKind, LostBlock
from leakline.model.ranges import Range, subtract, union
from leakline.native.heap import INDIRECT, POSSIBLE, REACHABLE, UNREACHED, Heap
from leakline.session.explaining import explain
from leakline.session.thread_stacks import thread_stacks
from leakline.sources.allocators.glibc import Arena, Moment, add_blocks, find_arenas, find_main_arena
from leakline.sources.remote_memory import holds_pointers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from leakline.native.heap import RawGroup, SiteRecords
    from leakline.sources.heap_image import HeapImage
    from leakline.symbols.resolver import Resolver

_KINDS: dict[int, LeakKind] = {UNREACHED: "definite", INDIRECT: "indirect", POSSIBLE: "possible"}
# Longer than a pointer, whose bytes may look like text.
_PRINTABLE = re.compile(rb"[\x20-\x7e]{7,64}")
_MOST_SEARCHED = 4096


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted besides the lost blocks."""

    census: bool = False
    """All blocks, counted by kind, type and size."""
    content: bool = False
    """Printable characters of lost blocks."""
    why: int | None = None
    """An address: who holds the block there."""


def search(image: HeapImage, resolver: Resolver, began_ns: int, details: Details, records: SiteRecords | None = None) -> HeapScan:
    """What is lost in it.

    Args:
        image: the process.
        resolver: names the data that blocks' first words point to.
        began_ns: CLOCK_MONOTONIC when the look began.
        details: what else is wanted.
        records: who allocated its blocks, where an agent recorded that.

    Raises:
        NotPossible: its heap was not found.

    """
    arenas, problems = _arenas(image)
    if image.unread:
        why = f"{image.unread_because}, and may hold pointers: nothing is called definite"
        problems.append(f"{image.unread} bytes of memory {why}")
    with Heap(image.copy) as heap:
        layout = add_blocks(heap, image.version, arenas, list(image.vmas), moment=_moment(image))
        files = [(vma.start, vma.end) for vma in image.vmas if vma.is_file and vma.perms[0] == "r"]
        code = [(vma.start, vma.end) for vma in image.vmas if vma.is_file and vma.perms[2] == "x"]
        ended = ended_stacks(((state.tid, state.thread_pointer) for state in image.threads), image.copy.words)
        roots, values = _roots(image, layout.bookkeeping), [*_values(image, ended), *image.held]
        heap.arenas([(arena.address, arena.address + image.version.arena.size) for arena in arenas])
        heap.leave_out(_left_over(image, (*ended.values(), *layout.rests)))
        groups = heap.mark(roots, values, files, code, census=details.census, records=records)
        blocks, sizes = heap.totals()
        raw = list(heap.lost())
        reason = None if details.why is None else heap.path(details.why, roots, values)
        referrers = heap.referrers(details.why) if details.why is not None and reason == "not reached" else []
    types = resolver.data_symbols({block.first_word for block in raw} | {group.first_word for group in groups if group.first_word})
    lost = tuple(
        LostBlock(
            address=block.address,
            size=block.size,
            kind="possible" if image.unread else _KINDS[block.state],
            leader=block.leader,
            content=types.get(block.first_word),
        )
        for block in raw
    )
    return HeapScan(
        time_ns=image.time_ns,
        allocator=image.allocator,
        lost=_with_text(lost, image) if details.content else lost,
        reachable=BlockTotal(blocks=blocks[REACHABLE], bytes=sizes[REACHABLE]),
        retained_free=layout.free_bytes,
        heap_ranges=layout.bookkeeping,
        stopped_ns=image.stopped_ns,
        duration_ns=time.monotonic_ns() - began_ns,
        copied=image.copy.size,
        threads=len(image.threads),
        census=_census(groups, types) if details.census else None,
        why=None if details.why is None or reason is None else explain(image, resolver, details.why, reason, referrers, lost),
        problems=(*problems, *layout.problems),
    )


def _with_text(lost: Sequence[LostBlock], image: HeapImage) -> tuple[LostBlock, ...]:
    """With the printable characters of the first block of each form."""
    shown: set[tuple[str, int, str | None]] = set()
    found = []
    for block in lost:
        form = block.kind, block.size, block.content
        match = None if form in shown else _PRINTABLE.search(image.copy.read(block.address, min(block.size, _MOST_SEARCHED)))
        if match is not None:
            shown.add(form)
            found.append(msgspec.structs.replace(block, text=match[0].decode("ascii")))
        else:
            found.append(block)
    return tuple(found)


def _census(groups: Sequence[RawGroup], types: Mapping[int, str]) -> Census:
    sums: dict[tuple[int, str | None, int, int], tuple[int, int]] = {}
    for group in groups:
        key = group.state, types.get(group.first_word), group.size, group.site
        blocks, size = sums.get(key, (0, 0))
        sums[key] = blocks + group.blocks, size + group.bytes
    found = [
        BlockGroup(kind=_KINDS.get(state, "reachable"), type=kind, size=size or None, blocks=blocks, bytes=total, site=site or None)
        for (state, kind, size, site), (blocks, total) in sums.items()
    ]
    found.sort(key=lambda group: (-group.bytes, group.kind, group.type or "", group.size or 0, group.site or 0))
    return Census(taken=datetime.now(UTC).isoformat(timespec="milliseconds"), groups=tuple(found))


def _arenas(image: HeapImage) -> tuple[list[Arena], list[str]]:
    # libc's .bss is anonymous memory right behind its .data, where main_arena lies.
    main = find_main_arena(image.copy, image.version.arena, filter(image.is_libc, image.vmas))
    if main is not None:
        return find_arenas(image.copy, image.version.arena, main, list(image.vmas), moment=_moment(image))
    if any(vma.path == "[heap]" for vma in image.vmas):
        raise NotPossible(
            f"the heap of process {image.pid} was not found in its {image.allocator}",
            hint="Either it has not called malloc yet, or its allocator is one that leakline does not know.",
        )
    return [], []


def _moment(image: HeapImage) -> Moment:
    if image.ran_on:
        return "running"
    return "at work" if len(image.threads) == 1 and image.threads[0].may_be_in_malloc(image.libc_code) else "at rest"


def _roots(image: HeapImage, bookkeeping: Sequence[Range]) -> list[Range]:
    """Memory that may hold pointers: all that the program wrote, but for malloc's own."""
    written = (piece for vma in image.vmas if holds_pointers(vma) for piece in image.copy.pieces(vma.start, vma.end))
    return subtract(written, bookkeeping)


def _left_over(image: HeapImage, known: Iterable[Range]) -> list[Range]:
    """Memory that is in use, and holds only what was there before."""
    pieces = (piece for vma in image.vmas if image.is_libc(vma) for piece in image.copy.pieces(vma.start, vma.end))
    libc = (image.copy.words(start, (end - start) // 8) for start, end in pieces)
    return union([*dead_stack(thread_stacks(image)), *known, *unused_buffers(libc, image.copy.words)])


def _values(image: HeapImage, ended: Iterable[int]) -> list[int]:
    """What registers hold, and the addresses of the threads' tables of TLS blocks (dtv).

    A thread that waits inside libc has called a function: what that may overwrite are left-overs, often malloc's.

    Such a table is allocated, and known by a pointer behind its first entry (sysdeps/x86_64/nptl/tls.h). That of an ended thread is
    kept with its stack.
    """
    code = image.libc_code
    waiting = {t.tid for t in image.threads if t.in_system_call and any(t.instruction_pointer in vma for vma in code)}
    registers = [word for t in image.threads for word in (t.lasting if t.tid in waiting else (*t.registers, *t.extended))]
    descriptors = [state.thread_pointer for state in image.threads if state.thread_pointer]
    return registers + [(image.copy.word(descriptor + 8) or 16) - 16 for descriptor in (*descriptors, *ended)]
