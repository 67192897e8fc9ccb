"""Joining what scans found lost with what a recorder saw being allocated: findings, and how sure they are.

Confidence: high where two scans agree, medium for one. Location: recorded for blocks whose allocation was seen; inferred for
older blocks of equal size and content, when one site alone makes such blocks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from leakline.analysis.fingerprint import fingerprint
from leakline.analysis.growth import poisson_interval
from leakline.analysis.locating import answering_frame
from leakline.model.finding import Confidence, Evidence, Finding, FindingKind, KindTotal, Subject, Summary
from leakline.model.heap import HeapScan, LostBlock
from leakline.model.names import readable
from leakline.model.series import VmaGrowth
from leakline.model.stack import Frame
from leakline.model.trace import Allocation, AllocationTrace
from leakline.model.trend import SeriesTrend

Stack = tuple[int, ...]
_ALLOCATOR_SLACK = 40  # usable less requested: a chunk's rounding, or what posix_memalign could not give back
_PAGE = 4096


def agreed(scans: Sequence[HeapScan]) -> tuple[LostBlock, ...]:
    """Blocks that the last two scans both call lost, with the kind that the last one gives; of a single scan all."""
    if len(scans) < 2:
        return scans[-1].lost if scans else ()
    before = {block.address: block.size for block in scans[-2].lost}
    return tuple([block for block in scans[-1].lost if before.get(block.address) == block.size])


def summarise(scans: Sequence[HeapScan]) -> Summary:
    """Blocks by kind, as far as the last two scans agree. What only the last one calls lost may be so: possible."""
    if not scans:
        return Summary(definite=None, indirect=None, possible=None, reachable=None)
    blocks: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    # There may be millions: what is the same of many is counted once.
    before = {block.address: block.size for block in scans[-2].lost} if len(scans) > 1 else None
    forms = Counter(
        [
            (block.kind if before is None or before.get(block.address) == block.size else "possible", block.size)
            for block in scans[-1].lost
        ]
    )
    for (kind, size), count in forms.items():
        blocks[kind] += count
        sizes[kind] += count * size
    totals = {kind: KindTotal(bytes=sizes[kind], blocks=blocks[kind]) for kind in ("definite", "indirect", "possible")}
    reachable = scans[-1].reachable
    return Summary(**totals, reachable=KindTotal(bytes=reachable.bytes, blocks=reachable.blocks))


class _Leader(msgspec.Struct, frozen=True, gc=False):
    """A definite (or possible) block and what hangs on it."""

    block: LostBlock
    indirect_bytes: int
    indirect_blocks: int


def _leaders(lost: Sequence[LostBlock]) -> list[_Leader]:
    sizes: Counter[int] = Counter()
    counts: Counter[int] = Counter()
    for block in lost:
        if block.kind == "indirect":
            sizes[block.leader] += block.size
            counts[block.leader] += 1
    return [_Leader(block, sizes[block.address], counts[block.address]) for block in lost if block.kind != "indirect"]


def fits(requested: int, usable: int, address: int = 0) -> bool:
    """Whether a block of that usable size can be the answer to such a request.

    Large ones are whole pages (mmapped). Where memalign maps a block, less than what it is aligned to is left behind it.
    """
    slack = _ALLOCATOR_SLACK
    if usable >= _PAGE * 16:
        slack += _PAGE
    if address % _PAGE == 0:
        slack += address & -address
    return requested <= usable <= requested + slack


class _Site(msgspec.Struct):
    """Blocks of one kind that come, or are taken to come, from one stack."""

    stack: Stack
    exact: int
    kind: FindingKind
    cut: str | None = None
    recorded: list[_Leader] = msgspec.field(default_factory=list)
    joined: list[_Leader] = msgspec.field(default_factory=list)
    requested: list[int] = msgspec.field(default_factory=list)


def find_lost(scans: Sequence[HeapScan], trace: AllocationTrace | None, frames: Mapping[int, tuple[Frame, ...]]) -> list[Finding]:
    """Findings about lost blocks, grouped by stack, the largest first.

    Args:
        scans: one or more looks, in order; the last after the trace.
        trace: what a recorder saw between them.
        frames: of every return address in the trace.

    """
    lost = _leaders(agreed(scans))
    if not lost:
        return []
    by_address = {} if trace is None else {a.address: a for a in trace.allocations}
    sites: dict[tuple[Stack, str], _Site] = {}
    older: list[_Leader] = []
    for leader in lost:
        allocation = by_address.get(leader.block.address)
        if allocation is None or not allocation.stack or not _same_block(allocation, leader.block):
            older.append(leader)
            continue
        kind = leader.block.kind
        site = sites.setdefault((allocation.stack, kind), _Site(allocation.stack, allocation.exact, kind, allocation.cut))
        site.recorded.append(leader)
        if allocation.size is not None:
            site.requested.append(allocation.size)
    unplaced = _join_by_form(older, list(sites.values()))
    makers = _makers(list(sites.values()))
    findings = [_located(site, scans, trace, frames) for site in sites.values()]
    for group in unplaced:
        finding = _unlocated(group, scans)
        findings.append(_with_odds(finding, _form(group[0].block), makers, frames))
    return rank(findings)


def _with_odds(
    finding: Finding,
    form: tuple[str, int, str | None],
    makers: Mapping[tuple[str, int, str | None], Sequence[_Site]],
    frames: Mapping[int, tuple[Frame, ...]],
) -> Finding:
    """Which of several sites may have made blocks that nobody saw being allocated, by what each makes of that form."""
    counts = [(sum(_form(leader.block) == form for leader in site.recorded), site) for site in makers.get(form, ())]
    if not counts:
        return finding
    total, likeliest = sum(count for count, _ in counts), max(counts, key=lambda c: c[0])[1]
    odds: Counter[str] = Counter()
    for count, site in counts:
        frame = _answer(site.stack, frames)
        odds["an unknown place" if frame is None else place_of(frame)] += count
    shares = {name: round(count / total, 3) for name, count in odds.most_common(4)}
    makers_text = ", ".join(f"{name} ({share:.0%})" for name, share in shares.items())
    text = f"blocks of this size and content were made meanwhile by {makers_text}"
    evidence = Evidence(method="odds", text=text, values={**shares})
    stack = tuple(frame for address in likeliest.stack for frame in frames.get(address, ()))
    answer = _answer(likeliest.stack, frames)
    return msgspec.structs.replace(
        finding,
        location=None if answer is None else answer.location,
        location_is=None if answer is None else "inferred",
        confidence="low",
        stack=stack,
        evidence=(*finding.evidence, evidence),
    )


def _answer(addresses: Stack, frames: Mapping[int, tuple[Frame, ...]]) -> Frame | None:
    stack = [frame for address in addresses for frame in frames.get(address, ())]
    index = answering_frame(stack)
    return None if index is None else stack[index]


def place_of(frame: Frame) -> str:
    """A frame in a word: file and line, or function and module."""
    if frame.file is not None and frame.line is not None:
        return f"{frame.file.rsplit('/', 1)[-1]}:{frame.line}"
    return f"{frame.function or '?'} in {frame.module or '?'}"


def _same_block(allocation: Allocation, block: LostBlock) -> bool:
    return allocation.size is None or fits(allocation.size, block.size, block.address)


def _form(block: LostBlock) -> tuple[str, int, str | None]:
    return block.kind, block.size, block.content


def _makers(sites: Sequence[_Site]) -> dict[tuple[str, int, str | None], list[_Site]]:
    makers: dict[tuple[str, int, str | None], list[_Site]] = defaultdict(list)
    for site in sites:
        for form in {_form(leader.block) for leader in site.recorded}:
            makers[form].append(site)
    return makers


def _join_by_form(older: Sequence[_Leader], sites: Sequence[_Site]) -> list[list[_Leader]]:
    """Give blocks without a record to the one site that makes blocks of their kind, size and content; return the rest, grouped."""
    makers = _makers(sites)
    groups: dict[tuple[str, int, str | None], list[_Leader]] = defaultdict(list)
    for leader in older:
        groups[_form(leader.block)].append(leader)
    unplaced = []
    for form, group in groups.items():
        if len(makers[form]) == 1:
            makers[form][0].joined += group
        else:
            unplaced.append(group)
    return unplaced


def _confidence(scans: Sequence[HeapScan], kind: str) -> Confidence:
    if kind == "possible":
        return "low"
    return "high" if len(scans) >= 2 or scans[-1].at_end else "medium"


def _scan_evidence(scans: Sequence[HeapScan], blocks: int) -> Evidence:
    if scans[-1].looks > 1:
        what, count = "the block" if blocks == 1 else f"{blocks} blocks", scans[-1].looks
        text = f"{count} looks, while the program ran on, found no way to {what}; a pointer that moved meanwhile can be missed"
        return Evidence(method="scan", text=text, values={"scans": count, "blocks": blocks})
    what = "the block" if blocks == 1 else f"any of the {blocks} blocks"
    if scans[-1].at_end:
        text = f"at the program's end no root led to {what}"
        return Evidence(method="scan", text=text, values={"scans": 1, "blocks": blocks})
    if scans[-1].ended_by is not None:
        text = f"when signal {scans[-1].ended_by} ended the program no root led to {what}"
        return Evidence(method="scan", text=text, values={"scans": 1, "blocks": blocks, "signal": scans[-1].ended_by})
    looks = len(scans[-2:])
    apart = (scans[-1].time_ns - scans[-2].time_ns) / 1e9 if looks == 2 else 0.0
    text = (
        f"two scans {apart:.1f} s apart found no way to {'it' if blocks == 1 else 'any of the'} {blocks} blocks from any root"
        if looks == 2
        else f"one scan found no way to {blocks} blocks from any root"
    )
    if blocks == 1:
        text = text.replace("it 1 blocks", "the block").replace("1 blocks", "the block")
    return Evidence(method="scan", text=text, values={"scans": looks, "blocks": blocks, "seconds_apart": round(apart, 3)})


def exact_frames(stack: Stack, exact: int, frames: Mapping[int, tuple[Frame, ...]]) -> int:
    """How many frames the exact return addresses stand for, inlined ones counted."""
    return sum(len(frames.get(address, ())) for address in stack[:exact])


def _of_them(count: int, of: int) -> str:
    return "it was" if of == 1 else f"{count} of them {'was' if count == 1 else 'were'}"


def _located(
    site: _Site, scans: Sequence[HeapScan], trace: AllocationTrace | None, frames: Mapping[int, tuple[Frame, ...]]
) -> Finding:
    assert trace is not None  # a site comes from a trace  # noqa: S101
    stack = tuple(frame for address in site.stack for frame in frames.get(address, ()))
    answer = answering_frame(stack)
    exact = exact_frames(site.stack, site.exact, frames)
    leaders = site.recorded + site.joined
    size, bytes_recorded = sum(x.block.size for x in leaders), sum(_stands_for(x.block.size, trace) for x in site.recorded)
    # Both scans must have called a block lost: only what was allocated before the first can count.
    seconds = (min(trace.ended_ns, scans[-2:][0].time_ns) - trace.began_ns) / 1e9
    low, high = poisson_interval(len(site.recorded))
    ended = scans[-1].at_end or scans[-1].ended_by is not None
    each = bytes_recorded / len(site.recorded) / seconds if seconds > 0 and not ended else None
    evidence = [
        _scan_evidence(scans, len(leaders)),
        Evidence(
            method="trace",
            text=f"{_of_them(len(site.recorded), len(leaders))} seen being allocated here within {seconds:.1f} s ({trace.engine})",
            values={
                "engine": trace.engine,
                "blocks": len(site.recorded),
                "seconds": round(seconds, 3),
                "allocations_seen": trace.seen,
                "events_lost": trace.lost,
            },
        ),
    ]
    if trace.sampled_bytes is not None:
        text = (
            f"one allocation in {trace.sampled_bytes:,} bytes was recorded, and no free: an address may have been used again unseen"
        )
        evidence.append(Evidence(method="sampling", text=text, values={"sampled_bytes": trace.sampled_bytes}))
    if site.joined:
        text = f"{len(site.joined)} older blocks have the same size and content, which no other recorded site makes"
        evidence.append(Evidence(method="equal form", text=text, values={"blocks": len(site.joined)}))
    if answer is not None and answer >= exact:
        text = "the frame lies behind a library's; it comes from frame pointers, which may skip a caller"
        evidence.append(Evidence(method="frame pointers", text=text, values={"frame": answer}))
    if site.cut is not None:
        why = "it is too deep" if site.cut == "too deep" else "no call frame information leads on"
        text = f"the stack ends behind {len(site.stack)} {'return address' if len(site.stack) == 1 else 'return addresses'}: {why}"
        evidence.append(Evidence(method="stack", text=text, values={"depth": len(site.stack)}))
    form = site.recorded[0].block
    return Finding(
        kind=site.kind,
        subject=Subject(type="heap", name="[heap]"),
        bytes=size,
        blocks=len(leaders),
        indirect_bytes=sum(x.indirect_bytes for x in leaders),
        indirect_blocks=sum(x.indirect_blocks for x in leaders),
        rate_bytes_per_second=None if each is None else len(site.recorded) * each,
        rate_interval=None if each is None else (low * each, high * each),
        confidence=_confidence(scans, site.kind),
        fingerprint=fingerprint("lost", stack, form.size, form.content),
        location=None if answer is None else stack[answer].location,
        location_is=location_is(trace, answer, exact),
        stack=stack,
        evidence=tuple(evidence),
    )


def _stands_for(size: int, trace: AllocationTrace) -> int:
    """The bytes that a recorded block is one sample of."""
    return size if trace.sampled_bytes is None else max(size, trace.sampled_bytes)


def location_is(trace: AllocationTrace, answer: int | None, exact: int) -> Literal["recorded", "inferred"] | None:
    """How sure a location is.

    Args:
        trace: where the stack comes from.
        answer: the index of the frame that is the location.
        exact: how many frames are exact.

    """
    if answer is None:
        return None
    return "inferred" if answer >= exact or trace.sampled_bytes is not None else "recorded"


def _unlocated(group: Sequence[_Leader], scans: Sequence[HeapScan]) -> Finding:
    block = group[0].block
    evidence = [_scan_evidence(scans, len(group))]
    if block.content is not None:
        text = f"their first word points to {block.content}"
        evidence.append(Evidence(method="content", text=text, values={"symbol": block.content}))
    shown = next((leader.block.text for leader in group if leader.block.text is not None), None)
    if shown is not None:
        evidence.append(Evidence(method="content", text=f"one of them holds: {shown}", values={"text": shown}))
    return Finding(
        kind=block.kind,
        subject=Subject(type="heap", name="[heap]"),
        bytes=sum(x.block.size for x in group),
        blocks=len(group),
        indirect_bytes=sum(x.indirect_bytes for x in group),
        indirect_blocks=sum(x.indirect_blocks for x in group),
        rate_bytes_per_second=None,
        rate_interval=None,
        confidence=_confidence(scans, block.kind),
        fingerprint=fingerprint("lost", (), block.size, block.content),
        location=None,
        location_is=None,
        stack=(),
        evidence=tuple(evidence),
    )


def growing_finding(trend: SeriesTrend, mapping: VmaGrowth | None) -> Finding:
    """A series that is judged to grow: of the mapping that grew most, or of the whole process where that is not known."""
    subject = Subject(type="process", name=trend.name) if mapping is None else Subject(type="mapping", name=readable(mapping.name))
    values: dict[str, int | float | str] = {"verdict": trend.verdict, "samples": trend.samples, "gates": ", ".join(trend.gates)}
    if trend.probability is not None:
        values["probability"] = trend.probability
    text = f"{trend.samples} samples over {trend.duration_seconds:.0f} s: {trend.verdict}"
    return Finding(
        kind="growing",
        subject=subject,
        bytes=max(0, mapping.increase if mapping is not None else trend.increase or 0),
        blocks=0,
        indirect_bytes=0,
        indirect_blocks=0,
        rate_bytes_per_second=trend.rate_bytes_per_second,
        rate_interval=trend.rate_interval,
        confidence="medium" if trend.verdict == "LEAK" else "low",
        fingerprint=fingerprint("growing", [], None, subject.name),
        location=None,
        location_is=None,
        stack=(),
        evidence=(Evidence(method="trend", text=text, values=values),),
    )


_ORDER: dict[FindingKind, int] = {
    "definite": 0,
    "growing": 1,
    "possible": 2,
    "outstanding": 3,
    "indirect": 4,
    "reachable": 5,
}


def rank(findings: Sequence[Finding]) -> list[Finding]:
    """By kind; within a kind those with a location first, then by direct + indirect bytes."""
    return sorted(findings, key=lambda f: (_ORDER[f.kind], f.location is None, -(f.bytes + f.indirect_bytes)))
