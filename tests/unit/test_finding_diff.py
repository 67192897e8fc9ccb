"""Reports merged, compared, and held against a baseline."""

from __future__ import annotations

import msgspec

from leakline.analysis.finding_diff import compare, only_new
from leakline.analysis.merge import merge_reports
from leakline.model.finding import Evidence, KindTotal, NotJudged, Suppressed
from tests.findings import finding, frame, report

LOST = finding(bytes=100, blocks=2)
LATER_LINE = finding(bytes=105, blocks=2, stack=(frame("lose", 60), frame("main", 90)))
OTHER = finding(bytes=7, blocks=1, stack=(frame("other"), frame("main")))
HELD = finding(kind="possible", stack=(frame("hold"), frame("main")))


def test_reports_about_one_program_become_one() -> None:
    gap = NotJudged(name="the heap", bytes=None, share=None, why="cut short")
    rule = Suppressed(rule="leak:a", source="f:1", findings=1, bytes=5, blocks=1)
    said = Evidence(method="checker", text="another says so", values={})
    first = report(findings=(LOST, HELD), definite=(100, 2), possible=None, not_judged=(gap,), suppressed=(rule,))
    child = report(findings=(OTHER,), command="helper", pid=9)
    second = report(
        findings=(msgspec.structs.replace(LATER_LINE, evidence=(said,), confidence="low"),),
        pid=8,
        definite=(105, 2),
        possible=(3, 1),
        not_judged=(gap,),
        suppressed=(rule,),
        children=(child,),
    )
    app, helper = merge_reports([first, second])
    assert (app.summary.definite, app.summary.possible) == (KindTotal(bytes=205, blocks=4), KindTotal(bytes=3, blocks=1))
    assert app.summary.reachable is None, "nobody knows"
    same, held = app.findings
    assert (same.bytes, same.blocks, same.confidence) == (205, 4, "high")
    assert [one.text for one in same.evidence] == ["it says so", "another says so"]
    assert held == HELD
    assert app.not_judged == (gap,)
    assert [(one.bytes, one.blocks, one.findings) for one in app.suppressed] == [(10, 2, 2)]
    assert helper.findings == (OTHER,)


def test_processes_without_a_name_stay_apart() -> None:
    unnamed = [report(findings=(LOST,), command="?", pid=pid) for pid in (1, 2)]
    assert len(merge_reports(unnamed)) == 2
    assert len(merge_reports([report(target=None), report(target=None), report()])) == 2


def test_what_changed() -> None:
    before = [report(findings=(LOST, OTHER, finding(bytes=1000, blocks=1, stack=(frame("shrinks"),)), HELD))]
    grown = msgspec.structs.replace(OTHER, bytes=8)
    less = finding(bytes=500, blocks=1, stack=(frame("shrinks"),))
    new = finding(bytes=1, blocks=1, stack=(frame("new"),))
    reachable = finding(kind="reachable", stack=(frame("kept"),))
    found = compare(before, [report(findings=(LATER_LINE, grown, less, new, reachable))], ("A", "B"))
    assert [(one.change, one.stack[0].function, one.bytes) for one in found.changes] == [
        ("new", "new", 1),
        ("grown", "other", 1),
        ("shrunk", "shrinks", -500),
        ("gone", "hold", -100),
        ("same", "lose", 5),
    ]
    assert (found.differs, found.bytes, found.blocks) == (True, -593, -1)
    assert found.changes[-1].location == LATER_LINE.location
    same = compare(before, before, ("A", "A"))
    assert not same.differs
    assert {one.change for one in same.changes} == {"same"}


def test_what_one_of_two_checkers_cannot_tell_is_no_change() -> None:
    sanitizer, valgrind = report(findings=(LOST,), possible=None), report(findings=(LOST, HELD))
    for pair in ([sanitizer], [valgrind]), ([valgrind], [sanitizer]):
        found = compare(*pair, ("A", "B"))
        assert not found.differs
        assert "does not tell possible blocks: 1 of" in found.not_judged[0]
    unseen = compare([report(findings=(LOST,))], [report(definite=None)], ("A", "B"))
    assert not unseen.differs, "where nothing looked, nothing is gone"


def test_a_program_that_was_renamed_or_has_no_name() -> None:
    renamed = compare([report(findings=(LOST,))], [report(findings=(LATER_LINE,), command="?", pid=99)], ("A", "B"))
    assert [(one.change, one.command) for one in renamed.changes] == [("same", "?")]


def test_only_what_is_new() -> None:
    child = report(findings=(LOST,), pid=9)
    ten = msgspec.structs.replace(OTHER, bytes=70, blocks=10)
    base = [report(findings=(LOST, OTHER))]
    (shown,) = only_new([report(findings=(LATER_LINE, ten, HELD), children=(child,))], base, "base")
    assert only_new([shown], base, "base") == [shown], "once is enough"
    assert shown.findings == (HELD,)
    known = shown.known
    assert known is not None
    assert (known.source, known.findings, known.bytes, known.blocks) == ("base", 2, 175, 12)
    assert [(one.before, one.now) for one in known.grown] == [(KindTotal(bytes=7, blocks=1), KindTotal(bytes=70, blocks=10))]
    below = shown.children[0]
    assert below.findings == ()
    assert below.known is not None
    assert below.known.findings == 1
