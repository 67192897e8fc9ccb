"""Which variable, of which type, holds a value at an instruction: by DWARF (DWARF 5, 2.6 for locations, 3.3 for scopes).

Only the compilation unit of the instruction is read: a whole libc would take half a minute.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from elftools.common.exceptions import DWARFError, ELFError
from elftools.construct.core import ConstructError
from elftools.dwarf.dwarf_expr import DWARFExprParser
from elftools.dwarf.locationlists import LocationEntry, LocationParser
from elftools.dwarf.ranges import BaseAddressEntry
from elftools.elf.elffile import ELFFile

from leakline.errors import ParseError
from leakline.model.faults import Field
from leakline.model.names import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from elftools.dwarf.compileunit import CompileUnit
    from elftools.dwarf.die import DIE
    from elftools.dwarf.dwarfinfo import DWARFInfo

_MOST_UNITS = 2000
_PATIENCE_SECONDS = 3.0
_LONGEST_CHAIN = 64
# What pyelftools lets through on damaged debug information.
_DAMAGE = (
    DWARFError,
    ELFError,
    ConstructError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
)
# DWARF's numbers of x86-64 registers (System V ABI, figure 3.36).
_REGISTERS = ("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)))
_TRANSPARENT = frozenset(("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_restrict_type"))
_POINTERS = frozenset(("DW_TAG_pointer_type", "DW_TAG_reference_type"))
_STRUCTURES = frozenset(("DW_TAG_structure_type", "DW_TAG_class_type", "DW_TAG_union_type"))
_SCOPES = frozenset(("DW_TAG_lexical_block", "DW_TAG_inlined_subroutine"))


class _Variable(NamedTuple):
    name: str
    type: DIE
    value: int | None


def null_field(
    path: bytes,
    pc: int,
    offset: int,
    registers: dict[str, int],
    cfa: int | None,
    word: Callable[[int], int | None],
) -> Field | None:
    """The member of a structure at an offset behind a pointer that is NULL; None where more than one could be meant.

    Args:
        path: the file with the debug information.
        pc: the instruction, as ELF virtual address.
        offset: how far behind NULL the address lay.
        registers: of the thread.
        cfa: its frame's canonical frame address.
        word: the process's memory.

    Raises:
        ParseError: the debug information is damaged.

    """
    try:
        with open(path, "rb") as file:
            elf = ELFFile(file)
            if not elf.has_dwarf_info(strict=True):
                return None
            dwarf = elf.get_dwarf_info()
            unit = _unit_at(dwarf, pc)
            if unit is None:
                return None
            line = _line_text(dwarf, unit, pc)
            found = []
            for variable in _variables(dwarf, unit, pc, registers, cfa, word):
                member = _member(variable.type, offset)
                if variable.value in (0, None) and member is not None:
                    found.append((variable, member))
                elif variable.value:
                    found += _through(variable, offset, word)
            return _only(found, offset, line)
    except OSError:
        return None
    except _DAMAGE as error:
        raise ParseError(f"{readable(os.fsdecode(path))} has debug information that is not understood: {error}") from error


def _through(variable: _Variable, offset: int, word: Callable[[int], int | None]) -> Iterator[tuple[_Variable, tuple[str, str]]]:
    """NULL pointers that a structure holds to which the variable points."""
    for child in variable.type.iter_children():
        if child.tag != "DW_TAG_member" or "DW_AT_name" not in child.attributes or "DW_AT_type" not in child.attributes:
            continue
        target = _pointed(child)
        at = child.attributes.get("DW_AT_data_member_location")
        start = 0 if at is None else at.value
        if target is None or not isinstance(start, int) or word((variable.value or 0) + start) != 0:
            continue
        member = _member(target, offset)
        if member is not None:
            name = child.attributes["DW_AT_name"].value.decode(errors="replace")
            yield _Variable(f"{variable.name}->{name}", target, None), member


def _only(found: list[tuple[_Variable, tuple[str, str]]], offset: int, line: str) -> Field | None:
    """The one that the source line names; else the only one that is known to be NULL."""
    written = [(v, m) for v, m in found if _names(line, v.name, m[1])]
    surely = [(v, m) for v, m in found if v.value == 0]
    for candidates in (written, surely):
        if len({(v.name, m) for v, m in candidates}) == 1:
            variable, (structure, member) = candidates[0]
            return Field(pointer=readable(variable.name), type=readable(structure), member=readable(member), offset=offset)
    return None


def _names(line: str, pointer: str, member: str) -> bool:
    """Whether a line of code reaches for a member, or something in it, through a pointer."""
    chain = r"\s*->\s*".join(re.escape(part) for part in pointer.split("->"))
    first = re.escape(member.split(".")[0].partition("[")[0])
    return re.search(rf"\b{chain}\s*->\s*{first}\b|\(\s*\*\s*{chain}\s*\)\s*\.\s*{first}\b", line) is not None


def _unit_at(dwarf: DWARFInfo, pc: int) -> CompileUnit | None:
    ranges = dwarf.get_aranges()
    if ranges is not None:
        at = ranges.cu_offset_at_addr(pc)
        if at is not None:
            return dwarf.get_CU_at(at)
    until = time.monotonic() + _PATIENCE_SECONDS
    for number, unit in enumerate(dwarf.iter_CUs()):
        if number > _MOST_UNITS or time.monotonic() > until:
            return None
        if _holds(dwarf, unit.get_top_DIE(), pc):
            return unit
    return None


def _holds(dwarf: DWARFInfo, die: DIE, pc: int) -> bool:
    attributes = die.attributes
    if "DW_AT_ranges" in attributes:
        lists = dwarf.range_lists()
        base = attributes["DW_AT_low_pc"].value if "DW_AT_low_pc" in attributes else 0
        if lists is None:
            return False
        for entry in lists.get_range_list_at_offset(attributes["DW_AT_ranges"].value, cast("CompileUnit", die.cu)):
            if isinstance(entry, BaseAddressEntry):
                base = entry.base_address
                continue
            bias = 0 if entry.is_absolute else base
            if entry.begin_offset + bias <= pc < entry.end_offset + bias:
                return True
        return False
    if "DW_AT_low_pc" not in attributes or "DW_AT_high_pc" not in attributes:
        return False
    low, high = attributes["DW_AT_low_pc"].value, attributes["DW_AT_high_pc"]
    end = high.value if high.form == "DW_FORM_addr" else low + high.value
    return bool(low <= pc < end)


def _variables(
    dwarf: DWARFInfo, unit: CompileUnit, pc: int, registers: dict[str, int], cfa: int | None, word: Callable[[int], int | None]
) -> Iterator[_Variable]:
    """Pointers that are in scope."""
    locations = LocationParser(dwarf.location_lists())
    parser = DWARFExprParser(unit.structs)
    low = unit.get_top_DIE().attributes.get("DW_AT_low_pc")
    base = 0 if low is None else low.value
    pending = [unit.get_top_DIE()]
    until = time.monotonic() + _PATIENCE_SECONDS
    while pending:
        die = pending.pop()
        for child in die.iter_children():
            if time.monotonic() > until:
                return  # a unit of a million entries
            if child.tag in ("DW_TAG_namespace", *_STRUCTURES) or (
                child.tag in ("DW_TAG_subprogram", *_SCOPES) and _holds(dwarf, child, pc)
            ):
                pending.append(child)
            elif child.tag in ("DW_TAG_variable", "DW_TAG_formal_parameter") and die.tag in ("DW_TAG_subprogram", *_SCOPES):
                origin = (
                    child.get_DIE_from_attribute("DW_AT_abstract_origin") if "DW_AT_abstract_origin" in child.attributes else child
                )
                if "DW_AT_name" not in origin.attributes or "DW_AT_type" not in origin.attributes:
                    continue
                target = _pointed(origin)
                if target is not None:
                    value = _value(child, unit, parser, locations, pc - base, pc, registers, cfa, word)
                    yield _Variable(origin.attributes["DW_AT_name"].value.decode(errors="replace"), target, value)


def _value(
    die: DIE,
    unit: CompileUnit,
    parser: DWARFExprParser,
    locations: LocationParser,
    inside: int,
    pc: int,
    registers: dict[str, int],
    cfa: int | None,
    word: Callable[[int], int | None],
) -> int | None:
    attribute = die.attributes.get("DW_AT_location")
    if attribute is None:
        return None
    expression = attribute.value
    if LocationParser.attribute_has_location(attribute, unit.header.version) and attribute.form in (
        "DW_FORM_sec_offset",
        "DW_FORM_loclistx",
        "DW_FORM_data4",
    ):
        parsed = locations.parse_from_attribute(attribute, unit.header.version, die)
        expression = None
        for entry in parsed if isinstance(parsed, list) else ():
            if not isinstance(entry, LocationEntry):
                continue
            at = pc if entry.is_absolute else inside
            if entry.begin_offset <= at < entry.end_offset:
                expression = entry.loc_expr
    if not expression:
        return None
    operations: list[Any] = parser.parse_expr(expression)
    first = operations[0]
    if len(operations) == 1 and first.op_name == "DW_OP_fbreg" and cfa is not None:
        return word(cfa + first.args[0])
    if len(operations) == 1 and first.op_name.startswith("DW_OP_reg"):
        number = first.op - 0x50
        return registers.get(_REGISTERS[number]) if 0 <= number < len(_REGISTERS) else None
    if first.op_name == "DW_OP_lit0" and operations[-1].op_name == "DW_OP_stack_value":
        return 0
    return None


def _stripped(die: DIE) -> DIE:
    for _ in range(_LONGEST_CHAIN):  # damaged ones go round in circles
        if die.tag not in _TRANSPARENT or "DW_AT_type" not in die.attributes:
            break
        die = die.get_DIE_from_attribute("DW_AT_type")
    return die


def _pointed(variable: DIE) -> DIE | None:
    """The structure that a pointer points to."""
    kind = _stripped(variable.get_DIE_from_attribute("DW_AT_type"))
    if kind.tag not in _POINTERS or "DW_AT_type" not in kind.attributes:
        return None
    target = _stripped(kind.get_DIE_from_attribute("DW_AT_type"))
    return target if target.tag in _STRUCTURES else None


def _member(structure: DIE, offset: int, depth: int = 0) -> tuple[str, str] | None:
    """Name of the structure, and of its member at an offset; members of members with a dot."""
    if depth > 8:
        return None
    for child in structure.iter_children():
        if child.tag not in ("DW_TAG_member", "DW_TAG_inheritance") or "DW_AT_type" not in child.attributes:
            continue
        at = child.attributes.get("DW_AT_data_member_location")
        start = 0 if at is None else at.value
        if not isinstance(start, int) or start > offset:
            continue
        kind = _stripped(child.get_DIE_from_attribute("DW_AT_type"))
        size = kind.attributes.get("DW_AT_byte_size")
        name = child.attributes.get("DW_AT_name")
        shown = "" if name is None else name.value.decode(errors="replace")
        if kind.tag in _STRUCTURES and size is not None and offset < start + size.value:
            inner = _member(kind, offset - start, depth + 1)
            if inner is not None:
                return _name(structure), f"{shown}.{inner[1]}" if shown else inner[1]
        if start == offset and shown and kind.tag != "DW_TAG_array_type":
            return _name(structure), shown
        index = _index(kind, offset - start)
        if index is not None and shown:
            return _name(structure), f"{shown}[{index}]"
    return None


def _index(array: DIE, offset: int) -> int | None:
    """Which element of an array lies at an offset, if its elements are simple."""
    if array.tag != "DW_TAG_array_type" or "DW_AT_type" not in array.attributes:
        return None
    element = _stripped(array.get_DIE_from_attribute("DW_AT_type")).attributes.get("DW_AT_byte_size")
    bounds = [child.attributes for child in array.iter_children() if child.tag == "DW_TAG_subrange_type"]
    if element is None or not element.value or len(bounds) != 1:
        return None
    last = bounds[0].get("DW_AT_upper_bound")
    index, inside = divmod(offset, element.value)
    return index if not inside and last is not None and isinstance(last.value, int) and index <= last.value else None


def _name(structure: DIE) -> str:
    name = structure.attributes.get("DW_AT_name")
    word = {"DW_TAG_structure_type": "struct", "DW_TAG_class_type": "class"}.get(str(structure.tag), "union")
    return word if name is None else f"{word} {name.value.decode(errors='replace')}"


def _line_text(dwarf: DWARFInfo, unit: CompileUnit, pc: int) -> str:
    """The source line of an instruction, if its file is here."""
    program = dwarf.line_program_for_CU(unit)
    if program is None:
        return ""
    best = None
    for entry in program.get_entries():
        state = entry.state
        if state is not None and state.address <= pc and not state.end_sequence and (best is None or state.address >= best.address):
            best = state
    if best is None:
        return ""
    files, version = program["file_entry"], program["version"]
    index = best.file - (0 if version >= 5 else 1)
    if not 0 <= index < len(files):
        return ""
    entry = files[index]
    folders = program["include_directory"]
    place = entry.dir_index - (0 if version >= 5 else 1)
    folder = folders[place] if 0 <= place < len(folders) else b""
    home = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
    path = os.path.join(home.value if home is not None else b"", folder, entry.name)
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if number == best.line:
                    return line.decode(errors="replace")
    except OSError:
        return ""
    return ""
