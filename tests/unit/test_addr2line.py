from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from leakline.model.stack import SourceLocation
from leakline.symbols.addr2line import parse_addr2line


def test_inline_frames_and_unknown_places() -> None:
    output = b"""0x0000000000001176
take
/src/a dir/in:lined.cpp:9
Service::handle(unsigned int)
/src/x.cpp:16 (discriminator 2)
0x0000000000002000
??
??:0
0x0000000000003000
only_a_symbol
??:?
"""
    first, second, third = parse_addr2line(output, 3)
    assert first == [
        SourceLocation(function="take", file="/src/a dir/in:lined.cpp", line=9),
        SourceLocation(function="Service::handle(unsigned int)", file="/src/x.cpp", line=16),
    ]
    assert second == []
    assert third == [SourceLocation(function="only_a_symbol", file=None, line=None)]


def test_the_name_of_the_function_around_is_not_taken_for_an_inlined_one() -> None:
    ((inner, outer),) = parse_addr2line(b"0x1\nouter\n/a.cpp:10\nouter\n/a.cpp:16\n", 1)
    assert (inner.function, inner.line, outer.function, outer.line) == (None, 10, "outer", 16)


def test_a_line_of_zero_is_unknown() -> None:
    assert parse_addr2line(b"0x1\nf\n/a.c:0\n", 1)[0][0].line is None


@given(st.binary(max_size=200), st.integers(0, 5))
def test_hostile_output_gives_as_many_answers_as_were_asked(data: bytes, count: int) -> None:
    assert len(parse_addr2line(data, count)) == count
