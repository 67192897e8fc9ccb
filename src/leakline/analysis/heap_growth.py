"""Blocks that can still be reached and become more: the leak that reachability alone never sees.

Blocks are told apart by who allocated them, where a recorder knows; the others by what their first word points to and by their
size. What becomes lost meanwhile is reported as lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

import msgspec

from leakline.analysis.fingerprint import fingerprint
from leakline.analysis.locating import answering_frame
from leakline.model.finding import Evidence, Finding, Subject
from leakline.model.heap import BlockGroup, Census
from leakline.model.stack import Frame
from leakline.model.trend import Series, SeriesTrend

_MOST_JUDGED = 500


class CensusAt(msgspec.Struct, frozen=True):
    """A census, and when it was taken: seconds on a clock that is common to those that are compared."""

    seconds: float
    census: Census


class _Blocks(msgspec.Struct):
    """Reachable blocks of one site; or, where that is not known, of one type and size."""

    blocks: int = 0
    bytes: int = 0
    forms: set[tuple[str | None, int]] = msgspec.field(default_factory=set)
    site: int | None = None

    def add(self, group: BlockGroup, size: int) -> None:
        """Count a group of them."""
        self.blocks += group.blocks
        self.bytes += group.bytes
        self.forms.add((group.type, size))

    @property
    def name(self) -> str:
        """In words."""
        sizes, types = {size for _, size in self.forms}, {kind for kind, _ in self.forms}
        low, high = min(sizes), max(sizes)
        kind = next(iter(types)) if len(types) == 1 else None
        return f"blocks of {low if low == high else f'{low} to {high}'} bytes" + (f", {kind}" if kind else "")


def grown_since(before: Census, after: Census, seconds: float | None) -> list[Finding]:
    """What there is more of than before: two looks, which show growth and not that it goes on.

    Sites are the same where their stacks are, in another process too; where only one of the two knows any, types and sizes are
    compared.

    Args:
        before: the earlier look.
        after: the later one.
        seconds: between them; None where they are of different processes.

    """
    stacks, earlier_stacks = after.stacks(), before.stacks()
    if not (stacks and earlier_stacks):
        stacks, earlier_stacks = {}, {}
    earlier, findings = _reachable(before, _by_stack(earlier_stacks)), []
    for key, now in _reachable(after, _by_stack(stacks)).items():
        was = earlier.get(key, _Blocks())
        if now.blocks <= was.blocks or now.bytes <= was.bytes:
            continue
        when = "in another process" if seconds is None else f"{seconds:.0f} s earlier"
        evidence = Evidence(
            method="diff",
            text=f"{was.blocks:,} reachable blocks {when}, {now.blocks:,} now; two looks do not tell whether it goes on",
            values={"blocks_before": was.blocks, "blocks": now.blocks},
        )
        increase = now.bytes - was.bytes
        rate = increase / seconds if seconds else None
        findings.append(_finding(now, increase, now.blocks - was.blocks, evidence, stacks, rate=rate))
    return sorted(findings, key=lambda f: -f.bytes)


def growing(looks: Sequence[CensusAt]) -> list[Finding]:
    """What grows from look to look, as the detector judges it; where it has too few looks, what rose at each.

    Args:
        looks: at one process; the last has the stacks of the sites.

    """
    if len(looks) < 2:
        return []
    from leakline.analysis.trend import judge  # brings numpy

    stacks = looks[-1].census.stacks()
    counts = [_reachable(look.census, lambda site: site if site in stacks else None) for look in looks]
    nothing = _Blocks()
    rise = {key: blocks.bytes - counts[0].get(key, nothing).bytes for key, blocks in counts[-1].items()}
    keys = sorted((key for key, more in rise.items() if more > 0), key=lambda key: -rise[key])[:_MOST_JUDGED]
    series = [
        Series(
            name=counts[-1][key].name,
            times=tuple(look.seconds - looks[0].seconds for look in looks),
            values=tuple(float(count.get(key, nothing).bytes) for count in counts),
        )
        for key in keys
    ]
    findings = []
    for key, one, trend in zip(keys, series, judge(series) if series else [], strict=True):
        rose = all(after > before for before, after in zip(one.values, one.values[1:], strict=False))
        if trend.accuses or (trend.verdict == "INSUFFICIENT" and rose and len(looks) > 2):
            blocks = [count.get(key, nothing).blocks for count in counts]
            more = max(0, blocks[-1] - blocks[0])
            findings.append(_finding(counts[-1][key], rise[key], more, _trend_evidence(trend, blocks), stacks, trend=trend))
    return sorted(findings, key=lambda f: -f.bytes)


def _trend_evidence(trend: SeriesTrend, blocks: Sequence[int]) -> Evidence:
    text = f"{blocks[0]:,} reachable blocks at first, {blocks[-1]:,} at last, {len(blocks)} looks in {trend.duration_seconds:.0f} s"
    judged = "more at every look, too few looks to judge" if trend.verdict == "INSUFFICIENT" else trend.verdict
    values: dict[str, int | float | str] = {"looks": len(blocks), "blocks": blocks[-1], "verdict": trend.verdict}
    if trend.probability is not None:
        values["probability"] = trend.probability
    return Evidence(method="trend", text=f"{text}: {judged}", values=values)


def _by_stack(stacks: Mapping[int, tuple[Frame, ...]]) -> Callable[[int], Hashable | None]:
    """What tells a site in every process: its code, by line where that is known."""
    keys = {
        number: tuple((f.module, f.function, f.file, f.line, f.address if f.line is None else None) for f in stack)
        for number, stack in stacks.items()
    }
    return keys.get


def _reachable(census: Census, site_of: Callable[[int], Hashable | None]) -> dict[Hashable, _Blocks]:
    found: dict[Hashable, _Blocks] = defaultdict(_Blocks)
    for group in census.groups:
        if group.kind != "reachable" or group.size is None:
            continue
        site = None if group.site is None else site_of(group.site)
        blocks = found[(group.type, group.size) if site is None else (site,)]
        blocks.add(group, group.size)
        blocks.site = None if site is None else group.site
    return dict(found)


def _finding(
    blocks: _Blocks,
    increase: int,
    more: int,
    evidence: Evidence,
    stacks: Mapping[int, tuple[Frame, ...]],
    *,
    rate: float | None = None,
    trend: SeriesTrend | None = None,
) -> Finding:
    stack = () if blocks.site is None else stacks.get(blocks.site, ())
    answer = answering_frame(stack)
    recorded = Evidence(
        method="trace",
        text=f"all {blocks.blocks:,} were allocated here, as leakline's agent recorded",
        values={"engine": "agent", "blocks": blocks.blocks},
    )
    kind, size = next(iter(blocks.forms)) if len(blocks.forms) == 1 else (None, None)
    return Finding(
        kind="growing",
        subject=Subject(type="heap", name=blocks.name),
        bytes=increase,
        blocks=more,
        indirect_bytes=0,
        indirect_blocks=0,
        rate_bytes_per_second=rate if trend is None else trend.rate_bytes_per_second,
        rate_interval=None if trend is None else trend.rate_interval,
        confidence="medium" if trend is not None and trend.verdict == "LEAK" else "low",
        fingerprint=fingerprint("growing", stack, size, kind),
        location=None if answer is None else stack[answer].location,
        location_is=None if answer is None else "recorded",
        stack=stack,
        evidence=(evidence, recorded) if stack else (evidence,),
    )
