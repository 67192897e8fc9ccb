"""Call frame information: where a function keeps its caller (DWARF 5, 6.4; Linux Standard Base, 10.6, for .eh_frame_hdr).

Only what a stack walk needs is computed: the canonical frame address (CFA), and where the caller's rbp was saved.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from leakline.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Callable

RBP, RSP, _RETURN = 6, 7, 16
_MOST_OPERATIONS = 10_000


class FrameRule(msgspec.Struct, frozen=True, kw_only=True):
    """How to find the caller of a frame at one instruction: the return address stands at CFA - 8."""

    register: int
    """The DWARF number of the register that the CFA hangs on: RSP or RBP."""
    offset: int
    """CFA less that register."""
    rbp_offset: int | None
    """Where the caller's rbp was saved, relative to the CFA; None: it is still in rbp."""


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

    def skip(self, size: int) -> None:
        self.at += size

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
        self._rules: dict[int, FrameRule | None] = {}
        self._signal_frames: dict[int, bool] = {}

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
        table._address, table._read, table._rules, table._signal_frames = address, read, {}, {}
        table._table = tuple(number for entry in sorted(found) for number in entry)
        return table

    def rule(self, pc: int) -> FrameRule | None:
        """The rule at an instruction; None where there is none, or one that needs more than rsp and rbp."""
        if pc not in self._rules:
            try:
                self._rules[pc] = self._find(pc)
            except ParseError:
                self._rules[pc] = None
        return self._rules[pc]

    def is_signal_frame(self, pc: int) -> bool:
        """Whether the code there is what a signal handler returns to: its caller was interrupted, not called."""
        if pc not in self._signal_frames:
            try:
                found = self._entries(pc)
                self._signal_frames[pc] = found is not None and _is_of_signal(found[0]) and _holds(*found, pc)
            except ParseError:
                self._signal_frames[pc] = False
        return self._signal_frames[pc]

    def _find(self, pc: int) -> FrameRule | None:
        found = self._entries(pc)
        return None if found is None else _run(*found, pc)

    def _entries(self, pc: int) -> tuple[_Reader, _Reader] | None:
        """The CIE and FDE of the function that may hold an instruction."""
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
        return self._entry(fde.address + fde.at - 4 - delta), fde

    def _entry(self, address: int) -> _Reader:
        size = int.from_bytes(self._read(address, 4), "little")
        if size in (0, 0xFFFFFFFF) or size > 1 << 16:
            raise ParseError("call frame information of an impossible size")
        return _Reader(self._read(address + 4, size), address + 4)


def _is_of_signal(cie: _Reader) -> bool:
    augmentation, _, _ = cie.data[5:].partition(b"\0")
    return augmentation.startswith(b"z") and b"S" in augmentation


def _holds(cie: _Reader, fde: _Reader, pc: int) -> bool:
    encoding = _pointer_encoding(_Reader(cie.data, cie.address))
    begin = fde.pointer(encoding, 0)
    return begin <= pc < begin + fde.pointer(encoding & 15, 0)


def _pointer_encoding(cie: _Reader) -> int:
    """How the entries that belong to a CIE write addresses."""
    cie.skip(5)
    augmentation, _, _ = cie.data[5:].partition(b"\0")
    cie.skip(len(augmentation) + 1)
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
        self.saved: dict[int, int | None] = {}

    def copy(self) -> _State:
        other = _State()
        other.register, other.offset, other.saved = self.register, self.offset, dict(self.saved)
        return other


def _run(cie: _Reader, fde: _Reader, pc: int) -> FrameRule | None:
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
            elif letter == ord("S"):
                return None  # a signal frame: its caller was interrupted, not called
        cie.at = after
    begin = fde.pointer(encoding, 0)
    size = fde.pointer(encoding & 15, 0)
    if not begin <= pc < begin + size:
        return None
    if augmentation.startswith(b"z"):
        length = fde.uleb()
        fde.at += length
    first = _State()
    if not _execute(cie, first, first, 0, 0, code_factor, data_factor, encoding):
        return None
    state = first.copy()
    if not _execute(fde, state, first, begin, pc, code_factor, data_factor, encoding):
        return None
    saved = state.saved.get(RBP, 0) if RBP in state.saved else None
    odd = state.saved.get(_RETURN) != -8 or (RBP in state.saved and saved is None)
    if state.register not in (RSP, RBP) or odd:
        return None
    return FrameRule(register=state.register, offset=state.offset, rbp_offset=saved)


def _execute(
    reader: _Reader, state: _State, first: _State, location: int, pc: int, code_factor: int, data_factor: int, encoding: int
) -> bool:
    """Run call frame instructions up to pc; False for what is not understood. `saved` holds None for a rule of another kind."""
    stack: list[_State] = []
    for _ in range(_MOST_OPERATIONS):
        if reader.at >= len(reader.data):
            return True
        operation = reader.unsigned(1)
        low = operation & 63
        match operation >> 6:
            case 1:
                location += low * code_factor
            case 2:
                state.saved[low] = reader.uleb() * data_factor
            case 3:
                _restore(state, first, low)
            case _:
                if 1 <= low <= 4:
                    location = reader.pointer(encoding, 0) if low == 1 else location + reader.unsigned(1 << (low - 2)) * code_factor
                elif not _rule(reader, state, first, stack, low, data_factor):
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
            state.saved[register] = reader.uleb() * data_factor
        case 0x11:  # offset_extended_sf
            register = reader.uleb()
            state.saved[register] = reader.sleb() * data_factor
        case 0x06:  # restore_extended
            _restore(state, first, reader.uleb())
        case 0x07 | 0x08:  # undefined, same_value
            register = reader.uleb()
            state.saved.pop(register, None)
            if operation == 0x07:
                state.saved[register] = None
        case 0x09:  # register
            state.saved[reader.uleb()] = None
            reader.uleb()
        case 0x0A:  # remember_state
            stack.append(state.copy())
        case 0x0B:  # restore_state
            if not stack:
                return False
            before = stack.pop()
            state.register, state.offset, state.saved = before.register, before.offset, before.saved
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
            reader.skip(reader.uleb())
            state.register = None
        case 0x10 | 0x16:  # expression, val_expression
            state.saved[reader.uleb()] = None
            reader.skip(reader.uleb())
        case 0x14 | 0x15:  # val_offset
            state.saved[reader.uleb()] = None
            reader.uleb()
        case 0x2E:  # GNU_args_size
            reader.uleb()
        case _:
            return False
    return True
