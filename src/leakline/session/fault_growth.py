"""`trace --via faults`: a process that grows must touch new pages, and each first touch is a page fault with a stack.

It takes no privilege on one's own processes, sees every allocator and raw mmap, and costs only what grows.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from leakline.analysis.fault_growth import HeldPages, growth_findings
from leakline.errors import InvalidRequest, LeaklineError
from leakline.model.finding import NotJudged
from leakline.session.faulting import FaultSettings, FaultWatch, symbolised
from leakline.session.reporting import build_report
from leakline.session.targets import describe
from leakline.sources.page_states import HUGE, HugePages
from leakline.sources.procfs import translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from leakline.model.finding import Report
    from leakline.session.fault_collecting import FaultCollector, RawGroup
    from leakline.session.interruption import Interruption
    from leakline.sources.procfs import ProcFs

_STRETCHES = 5
_POLL_SECONDS = 0.1
_GAUGE_SECONDS = 0.3
_MOST_SAMPLES_A_SECOND = 4000
_PRIMES = (7, 11, 13, 17, 23, 31, 41, 53, 67, 89, 113, 149, 197, 257, 331, 431, 563, 733, 953)
_STACK_BYTES = 2048
_PAGE = 4096
_PRESENT, _SWAPPED = 63, 62


def watch_growth(procfs: ProcFs, pid: int, seconds: float, *, interruption: Interruption, say: Callable[[str], None]) -> Report:
    """Watch which places touch new pages, and which of these pages are still there in the end.

    Raises:
        PermissionNeeded: kernel.perf_event_paranoid does not allow it, or the process is another's.
        TargetGone: it has ended.

    """
    if seconds <= 0:
        raise InvalidRequest("--via faults takes some time to see growth", hint="Give --duration 10s or more.")
    began_ns = time.monotonic_ns()
    target = describe(procfs, pid)
    every = _gauged(procfs, pid, interruption)
    if every > 1:
        say(f"it makes many page faults: one in {every} is looked at")
    settings = FaultSettings(every=every, stack_bytes=_STACK_BYTES, interval=seconds / _STRETCHES)
    watch = FaultWatch(procfs, pid, settings)
    if watch.why_not is not None:
        raise watch.why_not
    say("recording by page faults: each first touch of a page, with its stack")
    collector = watch.collector
    collector.pages = {}
    try:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not interruption.asked:
            if not watch.step(min(_POLL_SECONDS, left)):
                break
        took = (time.monotonic_ns() - collector.began_ns) / 1e9 if collector.began_ns else seconds
        sites = _held(procfs, pid, collector, every, max(1, min(_STRETCHES, math.ceil(took / settings.interval))))
    finally:
        faults = watch.report()
    say(f"faults: {faults.counts.minor or 0:,} minor, {faults.counts.major or 0:,} major, {faults.lost:,} without a place")
    gaps = [NotJudged(name=gap.what, bytes=gap.count * _PAGE, share=None, why=gap.why) for gap in faults.not_seen if gap.count]
    findings = growth_findings(sites, min(took, seconds), every)
    return build_report(procfs, target, [], findings, began_ns=began_ns, gaps=gaps)


def _gauged(procfs: ProcFs, pid: int, interruption: Interruption) -> int:
    """Of how many faults one is enough, as fast as they come now."""
    before, began = procfs.stat(pid).minor_faults, time.monotonic()
    interruption.wait(_GAUGE_SECONDS)
    rate = (procfs.stat(pid).minor_faults - before) / (time.monotonic() - began)
    wanted = math.ceil(rate / _MOST_SAMPLES_A_SECOND)
    # A program that makes the same 258 faults again and again would show to every 6th the same ones: a prime number seldom fits.
    return 1 if wanted <= 1 else next((prime for prime in _PRIMES if prime >= wanted), _PRIMES[-1])


def _held(procfs: ProcFs, pid: int, collector: FaultCollector, every: int, stretches: int) -> list[HeldPages]:
    """Of each place the pages that are still there, by the stretch of time in which they came."""
    touched: dict[int, int] = defaultdict(int)
    held: dict[int, list[int]] = {}
    groups: dict[int, RawGroup] = {}
    for group in collector.groups.values():
        groups[id(group)] = group
        touched[id(group)] = group.count * _PAGE
    pages = collector.pages or {}
    for page, size in _still_there(procfs, pid, pages).items():
        group, stretch = pages[page]
        amounts = held.setdefault(id(group), [0] * stretches)
        amounts[min(stretch, stretches - 1)] += size * every
    found = []
    for group, frames, exact in symbolised(collector):
        amounts = held.get(id(group), [])
        if any(amounts):
            size = max(touched[id(group)], sum(amounts))
            found.append(HeldPages(stack=frames, exact=exact, vma=group.vma, by_stretch=tuple(amounts), touched=size))
    return found


def _still_there(procfs: ProcFs, pid: int, pages: Iterable[int]) -> dict[int, int]:
    """The size of each page that is in memory or in swap: 4 KiB, or for the first one met in a huge page, 2 MiB."""
    found: dict[int, int] = {}
    huge_seen: set[int] = set()
    try:
        huge_pages = HugePages(procfs.root, pid)
    except LeaklineError:
        return {}
    try:
        with translated(pid, "read pagemap"), open(procfs.root / str(pid) / "pagemap", "rb", buffering=0) as file:
            for page in pages:
                entry = int.from_bytes(os.pread(file.fileno(), 8, page * 8), "little")
                if not (entry >> _PRESENT | entry >> _SWAPPED) & 1:
                    continue
                chunk = page * _PAGE // HUGE
                if chunk in huge_seen:
                    continue
                if huge_pages.at(page * _PAGE):
                    huge_seen.add(chunk)
                    found[page] = HUGE
                else:
                    found[page] = _PAGE
    finally:
        huge_pages.close()
    return found
