"""Rules in three forms: what they mean, and what they do not."""

from __future__ import annotations

from contextlib import suppress as ignoring
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.analysis.suppress import matches, suppress, wildcard
from leakline.errors import InvalidRequest, ParseError
from leakline.formats.suppressions import parse_suppressions
from leakline.model.finding import Finding, KindTotal
from leakline.present.suppressions import suppressions_for
from leakline.session.filtering import Filters
from tests.findings import finding, frame, report

VALGRIND = """\
# of the project
{
   first
   Memcheck,Addrcheck:Leak
   match-leak-kinds: definite,possible
   fun:malloc
   fun:lose*
   ...
   src:a.c:17
}
{
   an error that is no leak
   Memcheck:Param
   write(buf)
   obj:/lib/*/libc.so.6
}
leak:^std::
fingerprint:0123456789abcdef  a.c:17 main, and why
"""


def rule_of(text: str) -> Any:
    (rule,) = parse_suppressions(text.encode(), "file").rules
    return rule


def entry(*lines: str) -> Any:
    return rule_of("\n".join(["{", "name", "Memcheck:Leak", *lines, "}"]))


def on(*functions: str, **fields: Any) -> Finding:
    return finding(stack=tuple(frame(name) for name in functions), **fields)


def test_a_file_of_all_forms() -> None:
    read = parse_suppressions(VALGRIND.encode(), "file")
    first, lsan, own = read.rules
    assert (first.name, first.source, first.kinds) == ("first", "file:2", ("definite", "possible"))
    assert first.frames is not None
    assert [(one.kind, one.pattern, one.line) for one in first.frames] == [
        ("function", "malloc", None),
        ("function", "lose*", None),
        ("any frames", "", None),
        ("source", "a.c", 17),
    ]
    assert (lsan.name, lsan.template, own.fingerprint) == ("leak:^std::", "^std::", "0123456789abcdef")
    assert parse_suppressions(read.for_valgrind.encode(), "file").for_valgrind == read.for_valgrind
    assert "write(buf)" in read.for_valgrind


@pytest.mark.parametrize(
    "text",
    [
        "race:foo",
        "leak:",
        "fingerprint:12",
        "{\nname\n}",
        "{\nname\nMemcheck:Leak\nfun:a",
        "{\nname\nLeak\nfun:a\n}",
        "{\nname\nMemcheck:Leak\n}",
        "{\nname\nMemcheck:Leak\nfoo:a\n}",
        "{\nname\nMemcheck:Leak\nmatch-leak-kinds: some\nfun:a\n}",
    ],
)
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(ParseError, match=r"file:1"):
        parse_suppressions(text.encode(), "file")


@pytest.mark.parametrize(
    ("frames", "stack", "meant"),
    [
        (("fun:malloc", "fun:lose"), ("lose", "main"), True),
        (("fun:lose",), ("lose", "main"), True),
        (("fun:*alloc", "fun:*alloc"), ("xalloc", "main"), True),
        (("fun:malloc", "fun:lose"), ("malloc", "lose", "main"), True),
        (("fun:malloc", "fun:main"), ("lose", "main"), False),
        (("fun:malloc", "...", "fun:main"), ("lose", "main"), True),
        (("...", "fun:b", "...", "fun:b", "fun:d"), ("a", "b", "c", "b", "b", "d"), True),
        (("...", "fun:b", "fun:c", "fun:d"), ("b", "c", "b", "c"), False),
        (("fun:malloc", "fun:lose", "fun:main", "fun:more"), ("lose", "main"), False),
        (("fun:realloc", "fun:l?se"), ("lose",), True),
        (("fun:malloc", "obj:/usr/*/ap?"), ("lose",), True),
        (("fun:malloc", "obj:/usr/lib/libc.so*"), ("lose",), False),
        (("fun:malloc", "src:a.c"), ("lose",), True),
        (("fun:malloc", "src:a.c:3"), ("lose",), False),
        (("fun:_Znwm", "fun:_ZN1A4loseEi"), ("A::lose(int)",), True),
        (("fun:_Znwm", "fun:_ZN1A4lose*"), ("A::lose(int)",), True),
        (("fun:_Znwm", "fun:_ZN1A4lost*"), ("A::lose(int)",), False),
        (("fun:malloc", "fun:main", "fun:(below main)"), ("main", "__libc_start_call_main"), True),
        (("fun:malloc",), ("lose", "main"), True),
    ],
)
def test_valgrinds_rules(tmp_path: Path, frames: tuple[str, ...], stack: tuple[str, ...], meant: bool) -> None:
    file = tmp_path / "rules"
    file.write_text("\n".join(["{", "name", "Memcheck:Leak", *frames, "}"]))
    (rule,) = Filters([file]).rules
    assert matches(rule, on(*stack)) is meant


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("los", True),
        ("^los", True),
        ("^ose", False),
        ("ose$", True),
        ("los$", False),
        ("l*e", True),
        ("l?se", False),
        ("^a.c$", False),
        ("/src/a.c", True),
        ("app", True),
        ("/usr/bin/app", True),
        ("^main$", True),
        ("other", False),
    ],
)
def test_leaksanitizers_rules(pattern: str, meant: bool) -> None:
    assert matches(rule_of(f"leak:{pattern}"), on("lose", "main")) is meant


