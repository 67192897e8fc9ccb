from __future__ import annotations

import tempfile
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import ParseError
from leakline.model.faults import Field
from leakline.symbols.variables import null_field
from tests.conftest import Build

REGISTERS = {"rbp": 0x1000, "rsp": 0x900}
SECTIONS = (".debug_info", ".debug_abbrev", ".debug_line", ".debug_str", ".debug_aranges")


@pytest.fixture(scope="module")
def program(build: Build) -> tuple[bytes, dict[str, tuple[int, int]], int]:
    """Its bytes, where its sections lie, and an instruction of `city_of` behind the prologue."""
    path = build("crashes.c")
    with path.open("rb") as file:
        elf = ELFFile(file)
        sections = {s.name: (s["sh_offset"], s["sh_size"]) for s in elf.iter_sections() if s.name in SECTIONS}
        table: Any = elf.get_section_by_name(".symtab")
        pc = table.get_symbol_by_name("city_of")[0]["st_value"] + 12
    return path.read_bytes(), sections, pc


def ask(data: bytes, pc: int, offset: int) -> Field | None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return null_field(file.name.encode(), pc, offset, REGISTERS, 0x1010, lambda _: 0)


def test_the_member_that_lies_at_an_offset(program: tuple[bytes, dict[str, tuple[int, int]], int]) -> None:
    data, _, pc = program
    for offset, member in ((0, "id"), (8, "home.street"), (12, "home.city[0]"), (31, "home.city[19]"), (32, "next")):
        found = ask(data, pc, offset)
        assert found is not None
        assert (found.pointer, found.type, found.member) == ("someone", "struct person", member)
    assert ask(data, pc, 41) is None
    assert ask(data, 0, 0) is None


@given(st.data())
def test_damaged_debug_information_is_read_or_refused(
    program: tuple[bytes, dict[str, tuple[int, int]], int], data: st.DataObject
) -> None:
    whole, sections, pc = program
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        start, size = sections[data.draw(st.sampled_from(sorted(sections)))]
        damaged[start + data.draw(st.integers(0, size - 1))] = data.draw(st.integers(0, 255))
    try:
        ask(bytes(damaged), pc, 15)
    except ParseError:
        return
