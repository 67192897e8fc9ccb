"""Charts and the drawing of an address space."""

from __future__ import annotations

import io
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from leakline.model.mappings import VmaKind, VmaMemory
from leakline.present.charts import Chart, bar_lines, bar_svg, make_chart, pie_lines, pie_svg
from leakline.present.picture import picture_lines
from leakline.present.screen import write_lines


def mapping(start: int, end: int, kind: VmaKind = "anon", path: str | None = None) -> VmaMemory:
    return VmaMemory(start, end, "rw-p", kind, None, path, 0, end - start, 4096, 4096, 4096, 0, 0, 0, 0, 0, 0, 0, 0, 0, ())


def plain(lines: object) -> list[str]:
    out = io.StringIO()
    write_lines(lines, out, "never")  # type: ignore[arg-type]
    return out.getvalue().splitlines()


def test_bars_are_as_long_as_their_amounts_and_the_rest_is_summed() -> None:
    chart = make_chart("t", ["pss"], [("a", [800]), ("b", [400]), ("c", [100]), ("d", [100]), ("unknown", [None])], most=2)
    assert [name for name, _ in chart.rows] == ["a", "b", "2 others"]
    head, a, b, rest = plain(bar_lines(chart, 60))
    assert head == "t: pss"
    assert a.count("█") == 2 * b.count("█")
    assert "200 B" in rest


def test_an_unknown_amount_is_a_dash_beside_a_known_one() -> None:
    chart = make_chart("t", ["pss", "rss"], [("a", [None, 100]), ("b", [5, 5])], most=9)
    a = next(line for line in plain(bar_lines(chart, 60)) if line.startswith("a"))
    assert a.split() == ["a", "-"]


def test_a_pie_shows_shares_and_leaves_out_what_is_not_positive() -> None:
    chart = Chart("t", ("bytes",), (("a", (300,)), ("b", (100,)), ("minus", (-5,))))
    lines = plain(pie_lines(chart, 80))
    text = "\n".join(lines)
    assert "75.0 %" in text
    assert "25.0 %" in text
    assert "minus" not in text
    assert text.count("█") > 2.5 * text.count("▓")
    assert plain(pie_lines(Chart("t", ("bytes",), ()), 80)) == ["t: bytes, 0 B in all"]


@given(
    st.lists(
        st.tuples(st.text(max_size=50), st.lists(st.one_of(st.none(), st.integers(-(1 << 50), 1 << 50)), min_size=2, max_size=2)),
        max_size=30,
    )
)
def test_any_names_and_amounts_make_a_sound_picture(rows: list[tuple[str, list[int | None]]]) -> None:
    chart = make_chart("<title> & more", ["a", "b"], rows, most=8)
    for svg in (bar_svg(chart), pie_svg(chart)):
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
        assert not any("script" in element.tag for element in root.iter())
    for line in [*plain(bar_lines(chart, 80)), *plain(pie_lines(chart, 80))]:
        assert "\x1b" not in line


def test_one_slice_is_a_circle() -> None:
    assert "<circle" in pie_svg(Chart("t", ("b",), (("all", (10,)),)))


def test_the_address_space() -> None:
    rows = [
        mapping(0x400000, 0x401000, "text", "/bin/a"),
        mapping(0x401000, 0x402000, "data", "/bin/a"),
        mapping(0x402000, 0x403000, "bss"),
        mapping(0x10000000, 0x50000000, "heap", "[heap]"),
        mapping(0x7FFFF0000000, 0x7FFFF0001000, "stack", "[stack]"),
        mapping(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, "vsyscall", "[vsyscall]"),
    ]
    lines = plain(picture_lines(rows))
    text = "\n".join(lines)
    assert text.index("kernel half") < text.index("[stack]") < text.index("[heap]") < text.index("/bin/a")
    assert "3 mappings" in text, "text, data and bss of one file are one box"
    assert "0000000000402000" not in text
    assert lines[-1].startswith("0000000000000000")
    stack_gap = lines[text[: text.index("[stack]")].count("\n") + 1 : text[: text.index("[heap]")].count("\n")]
    below = lines[text[: text.index("[heap]")].count("\n") : text[: text.index("/bin/a")].count("\n")]
    assert sum("┊" in line for line in stack_gap) > sum("┊" in line for line in below), "127 TiB look farther than 250 MiB"


def test_hostile_names_in_the_picture() -> None:
    assert "\x1b" not in "\n".join(plain(picture_lines([mapping(0x1000, 0x2000, "file", "/tmp/\x1b[31mred")])))
