from __future__ import annotations

from leakline.analysis.fingerprint import fingerprint
from leakline.model.stack import Frame


def frame(function: str | None, line: int | None = 1, address: int = 0x10) -> Frame:
    return Frame(function=function, file="/a.c", line=line, module="app", address=address)


def test_lines_addresses_and_clones_do_not_matter() -> None:
    one = fingerprint("lost", [frame("make", 6, 0x10), frame("main", 20, 0x20)], 104, None)
    two = fingerprint("lost", [frame("make.part.0", 9, 0x30), frame("main", 21, 0x90)], 200, None)
    assert one == two
    assert len(one) == 16


def test_functions_and_forms_do() -> None:
    assert fingerprint("lost", [frame("a")], 1, None) != fingerprint("lost", [frame("b")], 1, None)
    assert fingerprint("lost", [], 104, None) != fingerprint("lost", [], 120, None)
    assert fingerprint("lost", [], 104, "vtable for A") != fingerprint("lost", [], 104, None)
    assert fingerprint("lost", [frame(None, address=1)], 1, None) != fingerprint("lost", [frame(None, address=2)], 1, None)