def test_kinds_and_fingerprints() -> None:
    definite = entry("match-leak-kinds: definite", "fun:lose")
    assert matches(definite, on("lose"))
    assert not matches(definite, on("lose", kind="possible"))
    assert not matches(entry("match-leak-kinds: none", "fun:lose"), on("lose"))
    assert matches(entry("match-leak-kinds: all", "fun:lose"), on("lose", kind="possible"))
    one = finding(stack=())
    assert matches(rule_of(f"fingerprint:{one.fingerprint}"), one)
    assert not matches(entry("..."), one), "there is no stack that could begin so"


def test_reports_without_what_is_suppressed() -> None:
    lost, held = on("lose", bytes=100, blocks=2, indirect_bytes=30, indirect_blocks=3), on("keep", bytes=7, blocks=1)
    child = report(findings=(lost,))
    whole = report(findings=(lost, held), children=(child,), definite=(107, 3), indirect=(40, 4))
    rules = parse_suppressions(b"leak:lose\nleak:keep\nleak:nothing\nleak:l", "file").rules
    (shown,), used = suppress([whole], rules)
    assert shown.findings == ()
    assert shown.summary.definite == KindTotal(bytes=0, blocks=0)
    assert shown.summary.indirect == KindTotal(bytes=10, blocks=1)
    assert [(one.rule, one.findings, one.bytes, one.blocks) for one in shown.suppressed] == [
        ("leak:lose", 1, 100, 2),
        ("leak:keep", 1, 7, 1),
    ]
    assert shown.children[0].findings == ()
    assert {rule.name for rule in used} == {"leak:lose", "leak:keep"}
    assert suppress([shown], rules)[0] == [shown], "once is enough"


def test_rules_for_what_was_found_mean_it(tmp_path: Path) -> None:
    found = [on("lose", "main"), on("std::vector<int>::grow(int) const", "A::make(B)", "main", kind="possible"), finding(stack=())]
    unnamed = finding(stack=(msgspec.structs.replace(frame("x"), function=None),))
    for form in (False, True):
        file = tmp_path / f"rules{form}"
        file.write_text(suppressions_for([*found, unnamed], valgrind=form))
        filters = Filters([file])
        (shown,) = filters.apply([report(findings=(*found, unnamed))])
        assert len(shown.findings) == int(form), "valgrind knows no fingerprints"
        assert filters.unused == []
    text = suppressions_for(found, valgrind=True)
    assert "fun:_Z*6vector*4grow*" in text
    assert "fun:lose" in text


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot read"):
        Filters([tmp_path / "none"])


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_wildcards_are_those_of_regular_expressions(pattern: str, text: str) -> None:
    import re

    expression = "".join({"*": ".*", "?": "."}.get(letter, letter) for letter in pattern)
    assert wildcard(pattern, text) == (re.fullmatch(expression, text) is not None)


def test_a_hostile_pattern_takes_no_long_time() -> None:
    assert not wildcard("*a" * 200 + "b", "a" * 5000)


@given(st.lists(st.sampled_from(VALGRIND.splitlines()) | st.text(max_size=30), max_size=14))
def test_any_lines(lines: list[str]) -> None:
    with ignoring(ParseError):
        rules = parse_suppressions("\n".join(lines).encode(errors="surrogatepass"), "file").rules
        suppress([report(findings=(on("lose", "main"),))], rules)
