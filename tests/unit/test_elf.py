from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from leakline.errors import ParseError
from leakline.formats.elf import Elf, Symbol, SymbolTable
from tests.conftest import Build


@pytest.fixture(scope="session")
def program(build: Build) -> bytes:
    return build("kinds.c").read_bytes()


def test_a_position_independent_program(program: bytes) -> None:
    elf = Elf(io.BytesIO(program), "kinds")
    assert (elf.bits, elf.has_interpreter, elf.type) == (64, True, "ET_DYN")
    assert elf.build_id is not None
    assert len(elf.build_id) == 40
    assert elf.has_lines()
    main = elf.symbols().named("main")
    assert main is not None
    assert elf.symbols().at(main.address + 3) == main
    offset = elf.offset_of_address(main.address)
    assert offset is not None
    assert elf.address_of_offset(offset) == main.address


def test_what_a_32_bit_and_a_stripped_program_lack(build: Build) -> None:
    with Elf.open(str(build("raw32.c", "-m32", "-nostdlib", "-static", "-fno-pic")), "raw32") as elf:
        assert (elf.bits, elf.has_interpreter) == (32, False)
    with Elf.open(str(build("kinds.c", "-s")), "stripped") as elf:
        assert not elf.has_lines()
        assert elf.symbols().named("main") is None
        assert elf.build_id is not None


def test_a_gap_between_symbols_has_no_name() -> None:
    table = SymbolTable([Symbol(name="a", address=100, size=10), Symbol(name="label", address=105, size=0)])
    assert [s.name if (s := table.at(x)) else None for x in (99, 100, 107, 109, 110)] == [None, "a", "a", "a", None]


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh\n"])
def test_what_is_no_elf_file_is_refused(data: bytes) -> None:
    with pytest.raises(ParseError):
        Elf(io.BytesIO(data), "x").symbols()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(place=829, noise=bytes(7) + b"\x01\x01\x01\x01", cut=None)
@given(
    place=st.integers(0, 4000) | st.integers(-4000, -1),
    noise=st.binary(min_size=1, max_size=16),
    cut=st.none() | st.integers(0, 20000),
)
def test_a_damaged_file_is_read_or_refused(program: bytes, place: int, noise: bytes, cut: int | None) -> None:
    data = bytearray(program[:cut])
    data[place : place + len(noise)] = noise
    try:
        elf = Elf(io.BytesIO(bytes(data)), "damaged")
        elf.symbols().named("main")
        elf.debug_link()
        elf.has_lines()
        elf.address_of_offset(0x1000)
    except ParseError:
        return


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), Elf.open(str(tmp_path / "none"), "none"):
        pass
