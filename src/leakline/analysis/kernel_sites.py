"""Places in the kernel that hold more than before: which frame answers, and what may be claimed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from leakline.analysis.diagnosis import rank
from leakline.analysis.fingerprint import fingerprint
from leakline.analysis.trend import judge
from leakline.model.finding import Confidence, Evidence, Finding, FindingKind, Subject
from leakline.model.kernel import AllocationSite
from leakline.model.kmemleak import KernelCall, UnreferencedObject
from leakline.model.stack import Frame
from leakline.model.trend import Series, SeriesTrend

_SUFFIX = re.compile(r"(?:\.(?:part|cold|isra|constprop|llvm)(?:\.\d+)*)+$")
# Functions that allocate for whoever calls them (mm/slub.c, slab_common.c, page_alloc.c, vmalloc.c, percpu.c, util.c, mempool.c,
# kmemleak.c, page_owner.c, kernel/stacktrace.c, lib/kasprintf.c); since 6.10 many have a twin that ends in _noprof.
_ALLOCATORS = re.compile(
    r"(?:_{0,4}(?:devm_)?(?:"
    r"(?:arch_)?(?:save_)?stack_trace(?:_save|_walk)?|save_stack(?:_trace)?|stack_depot_\w+|register_\w*stack|"
    r"set_page_owner|set_track_\w+|post_alloc_hook|prep_new_page|get_page_from_freelist|"
    r"alloc_(?:frozen_)?pages?\w*|get_free_pages\w*|get_zeroed_page\w*|folio_alloc\w*|alloc_contig\w+|make_alloc_exact|"
    r"alloc_slab_page|allocate_slab|new_slab\w*|slab_alloc\w*|slab_post_alloc_hook|memcg_slab_post_alloc_hook|alloc_from_pcs|"
    r"pcs_\w+|(?:\w+_)?sheaf\w*|alloc_slab_obj_exts|prepare_slab_obj_exts_hook|alloc_tagging_slab_alloc_hook|kmem_cache_alloc\w*|"
    r"(?:do_)?k[mzc]alloc\w*|krealloc\w*|kmemdup\w*|kstrn?dup\w*|kv[mzc]?alloc\w*|kvrealloc\w*|kvasprintf\w*|kasprintf\w*|devres_alloc\w*|strndup_user|"
    r"memdup_user\w*|kmemleak_\w+|alloc_object|create_object\w*|link_object|"
    r"v[mz]alloc\w*|vm_area_alloc_pages|get_vm_area\w*|alloc_vmap_area|alloc_percpu\w*|pcpu_\w+|mempool_\w+"
    r"))(?:_noprof)?"
)
# User memory and the page cache: they come and go with programs and files, and are counted elsewhere.
_USERS = re.compile(
    r"(?:__)?filemap_\w+|page_cache_\w+|folio_prealloc|vma_alloc_\w+|alloc_anon_folio|do_anonymous_page|do_fault\w*|do_wp_page|"
    r"wp_page_copy|do_cow_fault|do_swap_page|shmem_\w*alloc\w*|read_swap_cache\w*|swapin_\w+|ra_alloc_folio|vma_alloc_zeroed\w*|"
    r"(?:__)?do_huge_pmd\w*|copy_present_pte\w*"
)
_OTHERS_FILES = frozenset(
    {
        *("mm/filemap.c", "mm/memory.c", "mm/shmem.c", "mm/readahead.c", "mm/swap_state.c", "mm/huge_memory.c", "mm/migrate.c"),
        *("mm/zswap.c", "mm/slub.c", "mm/page_alloc.c", "mm/kmemleak.c", "lib/stackdepot.c", "mm/page_ext.c", "mm/page_owner.c"),
    }
)
_FAULTS = frozenset({"handle_mm_fault", "__handle_mm_fault"})
_LEAST_FOR_TREND = 5
_DEEP = 20


class Growth(NamedTuple):
    """What a place holds more than at the first look."""

    site: AllocationSite
    """Its largest stack, as it stands at the last look."""
    bytes: int
    blocks: int
    trend: SeriesTrend | None


def answering_call(stack: Sequence[Frame]) -> int | None:
    """Index of the first frame that does not only allocate for its caller; None if there is no such frame."""
    return next((n for n, frame in enumerate(stack) if frame.function is not None and not _allocates(frame)), None)


def _allocates(frame: Frame) -> bool:
    return frame.function is not None and _ALLOCATORS.fullmatch(_SUFFIX.sub("", frame.function)) is not None


def is_users(site: AllocationSite) -> bool:
    """Whether it is memory of programs or files, or an allocator's own row: that holds what others asked for."""
    if site.stack[0].file in _OTHERS_FILES:
        return True
    at = answering_call(site.stack)
    if at is not None and site.stack[at].function in _FAULTS:
        return True
    return any(frame.function is not None and _USERS.fullmatch(_SUFFIX.sub("", frame.function)) for frame in site.stack[:_DEEP])


