"""Allocations of the kernel as they happen, filtered to one size, and confirmed by the cache's own counter."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from leakline.analysis.diagnosis import rank
from leakline.analysis.kernel_sites import answering_call, gained_objects, kernel_finding
from leakline.model.finding import Evidence, NotJudged
from leakline.sources.kernel_files import KernelFiles
from leakline.sources.kernel_symbols import KernelSymbols, parse_kallsyms
from leakline.sources.kmem_events import Event, KmemEvents
from leakline.sources.perf_events import online_cpus
from leakline.sources.slabinfo import net_object_size, read_slabs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from leakline.model.finding import Finding
    from leakline.model.stack import Frame
    from leakline.session.interruption import Interruption
    from leakline.sources.machine import Machine

_DRAIN_SECONDS = 0.05
_GOING_ON = 0.15
_GRACE_SECONDS = 1.0
"""What was allocated in the last of it is on its way, not kept."""
_NEARLY, _LEAST_SHARE, _FEW = 0.8, 0.25, 16
"""Of what events leave: a cache that has gained nearly as many objects confirms all; one that has gained a quarter or more, as many
as that; fewer, or only a few objects at all, are on their way, or were freed without an event."""
_COUNT_SECONDS, _LEAST_SECONDS = 0.25, 20.0
"""How often the cache's counter is read, and for how long at least: four times what kfree_rcu waits."""
_PRIORITY = -10
_RING_PAGES, _MANY_CPUS = 2048, 8
_MOST_FINDINGS = 50


class _Suspect(NamedTuple):
    """A slab cache."""

    name: str
    size: int
    """Bytes of an object in it."""
    net_size: int | None
    """As its owner declared it."""
    peers: tuple[str, ...]
    """Caches with the same sizes, itself among them."""


class _Group(NamedTuple):
    stack: tuple[Frame, ...]
    blocks: int
    late: int
    """Of these in the last third of the time."""
    tasks: Counter[int]


def _events(suspect: _Suspect | None) -> list[Event]:
    """What to record for a slab cache, or for whole pages where None.

    kfree() does not tell the size, so that frees cannot be filtered by it; kmem_cache_free() tells the cache.
    """
    if suspect is None:
        page = [Event("kmem/mm_page_alloc", "pfn", "migratetype == 0", allocates=True)]  # unmovable: the kernel's own
        return [*page, *(Event(f"kmem/{name}", "pfn", None, allocates=False) for name in ("mm_page_free", "mm_page_free_batched"))]
    wanted = f"bytes_alloc == {suspect.size}"
    if _is_general(suspect.name):
        made = [Event(f"kmem/{event}", "ptr", wanted, allocates=True) for event in ("kmalloc", "kmalloc_node")]
        return [*made, Event("kmem/kfree", "ptr", None, allocates=False)]
    if suspect.net_size is not None:
        wanted += f" && bytes_req == {suspect.net_size}"
    made = [Event(f"kmem/{event}", "ptr", wanted, allocates=True) for event in ("kmem_cache_alloc", "kmem_cache_alloc_node")]
    caches = " || ".join(f'name == "{peer}"' for peer in suspect.peers)
    return [*made, Event("kmem/kmem_cache_free", "ptr", caches, allocates=False)]


def _suspect(machine: Machine, name: str, size: int) -> _Suspect:
    """With the caches that events cannot tell from it: the same sizes, with and without what the allocator adds."""
    general = _is_general(name)
    net = None if general else net_object_size(machine, name)
    peers = [
        cache.name
        for cache in read_slabs(machine)
        if cache.object_size == size
        and _is_general(cache.name) == general
        and '"' not in cache.name
        and (net is None or net_object_size(machine, cache.name) in (net, None))
    ]
    return _Suspect(name, size, net, tuple(peers))


def _is_general(cache: str) -> bool:
    return cache.startswith(("kmalloc-", "dma-kmalloc-"))


def trace_kernel(
    machine: Machine, cache: tuple[str, int] | None, duration: float, interruption: Interruption, say: Callable[[str], None]
) -> tuple[list[Finding], list[NotJudged]]:
    """Findings about what was allocated and not freed while we looked.

    Args:
        machine: the live one.
        cache: a slab cache and the size of its objects; None for whole pages.
        duration: seconds.
        interruption: the first Ctrl-C ends it.
        say: hears what is done.

    Raises:
        PermissionNeeded: it takes root.
        NotPossible: this kernel has no such events.

    """
    symbols = parse_kallsyms((machine.proc / "kallsyms").read_bytes())
    suspect = None if cache is None else _suspect(machine, *cache)
    with KernelFiles("tracefs") as tracefs:
        pages = _RING_PAGES if len(online_cpus()) <= _MANY_CPUS else _RING_PAGES // 4
        events = KmemEvents(tracefs, _events(suspect), pages)
    what = "whole pages" if suspect is None else f"objects of {suspect.size} bytes ({suspect.name})"
    say(f"recording who allocates and frees {what} for {duration:g} s")
    counts: list[tuple[float, int]] = []

    def record(seconds: float) -> None:
        while (left := seconds - (time.monotonic() - began)) > 0 and not interruption.asked:
            if suspect is not None and (not counts or time.monotonic() - counts[-1][0] >= _COUNT_SECONDS):
                counts.append((time.monotonic(), _in_use(machine, suspect)))
            interruption.wait(min(_DRAIN_SECONDS, left))
            events.drain()

    with events, _hurried():
        began = time.monotonic()
        record(duration)
        more = _LEAST_SECONDS - duration
        if suspect is not None and more > 0 and len(events.not_freed().keys) >= _FEW:
            say(f"going on for {more:.0f} s: what kfree_rcu frees makes no event, and comes back to the cache only then")
            record(_LEAST_SECONDS)
        events.stop()
        seconds = time.monotonic() - began
        events.drain()
        groups = _grouped(events, symbols, min(_GRACE_SECONDS, seconds / 4))
    findings, doubtful = _findings(groups, suspect, machine.page_size, seconds, counts, events)
    return findings, [*doubtful, *_blindness(suspect, events)]


