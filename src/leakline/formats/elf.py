"""ELF files, as far as leakline needs them: what kind, where loaded, which symbols, which debug file (System V ABI, gABI 4.1)."""

from __future__ import annotations

import bisect
import mmap
import struct
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Self

import msgspec
from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.construct.core import ConstructError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from leakline.errors import ParseError
from leakline.formats.eh_frame import FrameTable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_SYMBOL = struct.Struct("<IBBHQQ")
_STT_FUNC, _STT_GNU_IFUNC, _STT_OBJECT = 2, 10, 1
# What pyelftools lets through on a damaged file besides its own ELFError.
_DAMAGE = (
    ELFError,
    ConstructError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    OverflowError,
    AssertionError,
    struct.error,
)


class LoadSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A PT_LOAD entry: file bytes [offset, offset + file_size) appear at address."""

    offset: int
    address: int
    file_size: int
    memory_size: int


class DebugLink(msgspec.Struct, frozen=True, kw_only=True):
    """The .gnu_debuglink section: a file name, and the CRC-32 that the file must have."""

    name: str
    crc: int


class Symbol(msgspec.Struct, frozen=True, kw_only=True):
    """One function or object."""

    name: str
    address: int
    size: int


class SymbolTable:
    """Functions and objects of .symtab, or of .dynsym where the file is stripped."""

    def __init__(self, symbols: list[Symbol]) -> None:
        self._by_address = sorted(symbols, key=lambda s: (s.address, s.size))
        self._addresses = [s.address for s in self._by_address]
        self._by_name = {s.name: s for s in symbols}

    def named(self, name: str) -> Symbol | None:
        """The symbol of that name."""
        return self._by_name.get(name)

    def functions(self, names: Collection[str]) -> dict[str, Symbol]:
        """Those of the named symbols that there are."""
        return {name: self._by_name[name] for name in names if name in self._by_name}

    def at(self, address: int) -> Symbol | None:
        """The symbol whose bytes hold the address; None in a gap, however near a symbol may be."""
        for index in range(bisect.bisect_right(self._addresses, address) - 1, -1, -1):
            symbol = self._by_address[index]
            if address < symbol.address + symbol.size:
                return symbol
            if symbol.size:
                return None
        return None


class Elf:
    """An ELF file, read once.

    Raises:
        ParseError: it is no ELF file, or a damaged one.

    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        with self._translated():
            elf = ELFFile(file)
            self.bits: int = elf.elfclass
            self.machine: str = elf["e_machine"]
            self.type: str = elf["e_type"]
            # iter_segments() would read the sections for each: ten times as long, and nothing here asks for more than headers.
            self._headers = [
                struct_parse(elf.structs.Elf_Phdr, file, stream_pos=elf["e_phoff"] + number * elf["e_phentsize"])
                for number in range(elf.num_segments())
            ]
            self.has_interpreter = any(header["p_type"] == "PT_INTERP" for header in self._headers)
            self.loads = tuple(
                LoadSegment(
                    offset=header["p_offset"],
                    address=header["p_vaddr"],
                    file_size=header["p_filesz"],
                    memory_size=header["p_memsz"],
                )
                for header in self._headers
                if header["p_type"] == "PT_LOAD"
            )
            self._elf = elf
            self.build_id = self._read_build_id()

    @classmethod
    @contextmanager
    def open(cls, path: str | bytes, name: str) -> Iterator[Self]:
        """Open and close a file around its use."""
        with open(path, "rb") as file:
            yield cls(file, name)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise ParseError(f"{self._name} is not a sound ELF file: {error or type(error).__name__}") from error

    def _read_build_id(self) -> str | None:
        for header in self._headers:
            if header["p_type"] != "PT_NOTE":
                continue
            for note in NoteSegment(header, self._file, self._elf).iter_notes():
                if note["n_type"] == "NT_GNU_BUILD_ID":
                    return str(note["n_desc"])
        return None

    def debug_link(self) -> DebugLink | None:
        """The separate debug file that this one names."""
        with self._translated():
            section = self._elf.get_section_by_name(".gnu_debuglink")
            if section is None:
                return None
            data = section.data()
            name, _, _ = data.partition(b"\0")
            if len(data) < len(name) + 5 or b"/" in name:
                raise ParseError(f"{self._name} has a damaged .gnu_debuglink")
            return DebugLink(name=name.decode(errors="surrogateescape"), crc=int.from_bytes(data[-4:], "little"))

    def has_lines(self) -> bool:
        """Whether it carries DWARF of its own."""
        with self._translated():
            return bool(self._elf.has_dwarf_info(strict=True))

    def frame_table(self) -> FrameTable | None:
        """Call frame information, by its index (.eh_frame_hdr) or without one; it keeps the file mapped."""
        with self._translated():
            header = next((h for h in self._headers if h["p_type"] == "PT_GNU_EH_FRAME"), None)
            section = self._elf.get_section_by_name(".eh_frame") if header is None else None
            if self.bits != 64:
                return None
            try:
                data = mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ)
            except OSError:
                return None
            loads = self.loads

            def read(address: int, size: int) -> bytes:
                for load in loads:
                    if load.address <= address < load.address + load.file_size:
                        at = load.offset + address - load.address
                        return data[at : at + size]
                return b""

            if header is not None:
                return FrameTable(read(header["p_vaddr"], header["p_filesz"]), header["p_vaddr"], read)
            if section is None:
                return None
            return FrameTable.without_index(read(section["sh_addr"], section["sh_size"]), section["sh_addr"], read)

    def symbols(self) -> SymbolTable:
        """The richest symbol table there is; an empty one if there is none."""
        with self._translated():
            richest = ".symtab" if self._elf.get_section_by_name(".symtab") is not None else ".dynsym"
        return self._table(richest)

    def _table(self, section_name: str) -> SymbolTable:
        with self._translated():
            section = self._elf.get_section_by_name(section_name)
            if section is None or self.bits != 64 or section["sh_type"] == "SHT_NOBITS":
                return SymbolTable([])
            names = self._elf.get_section(section["sh_link"]).data()
            data = section.data()
            symbols = []
            for name_at, info, _other, section_index, address, size in _SYMBOL.iter_unpack(data[: len(data) // 24 * 24]):
                if section_index == 0 or info & 15 not in (_STT_FUNC, _STT_GNU_IFUNC, _STT_OBJECT):
                    continue
                end = names.find(b"\0", name_at)
                name = names[name_at : end if end >= 0 else len(names)].decode(errors="backslashreplace")
                symbols.append(Symbol(name=name, address=address, size=size))
            return SymbolTable(symbols)

    def exported_functions(self, names: Collection[str]) -> dict[str, Symbol]:
        """Those of the named functions that others can call: the dynamic symbols."""
        return self._table(".dynsym").functions(names)

    def named_functions(self, names: Collection[str]) -> dict[str, Symbol]:
        """Those of the named functions that any symbol table has."""
        return self.symbols().functions(names)

    def bytes_at(self, offset: int, size: int) -> bytes:
        """Bytes of the file; fewer at its end."""
        self._file.seek(offset)
        return self._file.read(size)

    def section(self, name: str) -> bytes | None:
        """What is in a section; None if there is none of that name."""
        with self._translated():
            section = self._elf.get_section_by_name(name)
            return None if section is None else bytes(section.data())

    def functions(self) -> Iterator[tuple[str, str | None, int]]:
        """Name, section and address of each function of .symtab; of a relocatable file the address is within the section."""
        with self._translated():
            table = self._elf.get_section_by_name(".symtab")
            if table is None or self.bits != 64 or table["sh_type"] == "SHT_NOBITS":
                return
            sections = [section.name for section in self._elf.iter_sections()]
            names, data = self._elf.get_section(table["sh_link"]).data(), table.data()
        for name_at, info, _other, index, address, _size in _SYMBOL.iter_unpack(data[: len(data) // 24 * 24]):
            if info & 15 == _STT_FUNC and index:
                end = names.find(b"\0", name_at)
                name = names[name_at : end if end >= 0 else len(names)].decode(errors="backslashreplace")
                yield name, sections[index] if index < len(sections) else None, address

    def address_of_offset(self, offset: int) -> int | None:
        """The ELF virtual address of a byte of the file; None if it is not loaded."""
        for load in self.loads:
            if load.offset <= offset < load.offset + load.file_size:
                return load.address + offset - load.offset
        return None

    def offset_of_address(self, address: int) -> int | None:
        """The place in the file of an ELF virtual address; None if nothing of the file lies there."""
        for load in self.loads:
            if load.address <= address < load.address + load.file_size:
                return load.offset + address - load.address
        return None

    def load_bias(self, start: int, offset: int) -> int | None:
        """What to add to ELF virtual addresses where the file's byte `offset` is mapped at `start`.

        A mapping begins at a page; the segment that it maps may begin later in that page, or have begun in an earlier one.
        """
        for load in self.loads:
            page = load.offset & ~4095
            if page <= offset < load.offset + load.file_size:
                return start - (load.address - load.offset + offset)
        return None