def _place(site: AllocationSite) -> tuple[str | None, str | None, str | None, int | None]:
    at = answering_call(site.stack)
    frame = site.stack[0 if at is None else at]
    return frame.module, frame.function, frame.file, frame.line


def grown_sites(looks: Sequence[tuple[float, Sequence[AllocationSite]]]) -> list[Growth]:
    """Places that hold more at the last look than at the first, the most first.

    Args:
        looks: seconds, and all sites then.

    """
    sums: list[dict[object, tuple[int, int]]] = []
    largest: dict[object, AllocationSite] = {}
    place: object
    for _, sites in looks:
        of_look: dict[object, tuple[int, int]] = defaultdict(lambda: (0, 0))
        best: dict[object, AllocationSite] = {}
        for site in sites:
            if not site.stack or is_users(site):
                continue
            place = _place(site)
            of_look[place] = of_look[place][0] + site.bytes, of_look[place][1] + site.blocks
            if place not in best or best[place].bytes < site.bytes:
                best[place] = site
        sums.append(of_look)
        largest = best
    if len(sums) < 2:
        return []
    found = []
    for place, (size, blocks) in sums[-1].items():
        before = sums[0].get(place, (0, 0))
        if size > before[0]:
            found.append(Growth(largest[place], size - before[0], blocks - before[1], _trend(place, looks, sums)))
    return sorted(found, key=lambda growth: -growth.bytes)


def _trend(
    place: object, looks: Sequence[tuple[float, Sequence[AllocationSite]]], sums: Sequence[dict[object, tuple[int, int]]]
) -> SeriesTrend | None:
    if len(looks) < _LEAST_FOR_TREND:
        return None
    values = tuple(float(look.get(place, (0, 0))[0]) for look in sums)
    return judge([Series(name=str(place), times=tuple(when - looks[0][0] for when, _ in looks), values=values)])[0]


def growth_findings(grown: Sequence[Growth], method: str, seconds: float, most: int) -> list[Finding]:
    """Findings of a source that tells what is held, but not whether anything still points to it.

    Args:
        grown: what grew.
        method: the source.
        seconds: from the first look to the last.
        most: findings at most.

    """
    found = []
    for growth in grown[:most]:
        grows = growth.trend is not None and growth.trend.accuses
        site = growth.site
        more = f"{growth.blocks:,} allocations more" if growth.blocks > 0 else "larger allocations"
        text = (
            f"{method}: {growth.bytes:,} bytes more in {seconds:.1f} s ({more}); {site.bytes:,} bytes in all are held by this stack"
        )
        evidence = [Evidence(method=method, text=text, values={"bytes": growth.bytes, "blocks": growth.blocks, "held": site.bytes})]
        if growth.trend is not None:
            trend = growth.trend
            text = f"{trend.samples} looks: {trend.verdict}"
            evidence.append(Evidence(method="trend", text=text, values={"samples": trend.samples, "verdict": trend.verdict}))
        found.append(
            kernel_finding(
                "growing" if grows else "outstanding",
                site.stack,
                site.counter,
                growth.bytes,
                max(growth.blocks, 0),
                growth.bytes / seconds if seconds > 0 else None,
                "medium" if growth.trend is not None and growth.trend.verdict == "LEAK" else "low",
                evidence,
            )
        )
    return rank(found)