@contextmanager
def _hurried() -> Iterator[None]:
    """Let us read before the buffers are full, where that is allowed."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, min(before, _PRIORITY))
    try:
        yield
    finally:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, before)


def _in_use(machine: Machine, suspect: _Suspect) -> int:
    """Objects in use of all caches that events cannot tell apart."""
    return sum(cache.objects for cache in read_slabs(machine) if cache.name in suspect.peers)


def _grouped(events: KmemEvents, symbols: KernelSymbols, grace: float) -> list[_Group]:
    kept = events.not_freed()
    if not len(kept.times):
        return []
    last = int(kept.times.max())
    young, late = last - int(grace * 1e9), last - int((last - int(kept.times.min())) / 3)
    tasks: dict[int, Counter[int]] = defaultdict(Counter)
    lately: Counter[int] = Counter()
    for chain, task, when in zip(kept.chains.tolist(), kept.tasks.tolist(), kept.times.tolist(), strict=True):
        if when <= young:
            tasks[chain][task] += 1
            lately[chain] += when >= late
    joined: dict[tuple[Frame, ...], tuple[Counter[int], int]] = {}
    for chain, by_task in tasks.items():
        stack = tuple(symbols.frame(address) for address in events.stack(chain))
        before, count = joined.get(stack, (Counter[int](), 0))
        joined[stack] = before + by_task, count + lately[chain]
    return [_Group(stack, by_task.total(), count, by_task) for stack, (by_task, count) in joined.items() if stack]


def _findings(
    groups: Sequence[_Group],
    suspect: _Suspect | None,
    page_size: int,
    seconds: float,
    counts: Sequence[tuple[float, int]],
    events: KmemEvents,
) -> tuple[list[Finding], list[NotJudged]]:
    by_place: dict[object, list[_Group]] = defaultdict(list)
    for group in groups:
        at = answering_call(group.stack)
        by_place[group.stack[0 if at is None else at].function].append(group)
    each = page_size if suspect is None else suspect.size
    counter = "pages" if suspect is None else f"slab:{suspect.name}"
    findings, doubtful = [], []
    for same in by_place.values():
        blocks = sum(group.blocks for group in same)
        largest = max(same, key=lambda group: group.blocks)
        task, count = sum((group.tasks for group in same), Counter[int]()).most_common(1)[0]
        values: dict[str, int | float | str] = {
            "blocks": blocks,
            "events": events.seen,
            "lost": events.lost,
            "pid": task,
            "by_pid": count,
        }
        seen = f"{blocks:,} of {events.seen:,} events were allocations here that were not freed in {seconds:.1f} s"
        text = f"{seen}; {count:,} by process {task}"
        evidence = [Evidence(method="tracepoints", text=text, values=values)]
        if suspect is not None:
            late = sum(group.late for group in same)
            gained = gained_objects(counts, seconds, going_on=late >= _GOING_ON * blocks)
            sure = _confirmed(blocks, gained)
            if sure is None:
                if blocks >= _FEW:
                    doubtful.append(_doubt(counter, largest, blocks, gained, each))
                continue
            text = f"the cache's own counter says {gained:,} objects more in use"
            if sure < blocks:
                text += f": of the {blocks:,} no more than these are kept, for some frees make no event or were lost"
            evidence.append(Evidence(method="slabinfo", text=text, values={"objects": gained}))
            blocks = sure
        findings.append(
            kernel_finding("outstanding", largest.stack, counter, blocks * each, blocks, blocks * each / seconds, "low", evidence)
        )
    return rank(findings)[:_MOST_FINDINGS], doubtful


def _confirmed(blocks: int, gained: int) -> int | None:
    """How many of the blocks that were not seen being freed are kept by what the cache's counter says; None if that is nothing."""
    if gained >= blocks * _NEARLY:
        return blocks
    return gained if gained >= max(_FEW, blocks * _LEAST_SHARE) else None


def _doubt(counter: str, group: _Group, blocks: int, gained: int, each: int) -> NotJudged:
    place = group.stack[answering_call(group.stack) or 0].function
    why = (
        f"{blocks:,} allocations by {place} were not seen being freed, but the cache has {gained:,} objects more: "
        "frees by kfree_rcu and in bulk make no event"
    )
    return NotJudged(name=counter, bytes=blocks * each, share=None, why=why)


def _blindness(suspect: _Suspect | None, events: KmemEvents) -> list[NotJudged]:
    whys = ["what was allocated before is not seen; whether something still points to an object is not known: growth, not loss"]
    if suspect is None:
        whys.append("pages of a higher order count as one page; movable pages (programs, files) are left out")
    elif len(suspect.peers) > 1:
        whys.append(f"events do not tell objects of {', '.join(suspect.peers)} apart: all have {suspect.size} bytes")
    if events.lost:
        whys.append(f"{events.lost:,} events were lost: a free among them makes an object seem kept")
    return [NotJudged(name="tracepoints", bytes=None, share=None, why=why) for why in whys]
