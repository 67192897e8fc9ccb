"""Growth that is no memory mapping: descriptors by kind, threads, zombie children, files in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from leakline.analysis.fingerprint import fingerprint
from leakline.model.finding import Evidence, Finding, Subject
from leakline.model.kernel import Census

_LEAST_MORE = 4
_LEAST_BYTES = 64 * 1024
_LEAST_LOOKS = 3
# Mappings and page tables grow with the memory that the other rungs name.
_NOT_OF_ITS_OWN = frozenset({"mapping", "page of page tables", "mount in its namespace"})
_SUBJECTS: dict[str, Literal["thread", "process"]] = {"thread": "thread", "zombie child": "process"}


def growing_holdings(looks: Sequence[tuple[float, Census]], pid: int) -> list[Finding]:
    """What a process has more of at every look than at the one before.

    Args:
        looks: seconds and what everybody had then, in order; three or more.
        pid: the process.

    """
    if len(looks) < _LEAST_LOOKS:
        return []
    kinds = {what for _, census in looks for holder, what in census if holder.pid == pid} - _NOT_OF_ITS_OWN
    findings = []
    for what in sorted(kinds):
        things = [next((t for (h, w), t in census.items() if h.pid == pid and w == what), None) for _, census in looks]
        numbers = [0 if t is None else t.number for t in things]
        sizes = [0 if t is None else t.bytes or 0 for t in things]
        more = numbers[-1] - numbers[0] >= _LEAST_MORE and _rises(numbers)
        larger = sizes[-1] - sizes[0] >= _LEAST_BYTES and _rises(sizes)
        if more or larger:
            findings.append(_finding(what, [t for t, _ in looks], numbers, sizes))
    return findings


def _rises(values: Sequence[int]) -> bool:
    return all(after > before for before, after in pairwise(values))


def _finding(what: str, times: Sequence[float], numbers: Sequence[int], sizes: Sequence[int]) -> Finding:
    seconds, size = times[-1] - times[0], max(0, sizes[-1] - sizes[0])
    counts = ", ".join(f"{number:,} after {time - times[0]:.1f} s" for time, number in zip(times[1:], numbers[1:], strict=True))
    text = f"{what}: {numbers[0]:,} at first, {counts}"
    if size:
        text += f"; {size:,} bytes more in them"
    values: dict[str, int | float | str] = {"before": numbers[0], "now": numbers[-1], "looks": len(numbers)}
    return Finding(
        kind="growing",
        subject=Subject(type=_SUBJECTS.get(what, "fd"), name=what),
        bytes=size,
        blocks=max(0, numbers[-1] - numbers[0]),
        indirect_bytes=0,
        indirect_blocks=0,
        rate_bytes_per_second=size / seconds if size and seconds > 0 else None,
        rate_interval=None,
        confidence="low",
        fingerprint=fingerprint("holding", (), None, what),
        location=None,
        location_is=None,
        stack=(),
        evidence=(Evidence(method="count", text=text, values=values),),
    )