def kernel_finding(
    kind: FindingKind,
    stack: tuple[Frame, ...],
    counter: str,
    size: int,
    blocks: int,
    rate: float | None,
    confidence: Confidence,
    evidence: Sequence[Evidence],
) -> Finding:
    """A finding about the kernel, located at the frame that answers."""
    at = answering_call(stack)
    return Finding(
        kind=kind,
        subject=Subject(type="kernel counter", name=counter),
        bytes=size,
        blocks=blocks,
        indirect_bytes=0,
        indirect_blocks=0,
        rate_bytes_per_second=rate,
        rate_interval=None,
        confidence=confidence,
        fingerprint=fingerprint("kernel", stack if at is None else stack[at:], None, None),
        location=None if at is None else stack[at].location,
        location_is=None if at is None else "recorded",
        stack=stack,
        evidence=tuple(evidence),
    )


def gained_objects(counts: Sequence[tuple[float, int]], recorded: float, *, going_on: bool) -> int:
    """How many objects a cache has gained for good, by its own counter.

    What kfree_rcu frees is given back in batches, seconds later (KFREE_DRAIN_JIFFIES: 5 s), so the counter goes up and down where
    nothing is lost. Only its lowest values count, of thirds that are longer than that; and where the allocations go on, only
    what it has gained in the last of them, for what waits to be freed becomes more at first, when a program has just begun.

    Args:
        counts: seconds, and objects in use.
        recorded: for how many seconds the allocations were recorded.
        going_on: whether they went on to the end of that.

    """
    third = len(counts) // 3
    if not third:
        return 0
    lows = [min(count for _, count in counts[n * third : (n + 1) * third]) for n in range(3)]
    if not going_on:
        return lows[2] - lows[0]
    return round((lows[2] - lows[1]) * 3 * recorded / max(counts[-1][0] - counts[0][0], 1e-9))


def frame_of_call(call: KernelCall) -> Frame:
    """A call as kmemleak prints it, as a frame."""
    return Frame(
        function=call.function,
        file=None,
        line=None,
        module=call.module or "vmlinux",
        address=call.address,
        offset=call.offset,
    )


def lost_findings(
    before: Collection[UnreferencedObject], after: Collection[UnreferencedObject], seconds: float, scans: int
) -> list[Finding]:
    """Objects to which kmemleak found no pointer, by the place that allocated them: those that came while we looked, first.

    Args:
        before: those that it knew at first.
        after: all that it knows at the end.
        seconds: that have passed between.
        scans: how often it looked.

    """
    old = {(found.address, found.jiffies) for found in before}
    groups: dict[tuple[object, bool], list[UnreferencedObject]] = defaultdict(list)
    for found in after:
        stack = tuple(map(frame_of_call, found.backtrace))
        place = _place(AllocationSite(stack, "", 0, 0)) if stack else None
        groups[place, (found.address, found.jiffies) in old].append(found)
    findings = []
    for (_, is_old), objects in groups.items():
        size = sum(found.size for found in objects)
        tasks = sorted({f"{found.comm} ({found.pid})" for found in objects})
        since = "it was so before this look, and no more came" if is_old else f"they came within {seconds:.0f} s"
        text = (
            f"kmemleak found no pointer to {len(objects):,} objects in {scans} scans; {since}; allocated by {', '.join(tasks[:3])}"
        )
        values: dict[str, int | float | str] = {"objects": len(objects), "scans": scans, "seconds": round(seconds, 1)}
        findings.append(
            kernel_finding(
                "possible" if is_old else "definite",
                tuple(map(frame_of_call, objects[0].backtrace)),
                "kmemleak",
                size,
                len(objects),
                None if is_old or seconds <= 0 else size / seconds,
                "low" if is_old else "high",
                [Evidence(method="kmemleak", text=text, values=values)],
            )
        )
    return rank(findings)
