"""Findings from the objects that kmemleak reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from leakline.analysis.diagnosis import rank
from leakline.analysis.fingerprint import fingerprint
from leakline.analysis.kernel_sites import answering_call, frame_of_call
from leakline.model.finding import (
    Cost,
    Evidence,
    Finding,
    KindTotal,
    NotJudged,
    Report,
    RetainedFree,
    Subject,
    Summary,
)
from leakline.model.kmemleak import KmemleakText, UnreferencedObject


def kmemleak_report(text: KmemleakText) -> Report:
    """The kernel's own findings, one for each stack that made objects to which no pointer was found."""
    groups: dict[tuple[tuple[str | None, int | None, str | None], ...], list[UnreferencedObject]] = defaultdict(list)
    for one in text.objects:
        groups[tuple((call.function, call.offset, call.module) for call in one.backtrace)].append(one)
    return Report(
        target=None,
        bytes_are="usable",
        summary=Summary(
            definite=KindTotal(bytes=sum(one.size for one in text.objects), blocks=len(text.objects)),
            indirect=None,
            possible=None,
            reachable=None,
        ),
        findings=tuple(rank([_finding(group) for group in groups.values()])),
        retained_free=RetainedFree(bytes=None),
        not_judged=tuple(NotJudged(name="kmemleak", bytes=None, share=None, why=why) for why in text.problems),
        cost=Cost(target_stopped_ns=0, duration_ns=0),
    )


def _finding(objects: Sequence[UnreferencedObject]) -> Finding:
    stack = tuple(map(frame_of_call, objects[0].backtrace))
    answer = answering_call(stack)
    tasks = sorted({f"{one.comm} ({one.pid})" for one in objects})
    who = ", ".join(tasks[:3]) + (f" and {len(tasks) - 3} more" if len(tasks) > 3 else "")
    what = "the object" if len(objects) == 1 else f"any of the {len(objects):,} objects"
    text = f"kmemleak found no pointer to {what}, which {who} allocated"
    return Finding(
        kind="definite",
        subject=Subject(type="kernel counter", name="kmemleak"),
        bytes=sum(one.size for one in objects),
        blocks=len(objects),
        indirect_bytes=0,
        indirect_blocks=0,
        rate_bytes_per_second=None,
        rate_interval=None,
        confidence="medium",
        fingerprint=fingerprint("kernel", stack[answer or 0 :], None if stack else objects[0].size, None),
        location=None if answer is None else stack[answer].location,
        location_is=None if answer is None else "recorded",
        stack=stack,
        evidence=(Evidence(method="kmemleak", text=text, values={"objects": len(objects), "tasks": len(tasks)}),),
    )
