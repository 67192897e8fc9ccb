"""Growth by page faults: who touched the pages first that a process has more than before."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal

import msgspec

from leakline.analysis.diagnosis import rank
from leakline.analysis.fault_groups import located
from leakline.analysis.fingerprint import fingerprint
from leakline.analysis.locating import answering_frame
from leakline.model.finding import Evidence, Finding, Subject
from leakline.model.stack import Frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leakline.model.faults import FaultVma

# Student's t, 95 % one-sided (so 90 % two-sided), by degrees of freedom.
_T95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)
_LEAST_STRETCHES = 3
_FEW_BYTES = 3 * 4096
"""What every program touches now and then, and no growth."""


class HeldPages(msgspec.Struct, frozen=True, kw_only=True):
    """Pages that were touched first at one place, and that are still there."""

    stack: tuple[Frame, ...]
    exact: int
    """How many of its frames are."""
    vma: FaultVma | None
    by_stretch: tuple[int, ...]
    """Bytes that are still there, by the stretch of time in which they were touched."""
    touched: int
    """Bytes that were touched, gone ones too."""


def growth_findings(sites: Iterable[HeldPages], seconds: float, every: int) -> list[Finding]:
    """A finding for each place that fills memory: growing where it does so all the time, else outstanding.

    Args:
        sites: places, with their pages.
        seconds: how long all stretches of time were together.
        every: so many pages stand behind each that was looked at.

    """
    joined: dict[tuple[object, ...], list[HeldPages]] = defaultdict(list)
    for site in sites:
        # Whichever of the allocator's own lines touched the page: it is the same place of the program's.
        own = site.stack[answering_frame(site.stack) or 0 :]
        joined[tuple((f.function, f.file, f.line) for f in own)].append(site)
    large = [group for group in joined.values() if sum(sum(site.by_stretch) for site in group) > _FEW_BYTES]
    return rank([_finding(group, seconds, every) for group in large])


def _finding(group: Sequence[HeldPages], seconds: float, every: int) -> Finding:
    largest = max(group, key=lambda site: sum(site.by_stretch))
    stretches = [sum(column) for column in zip(*(site.by_stretch for site in group), strict=True)]
    held, touched = sum(stretches), sum(site.touched for site in group)
    busy = sum(1 for amount in stretches if amount)
    kind: Literal["growing", "outstanding"] = "growing" if busy >= max(_LEAST_STRETCHES, len(stretches) - 1) else "outstanding"
    rate, interval = _rate(stretches, seconds)
    location, location_is = located(largest.stack, largest.exact)
    text = f"{held:,} bytes of pages that were touched first here within {seconds:.1f} s are still there"
    if touched > held:
        text += f", of {touched:,}"
    text += f"; they came in {busy} of {len(stretches)} stretches of time"
    if every > 1:
        text += f"; one in {every} was looked at"
    values: dict[str, int | float | str] = {
        "touched_bytes": touched,
        "held_bytes": held,
        "stretches": len(stretches),
        "busy_stretches": busy,
        "every": every,
        "seconds": round(seconds, 3),
    }
    where = "who touches a page first is not always who allocated it"
    evidence = [Evidence(method="faults", text=text, values=values), Evidence(method="faults", text=where, values={})]
    if location_is == "inferred":
        behind = "the frame lies behind a library's; it comes from frame pointers, which may skip a caller"
        evidence.append(Evidence(method="frame pointers", text=behind, values={}))
    return Finding(
        kind=kind,
        subject=_subject(largest.vma),
        bytes=held,
        blocks=0,
        indirect_bytes=0,
        indirect_blocks=0,
        rate_bytes_per_second=rate,
        rate_interval=interval,
        confidence="low",
        fingerprint=fingerprint("faults", largest.stack, None, None if largest.vma is None else largest.vma.kind),
        location=location,
        location_is=location_is,
        stack=largest.stack,
        evidence=tuple(evidence),
    )


def _rate(stretches: Sequence[int], seconds: float) -> tuple[float | None, tuple[float, float] | None]:
    """Bytes per second, and its 90 % interval by how much the stretches of time differ."""
    count = len(stretches)
    if seconds <= 0 or count < 2:
        return None, None
    each = seconds / count
    mean = sum(stretches) / count
    spread = (sum((amount - mean) ** 2 for amount in stretches) / (count - 1)) ** 0.5
    half = _T95[min(count - 1, len(_T95)) - 1] * spread / count**0.5
    return mean / each, (max(0.0, mean - half) / each, (mean + half) / each)


def _subject(vma: FaultVma | None) -> Subject:
    if vma is None:
        return Subject(type="mapping", name="[anon]")
    if vma.kind in ("heap", "malloc arena", "mmapped malloc chunk"):
        return Subject(type="heap", name="[heap]")
    return Subject(type="mapping", name=vma.path or f"[{vma.kind}]")
