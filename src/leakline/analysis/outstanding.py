"""What a recorder saw being allocated and not freed, and that no scan calls lost: kept, or growing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from leakline.analysis.diagnosis import Stack, exact_frames, location_is, rank
from leakline.analysis.fingerprint import fingerprint
from leakline.analysis.growth import poisson_interval
from leakline.analysis.locating import answering_frame
from leakline.model.finding import Evidence, Finding, FindingKind, Subject
from leakline.model.heap import HeapScan
from leakline.model.stack import Frame
from leakline.model.trace import Allocation, AllocationTrace

_PARTS = 4
_LEAST_BLOCKS, _LEAST_SECONDS = 12, 2.0


def find_outstanding(trace: AllocationTrace, scans: Sequence[HeapScan], frames: Mapping[int, tuple[Frame, ...]]) -> list[Finding]:
    """Findings about blocks that were allocated while we looked and not freed.

    Reachable where a scan found a way to them, outstanding where none looked. Growing where as many are left of each quarter of the
    recording as of the others: what a site makes stays. Of a full cache only the latest are left, of a start only the first.

    Args:
        trace: a recording that sees frees.
        scans: looks at the heap after it; what the last calls lost is left out.
        frames: of every return address in the trace.

    """
    lost = {block.address for block in scans[-1].lost} if scans else set()
    groups: dict[Stack, list[Allocation]] = defaultdict(list)
    for allocation in trace.allocations:
        if allocation.address not in lost and allocation.stack:
            groups[allocation.stack].append(allocation)
    return rank([_finding(stack, group, trace, frames, scanned=bool(scans)) for stack, group in groups.items()])


def _finding(
    addresses: Stack,
    group: Sequence[Allocation],
    trace: AllocationTrace,
    frames: Mapping[int, tuple[Frame, ...]],
    *,
    scanned: bool,
) -> Finding:
    stack = tuple(frame for address in addresses for frame in frames.get(address, ()))
    answer, exact = answering_frame(stack), exact_frames(addresses, group[0].exact, frames)
    size, seconds = sum(a.size or 0 for a in group), trace.duration_seconds
    text = f"{len(group)} blocks were allocated here within {seconds:.1f} s and not freed"
    values: dict[str, int | float | str] = {"engine": trace.engine, "blocks": len(group), "events_lost": trace.lost}
    grows = _grows(group, trace)
    if grows:
        text += f"; of each {seconds / _PARTS:.1f} s as many are left as of the others, so they pile up"
    kind: FindingKind = "growing" if grows else "reachable" if scanned else "outstanding"
    low, high = poisson_interval(len(group))
    each = size / len(group) / seconds if grows else None
    return Finding(
        kind=kind,
        subject=Subject(type="heap", name="[heap]"),
        bytes=size,
        blocks=len(group),
        indirect_bytes=0,
        indirect_blocks=0,
        rate_bytes_per_second=None if each is None else each * len(group),
        rate_interval=None if each is None else (low * each, high * each),
        confidence="low",
        fingerprint=fingerprint(kind, stack, None, None),
        location=None if answer is None else stack[answer].location,
        location_is=location_is(trace, answer, exact),
        stack=stack,
        evidence=(Evidence(method="trace", text=text, values=values),),
    )


def _grows(group: Sequence[Allocation], trace: AllocationTrace) -> bool:
    """Whether survivors are spread evenly over the recording: chi-square with three degrees of freedom, 99 % (11.34)."""
    seconds = trace.duration_seconds
    if len(group) < _LEAST_BLOCKS or seconds < _LEAST_SECONDS:
        return False
    counts = [0] * _PARTS
    for allocation in group:
        share = (allocation.time_ns - trace.began_ns) / max(trace.ended_ns - trace.began_ns, 1)
        counts[min(max(int(share * _PARTS), 0), _PARTS - 1)] += 1
    expected = len(group) / _PARTS
    # Work comes in bursts: counts need not be as even as a Poisson process's.
    spread = sum((count - expected) ** 2 for count in counts) / expected
    return min(counts) >= expected / 2 or (min(counts) > 0 and spread < 11.34)
