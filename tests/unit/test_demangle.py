from __future__ import annotations

import pytest

from leakline.symbols.demangle import demangle


def test_mangled_names_become_readable_and_others_are_left_out() -> None:
    assert demangle(["_ZTV7Session", "main", "_ZN3foo3barEi", "_Znonsense\nx"]) == {
        "_ZTV7Session": "vtable for Session",
        "_ZN3foo3barEi": "foo::bar(int)",
    }


def test_without_the_tool_names_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert demangle(["_ZTV7Session"]) == {}
