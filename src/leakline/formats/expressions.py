"""DWARF expressions, as far as call frame information uses them (DWARF 5, 2.5 and 6.4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MASK = (1 << 64) - 1
_MOST_STEPS, _DEEPEST = 1000, 64


class _NotKnown(Exception):
    """A value that is needed is not known, or the expression makes no sense."""


def evaluate(
    expression: bytes,
    register: Callable[[int], int | None],
    word: Callable[[int], int | None],
    first: int | None = None,
) -> int | None:
    """The value of an expression; None where it needs what is not known, or is damaged.

    Args:
        expression: its operations.
        register: the value of a register by DWARF number, None where it is not known.
        word: eight bytes of memory at an address, None where they are not known.
        first: what stands on the stack at the beginning.

    """
    try:
        return _Machine(expression, register, word).run(first)
    except (_NotKnown, IndexError):
        return None


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


class _Machine:
    def __init__(self, code: bytes, register: Callable[[int], int | None], word: Callable[[int], int | None]) -> None:
        self._code, self._register, self._word = code, register, word
        self._at = 0
        self._stack: list[int] = []

    def run(self, first: int | None) -> int:
        if first is not None:
            self._stack.append(first)
        for _ in range(_MOST_STEPS):
            if self._at >= len(self._code):
                return self._stack[-1]
            self._step(self._constant(1, signed=False))
            if len(self._stack) > _DEEPEST:
                raise _NotKnown
        raise _NotKnown

    def _constant(self, size: int, *, signed: bool) -> int:
        data = self._code[self._at : self._at + size]
        if len(data) < size:
            raise _NotKnown
        self._at += size
        return int.from_bytes(data, "little", signed=signed)

    def _leb(self, *, signed: bool) -> int:
        value = shift = 0
        while True:
            byte = self._constant(1, signed=False)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 70:
                return value - (1 << shift) if signed and byte & 64 else value

    def _push(self, value: int | None) -> None:
        if value is None:
            raise _NotKnown
        self._stack.append(value & _MASK)

    def _step(self, operation: int) -> None:
        stack = self._stack
        match operation:
            case 0x03 | 0x0E | 0x0F:  # addr, const8u, const8s
                self._push(self._constant(8, signed=False))
            case 0x06:  # deref
                self._push(self._word(stack.pop()))
            case 0x08 | 0x0A | 0x0C:  # const1u, const2u, const4u
                self._push(self._constant(1 << (operation - 8) // 2, signed=False))
            case 0x09 | 0x0B | 0x0D:  # const1s, const2s, const4s
                self._push(self._constant(1 << (operation - 9) // 2, signed=True))
            case 0x10 | 0x11:  # constu, consts
                self._push(self._leb(signed=operation == 0x11))
            case 0x12:  # dup
                self._push(stack[-1])
            case 0x13:  # drop
                stack.pop()
            case 0x14:  # over
                self._push(stack[-2])
            case 0x15:  # pick
                self._push(stack[-1 - self._constant(1, signed=False)])
            case 0x16:  # swap
                stack[-1], stack[-2] = stack[-2], stack[-1]
            case 0x17:  # rot
                stack[-1], stack[-2], stack[-3] = stack[-2], stack[-3], stack[-1]
            case 0x19:  # abs
                self._push(abs(_signed(stack.pop())))
            case 0x1F:  # neg
                self._push(-stack.pop())
            case 0x20:  # not
                self._push(~stack.pop())
            case 0x23:  # plus_uconst
                self._push(stack.pop() + self._leb(signed=False))
            case 0x28:  # bra
                distance = self._constant(2, signed=True)
                self._jump(distance if stack.pop() else 0)
            case 0x2F:  # skip
                self._jump(self._constant(2, signed=True))
            case 0x92:  # bregx
                number = self._leb(signed=False)
                self._push_register(number)
            case 0x96:  # nop
                pass
            case _ if 0x1A <= operation <= 0x2E:
                b, a = stack.pop(), stack.pop()
                self._push(_calculated(operation, a, b))
            case _ if 0x30 <= operation < 0x50:  # lit0 to lit31
                self._push(operation - 0x30)
            case _ if 0x70 <= operation < 0x90:  # breg0 to breg31
                self._push_register(operation - 0x70)
            case _:
                raise _NotKnown

    def _push_register(self, number: int) -> None:
        value, offset = self._register(number), self._leb(signed=True)
        self._push(None if value is None else value + offset)

    def _jump(self, distance: int) -> None:
        self._at += distance
        if not 0 <= self._at <= len(self._code):
            raise _NotKnown


def _calculated(operation: int, a: int, b: int) -> int | None:
    signed_a, signed_b = _signed(a), _signed(b)
    match operation:
        case 0x1A:  # and
            return a & b
        case 0x1B:  # div, towards zero
            quotient = abs(signed_a) // abs(signed_b) if b else None
            return quotient if quotient is None or (signed_a < 0) == (signed_b < 0) else -quotient
        case 0x1C:  # minus
            return a - b
        case 0x1D:  # mod
            return a % b if b else None
        case 0x1E:  # mul
            return a * b
        case 0x21:  # or
            return a | b
        case 0x22:  # plus
            return a + b
        case 0x24:  # shl
            return a << b if b < 64 else 0
        case 0x25:  # shr
            return a >> b if b < 64 else 0
        case 0x26:  # shra
            return signed_a >> min(b, 63)
        case 0x27:  # xor
            return a ^ b
        case 0x29:  # eq, ge, gt, le, lt, ne
            return int(a == b)
        case 0x2A:
            return int(signed_a >= signed_b)
        case 0x2B:
            return int(signed_a > signed_b)
        case 0x2C:
            return int(signed_a <= signed_b)
        case 0x2D:
            return int(signed_a < signed_b)
        case 0x2E:
            return int(a != b)
        case _:
            return None
