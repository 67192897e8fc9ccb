from __future__ import annotations

import xml.etree.ElementTree as ET

from leakline.analysis.fault_groups import joined
from leakline.analysis.fault_growth import HeldPages, growth_findings
from leakline.model.faults import (
    Crash,
    FaultCounts,
    FaultedProcess,
    FaultGroup,
    FaultMoment,
    FaultReport,
    FaultVma,
    Neighbour,
    NotSeen,
)
from leakline.model.finding import Cost, Target
from leakline.model.stack import Frame
from leakline.present.fault_chart import faults_svg
from leakline.present.faults import describe_faults

EVIL = "a\x1b[31m<b>\u202e"


def frame(function: str, line: int, module: str = "program") -> Frame:
    return Frame(function=function, file=f"/src/{function}.c", line=line, module=module, address=line)


def vma(path: str | None = None) -> FaultVma:
    return FaultVma(start=0x1000, end=0x9000, perms="rw-p", kind="anon" if path is None else "file", path=path)


def group(count: int, stack: tuple[Frame, ...], where: FaultVma, *, crash: Crash | None = None) -> FaultGroup:
    return FaultGroup(
        kind="minor" if crash is None else "segv",
        cause="first-touch" if crash is None else "no-vma",
        access="write",
        count=count,
        bytes=4096 * count,
        huge=0,
        by="program",
        address=0x2000,
        vma=where,
        threads=1,
        tid=7,
        location=stack[0].location,
        location_is="recorded",
        stack=stack,
        explanation=f"words {EVIL}",
        crash=crash,
    )


def report(*groups: FaultGroup) -> FaultReport:
    return FaultReport(
        target=Target(pid=7, command=EVIL, executable=None),
        seconds=2.0,
        counts=FaultCounts(minor=100, major=0),
        seen=FaultCounts(minor=100, major=0),
        lost=0,
        every=1,
        by="line",
        faults=groups,
        timeline=(FaultMoment(seconds=1.0, counts={"first-touch": 90}), FaultMoment(seconds=2.0, counts={"swap-in": 10})),
        interval=1.0,
        processes=(FaultedProcess(pid=8, command=EVIL, minor=5, major=0),),
        access_is="recorded",
        not_seen=(NotSeen(what=EVIL, count=3, why=EVIL),),
        status=None,
        cost=Cost(target_stopped_ns=0, duration_ns=1),
    )


def test_groups_are_joined_by_what_is_asked_for() -> None:
    one, two = (frame("work", 5), frame("main", 9)), (frame("work", 6), frame("main", 9))
    groups = [group(3, one, vma()), group(4, one, vma()), group(5, two, vma("/data"))]
    assert [g.count for g in joined(groups, "line")] == [7, 5]
    assert [(g.count, g.stack) for g in joined(groups, "vma")] == [(7, ()), (5, ())]
    (all_of_them,) = joined(groups, "cause")
    assert (all_of_them.count, all_of_them.vma, all_of_them.bytes) == (12, None, 12 * 4096)


def test_names_from_outside_are_harmless_in_text_and_picture() -> None:
    crash = Crash(
        signal="SIGSEGV",
        fatal=True,
        handled=False,
        code="SEGV_MAPERR",
        pid=7,
        tid=7,
        command=EVIL,
        instruction=EVIL,
        instruction_address=1,
        registers={"rax": 1},
        neighbours=(Neighbour(side="above", distance=5, vma=vma(EVIL)),),
        symbol=EVIL,
    )
    stack = (Frame(function=EVIL, file=EVIL, line=1, module=EVIL, address=1),)
    whole = report(group(1, stack, vma(EVIL), crash=crash), group(5, stack, vma(EVIL)))
    for sites in (False, True):
        text = "\n".join(line for line, _ in describe_faults([whole], 10, sites=sites))
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "SIGSEGV" in text
    picture = faults_svg([whole])
    ET.fromstring(picture)
    assert "\x1b" not in picture
    assert "<b>" not in picture


def test_what_comes_all_the_time_grows_and_what_came_once_is_outstanding() -> None:
    page = 4096
    growing = HeldPages(
        stack=(frame("malloc", 1, "libc.so.6"), frame("work", 5)), exact=2, vma=vma(), by_stretch=(8 * page,) * 5, touched=50 * page
    )
    again = HeldPages(
        stack=(frame("sysmalloc", 2, "libc.so.6"), frame("work", 5)), exact=2, vma=vma(), by_stretch=(page,) * 5, touched=5 * page
    )
    once = HeldPages(stack=(frame("start", 3),), exact=1, vma=vma(), by_stretch=(0, 20 * page, 0, 0, 0), touched=20 * page)
    few = HeldPages(stack=(frame("other", 4),), exact=1, vma=vma(), by_stretch=(page, 0, 0, 0, page), touched=2 * page)
    first, second = growth_findings([growing, again, once, few], seconds=5.0, every=1)
    assert (first.kind, first.bytes, second.kind, second.bytes) == ("growing", 45 * page, "outstanding", 20 * page)
    assert first.location is not None
    assert (first.location.function, first.location.line) == ("work", 5)
    assert first.rate_bytes_per_second == 9 * page
    assert first.rate_interval == (9 * page, 9 * page)
    assert second.rate_interval is not None
    assert second.rate_interval[0] == 0
