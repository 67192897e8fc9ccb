from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.model.stack import Frame, SourceLocation
from leakline.present import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.0 KiB"),
        (405768, "396.3 KiB"),
        (1073741824, "1.0 GiB"),
        (-2048, "-2.0 KiB"),
        (None, "-"),
    ],
)
def test_amounts(value: int | None, shown: str) -> None:
    assert text.amount(value) == shown


def test_what_is_unknown_is_a_dash() -> None:
    assert text.exact_bytes(None) == text.rate(None) == text.percent(None) == "-"


def test_counts_and_times() -> None:
    assert text.counted(1, "block") == "1 block"
    assert text.counted(1234, "block") == "1,234 blocks"
    assert [text.duration(n) for n in (900, 1_800_000, 7_100_000_000)] == ["1 µs", "1.8 ms", "7.1 s"]
    assert text.rate(1024.0, (512.0, 2048.0)) == "1.0 KiB/s (90 %: 512 B/s to 2.0 KiB/s)"


def test_a_name_cannot_speak_to_the_terminal() -> None:
    assert text.printable("a\x1b]0;title\x07\nb\u202ec\udcffd") == "a\\x1b]0;title\\x07\\x0ab\\u202ec\\xffd"


@given(st.text())
def test_no_name_can(name: str) -> None:
    shown = text.printable(name)
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in shown)


def test_places_from_the_best_that_is_known() -> None:
    line = SourceLocation(function="main", file="/src/a.c", line=6)
    function = SourceLocation(function="main", file=None, line=None)
    nothing = SourceLocation(function=None, file=None, line=None)
    stripped = Frame(function=None, file=None, line=None, module="app", address=0x1176)
    offset = Frame(function="main", file=None, line=None, module="app", address=0x1176, offset=0x16)
    assert text.place(line) == "a.c:6"
    assert text.place(function, [offset]) == "main+0x16"
    assert text.place(nothing, [stripped]) == "app+0x1176"
    assert text.place(nothing) == "an unknown function"


@given(st.integers(-(1 << 62), 1 << 62))
def test_a_compact_amount_is_short_and_near(value: int) -> None:
    shown = text.compact(value)
    assert len(shown.removeprefix("-")) <= 4
    digits = re.fullmatch(r"(-?[\d.]+)([KMGTPE]?)", shown)
    assert digits is not None
    factor = 1024 ** " KMGTPE".index(digits[2] or " ")
    assert abs(float(digits[1]) * factor - value) <= max(0.06 * factor, abs(value) / 15)


def test_compact_words() -> None:
    assert [text.compact(n) for n in (None, 0, 999, 1000, 1024, 10 << 10, 1023 << 10, 3 << 29)] == [
        *("-", "0", "999", "1.0K", "1.0K", "10K", "1.0M", "1.5G"),
    ]
    assert [text.compact_rate(n) for n in (None, 0.0, 122880.0, -2048.0)] == ["-", "0/s", "+120K/s", "-2.0K/s"]
    assert [text.compact_count(n) for n in (None, 0, 950, 12_300, 4_100_000)] == ["-", "0", "950", "12.3k", "4.1M"]
    assert [text.compact_seconds(n) for n in (None, 45.0, 720.0, 10800.0, 777600.0)] == ["-", "45s", "12m", "3h", "9d"]
    assert [text.hours(n) for n in (0, 751.9, 266400)] == ["00:00:00", "00:12:31", "3d 02:00:00"]


def test_a_sparkline_shows_what_changes_and_nothing_that_hardly_does() -> None:
    assert text.sparkline([1.0, 4.0, 8.0]) == "▁▄█"
    assert text.sparkline([math.nan, 0.0, math.nan, 5.0]) == " ▁ █"
    assert set(text.sparkline([1e9, 1e9 + 4096, 1e9])) == {"▁"}
    assert text.sparkline([]) == ""
