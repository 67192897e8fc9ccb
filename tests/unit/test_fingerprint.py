from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.analysis.fingerprint import fingerprint
from leakline.model.function_names import plain_name
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


def named(*functions: str, module: str | None = "app") -> list[Frame]:
    return [Frame(function=name, file=None, line=None, module=module, address=1) for name in functions]


def test_what_checkers_show_in_different_ways_does_not_matter() -> None:
    ours = [
        Frame(function="operator new(unsigned long)", file=None, line=None, module="libstdc++.so.6.0.30", address=7),
        *named("std::vector<int, A>::grow(int) const", "make[abi:cxx11](int)", "main"),
        Frame(function=None, file=None, line=None, module="libc.so.6", address=0x27249),
        Frame(function="_start", file=None, line=None, module="app", address=3),
    ]
    theirs = named("void std::vector<int>::grow<long>(int)", "make", "main", "(below main)", module=None)
    assert fingerprint("lost", ours, 1, None) == fingerprint("lost", theirs, 2, None)
    lambdas = ("main::{lambda()#1}::operator()() const", "main::$_0::operator()() const", "operator()")
    assert len({fingerprint("lost", named("work", name, "main"), 1, None) for name in lambdas}) == 1
    thread = fingerprint("lost", named("work", "start_thread", "clone"), 1, None)
    assert thread == fingerprint("lost", named("work", "asan_thread_start", module=None), 1, None)
    assert thread == fingerprint("lost", named("work"), 1, None)


@pytest.mark.parametrize(
    ("function", "plain"),
    [
        ("lose", "lose"),
        ("lose(int).part.0", "lose"),
        ("lose(int) [clone .constprop.0]", "lose"),
        ("(anonymous namespace)::lose(char const*)", "{anonymous}::lose"),
        ("void A<B<int> >::put<int>(int&&) const", "A::put"),
        ("A::operator()(int) const", "A::operator_call"),
        ("std::ostream& operator<< <char>(std::ostream&, char)", "operator_shl"),
        ("A::operator new(unsigned long)", "A::operator new"),
        ("fopen@@GLIBC_2.2.5", "fopen"),
        ("<lambda()>", "<lambda()>"),
    ],
)
def test_plain_names(function: str, plain: str) -> None:
    assert plain_name(function) == plain


@given(st.text(alphabet="ab<>():: operator.@[]{}", max_size=30))
def test_any_name_has_a_plain_one(function: str) -> None:
    assert plain_name(function) or not function
