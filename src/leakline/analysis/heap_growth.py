"""Blocks that can still be reached and become more: the leak that reachability alone never sees.

Blocks are told apart by what their first word points to and by their size. What becomes lost meanwhile is reported as lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from leakline.analysis.fingerprint import fingerprint
from leakline.model.finding import Evidence, Finding, Subject
from leakline.model.heap import Census
from leakline.model.trend import Series, SeriesTrend

_Form = tuple[str | None, int | None]
_MOST_JUDGED = 500


class CensusAt(msgspec.Struct, frozen=True):
    """A census, and when it was taken: seconds on a clock that is common to those that are compared."""

    seconds: float
    census: Census


def grown_since(before: Census, after: Census, seconds: float | None) -> list[Finding]:
    """What there is more of than before: two looks, which show growth and not that it goes on.

    Args:
        before: the earlier look.
        after: the later one.
        seconds: between them; None where they are of different processes.

    """
    earlier, findings = _reachable(before), []
    for form, (blocks, size) in _reachable(after).items():
        blocks_before, size_before = earlier.get(form, (0, 0))
        if blocks <= blocks_before or size <= size_before:
            continue
        when = "in another process" if seconds is None else f"{seconds:.0f} s earlier"
        evidence = Evidence(
            method="diff",
            text=f"{blocks_before:,} reachable blocks {when}, {blocks:,} now; two looks do not tell whether it goes on",
            values={"blocks_before": blocks_before, "blocks": blocks},
        )
        increase = size - size_before
        rate = increase / seconds if seconds else None
        findings.append(_finding(form, increase, blocks - blocks_before, evidence, rate=rate))
    return sorted(findings, key=lambda f: -f.bytes)


def growing(looks: Sequence[CensusAt]) -> list[Finding]:
    """What grows from look to look, as the detector judges it; where it has too few looks, what rose at each."""
    if len(looks) < 2:
        return []
    from leakline.analysis.trend import judge  # brings numpy

    counts = [_reachable(look.census) for look in looks]
    first = counts[0]
    rise = {form: size - first.get(form, (0, 0))[1] for form, (_, size) in counts[-1].items()}
    forms = sorted((form for form, more in rise.items() if more > 0), key=lambda form: -rise[form])[:_MOST_JUDGED]
    series = [
        Series(
            name=_name(form),
            times=tuple(look.seconds - looks[0].seconds for look in looks),
            values=tuple(float(count.get(form, (0, 0))[1]) for count in counts),
        )
        for form in forms
    ]
    findings = []
    for form, one, trend in zip(forms, series, judge(series) if series else [], strict=True):
        rose = all(after > before for before, after in zip(one.values, one.values[1:], strict=False))
        if trend.accuses or (trend.verdict == "INSUFFICIENT" and rose and len(looks) > 2):
            blocks = [count.get(form, (0, 0))[0] for count in counts]
            findings.append(_finding(form, rise[form], max(0, blocks[-1] - blocks[0]), _trend_evidence(trend, blocks), trend=trend))
    return sorted(findings, key=lambda f: -f.bytes)


def _trend_evidence(trend: SeriesTrend, blocks: Sequence[int]) -> Evidence:
    text = f"{blocks[0]:,} reachable blocks at first, {blocks[-1]:,} at last, {len(blocks)} looks in {trend.duration_seconds:.0f} s"
    judged = "more at every look, too few looks to judge" if trend.verdict == "INSUFFICIENT" else trend.verdict
    values: dict[str, int | float | str] = {"looks": len(blocks), "blocks": blocks[-1], "verdict": trend.verdict}
    if trend.probability is not None:
        values["probability"] = trend.probability
    return Evidence(method="trend", text=f"{text}: {judged}", values=values)


def _reachable(census: Census) -> dict[_Form, tuple[int, int]]:
    return {(g.type, g.size): (g.blocks, g.bytes) for g in census.groups if g.kind == "reachable" and g.size is not None}


def _name(form: _Form) -> str:
    kind, size = form
    return f"blocks of {size} bytes" + (f", {kind}" if kind else "")


def _finding(
    form: _Form, increase: int, blocks: int, evidence: Evidence, *, rate: float | None = None, trend: SeriesTrend | None = None
) -> Finding:
    return Finding(
        kind="growing",
        subject=Subject(type="heap", name=_name(form)),
        bytes=increase,
        blocks=blocks,
        indirect_bytes=0,
        indirect_blocks=0,
        rate_bytes_per_second=rate if trend is None else trend.rate_bytes_per_second,
        rate_interval=None if trend is None else trend.rate_interval,
        confidence="medium" if trend is not None and trend.verdict == "LEAK" else "low",
        fingerprint=fingerprint("growing", (), form[1], form[0]),
        location=None,
        location_is=None,
        stack=(),
        evidence=(evidence,),
    )
