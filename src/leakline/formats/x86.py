"""Where in a function a probe is cheap: x86-64 instructions, as far as functions begin with them.

A uprobe replaces an instruction by a breakpoint. Some instructions the kernel then emulates; any other it runs out of line, with a
second trap behind it: 16 us instead of 0.7. Emulated are pushes, jumps, calls and nops (arch/x86/kernel/uprobes.c,
branch_setup_ops() and push_setup_ops(); pushes since Linux 4.17).
"""

from __future__ import annotations

_REX = range(0x40, 0x50)
_RSP, _RDX, _RSI, _RDI = 4, 2, 6, 7
_ARGUMENTS = frozenset({_RDI, _RSI, _RDX, _RSP})
_MOST_BYTES = 48
# Opcodes with a ModRM byte that only compare, and those that write the register (their place in ModRM).
_COMPARE = {0x38: 0, 0x39: 0, 0x3A: 0, 0x3B: 0, 0x84: 0, 0x85: 0}
_COMPARE_IMMEDIATE = {0x80: 1, 0x83: 1, 0x81: 4}
_TEST_IMMEDIATE = {0xF6: 1, 0xF7: 4}
_WRITE_REG = frozenset({0x8B, 0x8D, 0x33, 0x03, 0x2B, 0x0B, 0x23})
_WRITE_RM = frozenset({0x89, 0x31, 0x01, 0x29, 0x09, 0x21})
_ENDBR64 = b"\xf3\x0f\x1e\xfa"


def cheap_offset(code: bytes) -> int:
    """Where a function can be probed for the price of one trap.

    Args:
        code: the function's first bytes.

    Returns:
        The offset of the first instruction that the kernel emulates, if what stands before it changes neither rdi, rsi, rdx nor
        rsp and is always run through; else 0.

    """
    at = 0
    while at < min(len(code), _MOST_BYTES):
        if _is_emulated(code[at:]):
            return at
        length = _harmless_length(code[at:])
        if length is None:
            return 0
        at += length
    return 0


def _is_emulated(code: bytes) -> bool:
    first, second = code[0], code[1] if len(code) > 1 else -1
    if first in (0x90, 0xE8, 0xE9, 0xEB) or 0x50 <= first < 0x58 or 0x70 <= first < 0x80:
        return True
    return (first == 0x41 and 0x50 <= second < 0x58) or (first == 0x0F and 0x80 <= second < 0x90)


def _harmless_length(code: bytes) -> int | None:
    """The length of an instruction that changes no argument, no stack and no flow; None if it may, or is not known here."""
    if code.startswith(_ENDBR64):
        return len(_ENDBR64)
    prefix = 1 if code[0] in _REX else 0
    rex = code[0] if prefix else 0
    if len(code) < prefix + 2:
        return None
    opcode, modrm = code[prefix], code[prefix + 1]
    operand = _operand_length(code[prefix + 1 :])
    if operand is None:
        return None
    register, is_memory = (modrm >> 3 & 7) | (rex & 4) << 1, modrm >> 6 != 3
    target = (modrm & 7) | (rex & 1) << 3
    if opcode in _COMPARE:
        return prefix + 1 + operand
    if opcode in _COMPARE_IMMEDIATE and modrm >> 3 & 7 == 7:
        return prefix + 1 + operand + _COMPARE_IMMEDIATE[opcode]
    if opcode in _TEST_IMMEDIATE and modrm >> 3 & 7 == 0:
        return prefix + 1 + operand + _TEST_IMMEDIATE[opcode]
    if opcode in _WRITE_REG and register not in _ARGUMENTS:
        return prefix + 1 + operand
    if opcode in _WRITE_RM and not is_memory and target not in _ARGUMENTS:
        return prefix + 1 + operand
    return None


def _operand_length(code: bytes) -> int | None:
    """The length of ModRM, SIB and displacement (Intel SDM volume 2, 2.1.5)."""
    mode, base = code[0] >> 6, code[0] & 7
    if mode == 3:
        return 1
    length = 1
    if base == 4:
        if len(code) < 2:
            return None
        length = 2
        base = code[1] & 7 if mode == 0 else -1
    if mode == 0:
        return length + (4 if base == 5 else 0)
    return length + (1 if mode == 1 else 4)
