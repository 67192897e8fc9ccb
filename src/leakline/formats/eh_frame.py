"""Call frame information: where a function keeps its caller (DWARF 5, 6.4; Linux Standard Base, 10.6, for .eh_frame_hdr).

A rule is what nearly every frame needs: the canonical frame address (CFA) by rsp or rbp, and where the caller's rbp was saved. A
row is all that is known: other registers, expressions, signal frames.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from leakline.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Callable

RBP, RSP, RETURN = 6, 7, 16
_MOST_OPERATIONS = 10_000


class FrameRule(msgspec.Struct, frozen=True, kw_only=True):
    """How to find the caller of a frame at one instruction: the return address stands at CFA - 8."""

    register: int
    """The DWARF number of the register that the CFA hangs on: RSP or RBP."""
    offset: int
    """CFA less that register."""
    rbp_offset: int | None
    """Where the caller's rbp was saved, relative to the CFA; None: it is still in rbp."""


SAME, UNDEFINED, AT_OFFSET, IS_OFFSET, AT_EXPRESSION, IS_EXPRESSION, IN_REGISTER = range(7)
Recovery = tuple[int, int | bytes]
"""How the caller's value of a register is found, and the offset, expression or register that it takes."""


class FrameRow(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a frame at one instruction."""

    register: int | None
    """The register that the CFA hangs on; None: an expression."""
    offset: int
    expression: bytes
    saved: dict[int, Recovery]
    """By DWARF number; a register that is not there keeps its value."""
    is_signal_frame: bool
    """Its caller was interrupted by a signal, and stands at an instruction that has not run yet."""


class _Reader:
    def __init__(self, data: bytes, address: int) -> None:
        self.data, self.address, self.at = data, address, 0

    def unsigned(self, size: int) -> int:
        value = int.from_bytes(self.data[self.at : self.at + size], "little")
        if self.at + size > len(self.data):
            raise ParseError("call frame information is cut short")
        self.at += size
        return value

    def signed(self, size: int) -> int:
        value = self.unsigned(size)
        return value - (1 << 8 * size) if value >> (8 * size - 1) else value

    def block(self) -> bytes:
        """What a length stands before."""
        size = self.uleb()
        data = self.data[self.at : self.at + size]
        if len(data) < size:
            raise ParseError("call frame information is cut short")
        self.at += size
        return data

    def uleb(self) -> int:
        return self._leb()[0]

    def sleb(self) -> int:
        value, shift, last = self._leb()
        return value - (1 << shift) if last & 64 else value

    def _leb(self) -> tuple[int, int, int]:
        """The value, its bits, and its last byte, which has the sign."""
        value = shift = 0
        while True:
            byte = self.unsigned(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 70:
                return value, shift, byte

    def pointer(self, encoding: int, base: int) -> int:
        """A pointer of the DW_EH_PE_ encodings that linkers use."""
        place = self.address + self.at
        form = encoding & 15
        sizes: dict[int, Callable[[], int]] = {
            0: lambda: self.unsigned(8),
            1: self.uleb,
            2: lambda: self.unsigned(2),
            3: lambda: self.unsigned(4),
            4: lambda: self.unsigned(8),
            9: self.sleb,
            10: lambda: self.signed(2),
            11: lambda: self.signed(4),
            12: lambda: self.signed(8),
        }
        if form not in sizes:
            raise ParseError(f"a pointer of the unknown encoding {encoding:#x}")
        relative = {0: 0, 0x10: place, 0x30: base}.get(encoding & 0x70)
        if relative is None:
            raise ParseError(f"a pointer of the unknown encoding {encoding:#x}")
        return (sizes[form]() + relative) & (1 << 64) - 1


class FrameTable:
    """The rules of one module.

    Args:
        header: the bytes of its PT_GNU_EH_FRAME segment.
        address: where that segment lies (ELF virtual address).
        read: the module's bytes by ELF virtual address and size; fewer where it ends.

    """

    def __init__(self, header: bytes, address: int, read: Callable[[int, int], bytes]) -> None:
        reader = _Reader(header, address)
        if reader.unsigned(1) != 1:
            raise ParseError(".eh_frame_hdr is of an unknown version")
        frame_encoding, count_encoding, table_encoding = (reader.unsigned(1) for _ in range(3))
        reader.pointer(frame_encoding, address)
        count = reader.pointer(count_encoding, address) if count_encoding != 0xFF else 0
        if table_encoding != 0x3B:  # datarel | sdata4: the only one that linkers write
            count = 0
        self._address, self._read = address, read
        count = min(count, (len(header) - reader.at) // 8)
        self._table = struct.unpack_from(f"<{2 * count}i", header, reader.at)
        self._rows: dict[int, tuple[FrameRow | None, FrameRule | None]] = {}

    @classmethod
    def without_index(cls, section: bytes, address: int, read: Callable[[int, int], bytes]) -> FrameTable:
        """From .eh_frame itself, as static programs have no .eh_frame_hdr: every entry is looked at once.

        Args:
            section: the bytes of .eh_frame.
            address: where it lies (ELF virtual address).
            read: as above.

        """
        encodings: dict[int, int] = {}
        found: list[tuple[int, int]] = []
        at = 0
        while at + 8 <= len(section):
            size, back = struct.unpack_from("<II", section, at)
            if size in (0, 0xFFFFFFFF):
                break
            try:
                if not back:
                    encodings[at] = _pointer_encoding(_Reader(section[at + 4 : at + 4 + size], address + at + 4))
                elif at + 4 - back in encodings:
                    reader = _Reader(section[at + 8 : at + 4 + size], address + at + 8)
                    found.append((reader.pointer(encodings[at + 4 - back], 0) - address, at))
            except ParseError:
                pass  # an entry of a kind that is not understood: those behind it may be
            at += 4 + size
        table = object.__new__(cls)
        table._address, table._read, table._rows = address, read, {}
        table._table = tuple(number for entry in sorted(found) for number in entry)
        return table

    def rule(self, pc: int) -> FrameRule | None:
        """The rule at an instruction; None where there is none, or one that needs more than rsp and rbp."""
        return self._at(pc)[1]

    def row(self, pc: int) -> FrameRow | None:
        """All that is known at an instruction; None where there is nothing, or nothing that is understood."""
        return self._at(pc)[0]

    def _at(self, pc: int) -> tuple[FrameRow | None, FrameRule | None]:
        if pc not in self._rows:
            try:
                row = self._find(pc)
            except ParseError:
                row = None
            self._rows[pc] = row, None if row is None else _shortened(row)
        return self._rows[pc]

    def _find(self, pc: int) -> FrameRow | None:
        low, high = 0, len(self._table) // 2
        while high - low > 1:
            middle = (low + high) // 2
            if self._table[2 * middle] + self._address <= pc:
                low = middle
            else:
                high = middle
        if low >= high or self._table[2 * low] + self._address > pc:
            return None
        fde = self._entry(self._table[2 * low + 1] + self._address)
        delta = fde.unsigned(4)
        return _run(self._entry(fde.address + fde.at - 4 - delta), fde, pc)

    def _entry(self, address: int) -> _Reader:
        size = int.from_bytes(self._read(address, 4), "little")
        if size in (0, 0xFFFFFFFF) or size > 1 << 16:
            raise ParseError("call frame information of an impossible size")
        return _Reader(self._read(address + 4, size), address + 4)


def _pointer_encoding(cie: _Reader) -> int:
    """How the entries that belong to a CIE write addresses."""
    cie.at = 5
    augmentation, _, _ = cie.data[5:].partition(b"\0")
    cie.at += len(augmentation) + 1
    cie.uleb()
    cie.sleb()
    cie.uleb()
    if not augmentation.startswith(b"z"):
        return 0
    cie.uleb()
    for letter in augmentation[1:]:
        if letter == ord("R"):
            return cie.unsigned(1)
        if letter == ord("P"):
            cie.pointer(cie.unsigned(1) & 0x7F, 0)
        elif letter == ord("L"):
            cie.unsigned(1)
    return 0


class _State:
    def __init__(self) -> None:
        self.register: int | None = None
        self.offset = 0
        self.expression = b""
        self.saved: dict[int, Recovery] = {}

    def copy(self) -> _State:
        other = _State()
        other.become(self)
        return other

    def become(self, other: _State) -> None:
        self.register, self.offset, self.expression, self.saved = other.register, other.offset, other.expression, dict(other.saved)


class _Program(msgspec.Struct, frozen=True):
    """What the instructions of an entry are read by."""

    code_factor: int
    data_factor: int
    encoding: int


def _run(cie: _Reader, fde: _Reader, pc: int) -> FrameRow | None:
    cie.unsigned(4)
    cie.unsigned(1)
    end = cie.data.index(b"\0", cie.at) if b"\0" in cie.data[cie.at :] else len(cie.data)
    augmentation = cie.data[cie.at : end]
    cie.at = end + 1
    code_factor, data_factor = cie.uleb(), cie.sleb()
    cie.uleb()
    encoding = 0
    if augmentation.startswith(b"z"):
        length = cie.uleb()
        after = cie.at + length
        for letter in augmentation[1:]:
            if letter == ord("R"):
                encoding = cie.unsigned(1)
            elif letter == ord("P"):
                cie.pointer(cie.unsigned(1) & 0x7F, 0)
            elif letter == ord("L"):
                cie.unsigned(1)
        cie.at = after
    begin = fde.pointer(encoding, 0)
    size = fde.pointer(encoding & 15, 0)
    if not begin <= pc < begin + size:
        return None
    if augmentation.startswith(b"z"):
        length = fde.uleb()
        fde.at += length
    program = _Program(code_factor, data_factor, encoding)
    first = _State()
    if not _execute(cie, first, first, 0, 0, program):
        return None
    state = first.copy()
    if not _execute(fde, state, first, begin, pc, program):
        return None
    return FrameRow(
        register=state.register,
        offset=state.offset,
        expression=state.expression,
        saved=state.saved,
        is_signal_frame=b"S" in augmentation,
    )


def _shortened(row: FrameRow) -> FrameRule | None:
    """The row as a rule of rsp and rbp alone, if that says it all."""
    rbp = row.saved.get(RBP, (SAME, 0))
    plain = row.register in (RSP, RBP) and row.saved.get(RETURN) == (AT_OFFSET, -8) and not row.is_signal_frame
    if not plain or row.register is None or rbp[0] not in (SAME, AT_OFFSET) or RSP in row.saved:
        return None
    return FrameRule(
        register=row.register,
        offset=row.offset,
        rbp_offset=rbp[1] if rbp[0] == AT_OFFSET and isinstance(rbp[1], int) else None,
    )


def _execute(reader: _Reader, state: _State, first: _State, location: int, pc: int, program: _Program) -> bool:
    """Run call frame instructions up to pc; False for what is not understood."""
    stack: list[_State] = []
    for _ in range(_MOST_OPERATIONS):
        if reader.at >= len(reader.data):
            return True
        operation = reader.unsigned(1)
        low = operation & 63
        match operation >> 6:
            case 1:
                location += low * program.code_factor
            case 2:
                state.saved[low] = AT_OFFSET, reader.uleb() * program.data_factor
            case 3:
                _restore(state, first, low)
            case _:
                if low == 1:
                    location = reader.pointer(program.encoding, 0)
                elif 2 <= low <= 4:
                    location += reader.unsigned(1 << (low - 2)) * program.code_factor
                elif not _rule(reader, state, first, stack, low, program.data_factor):
                    return False
        if location > pc:
            return True
    return False


def _restore(state: _State, first: _State, register: int) -> None:
    if register in first.saved:
        state.saved[register] = first.saved[register]
    else:
        state.saved.pop(register, None)


def _rule(reader: _Reader, state: _State, first: _State, stack: list[_State], operation: int, data_factor: int) -> bool:
    match operation:
        case 0x00:  # nop
            pass
        case 0x05:  # offset_extended
            register = reader.uleb()
            state.saved[register] = AT_OFFSET, reader.uleb() * data_factor
        case 0x11:  # offset_extended_sf
            register = reader.uleb()
            state.saved[register] = AT_OFFSET, reader.sleb() * data_factor
        case 0x06:  # restore_extended
            _restore(state, first, reader.uleb())
        case 0x07:  # undefined
            register = reader.uleb()
            state.saved[register] = UNDEFINED, 0
        case 0x08:  # same_value
            state.saved.pop(reader.uleb(), None)
        case 0x09:  # register
            register = reader.uleb()
            state.saved[register] = IN_REGISTER, reader.uleb()
        case 0x0A:  # remember_state
            stack.append(state.copy())
        case 0x0B:  # restore_state
            if not stack:
                return False
            state.become(stack.pop())
        case 0x0C:  # def_cfa
            state.register, state.offset = reader.uleb(), reader.uleb()
        case 0x12:  # def_cfa_sf
            state.register, state.offset = reader.uleb(), reader.sleb() * data_factor
        case 0x0D:  # def_cfa_register
            state.register = reader.uleb()
        case 0x0E:  # def_cfa_offset
            state.offset = reader.uleb()
        case 0x13:  # def_cfa_offset_sf
            state.offset = reader.sleb() * data_factor
        case 0x0F:  # def_cfa_expression
            state.register, state.expression = None, reader.block()
        case 0x10:  # expression
            register = reader.uleb()
            state.saved[register] = AT_EXPRESSION, reader.block()
        case 0x16:  # val_expression
            register = reader.uleb()
            state.saved[register] = IS_EXPRESSION, reader.block()
        case 0x14:  # val_offset
            register = reader.uleb()
            state.saved[register] = IS_OFFSET, reader.uleb() * data_factor
        case 0x15:  # val_offset_sf
            register = reader.uleb()
            state.saved[register] = IS_OFFSET, reader.sleb() * data_factor
        case 0x2E:  # GNU_args_size
            reader.uleb()
        case _:
            return False
    return True
