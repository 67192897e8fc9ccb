"""Callers from the top of a stack that was copied when a function was entered, by the modules' call frame information.

What it finds is exact, in programs without frame pointers and behind libraries too, as far as the copy reaches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.formats.eh_frame import (
    AT_EXPRESSION,
    AT_OFFSET,
    IN_REGISTER,
    IS_EXPRESSION,
    IS_OFFSET,
    RBP,
    RETURN,
    RSP,
    UNDEFINED,
)
from leakline.formats.expressions import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable

    from leakline.formats.eh_frame import FrameRow, FrameRule, Recovery
    from leakline.model.trace import StackTop

    Word = Callable[[int], int | None]

_MOST_FRAMES = 128
_CODE_END = 1 << 47


def unwind(
    top: StackTop, rule_at: Callable[[int], FrameRule | None], row_at: Callable[[int], FrameRow | None] | None = None
) -> tuple[int, ...]:
    """Return addresses, innermost first.

    Args:
        top: the registers and the stack's first words at a function's first instruction.
        rule_at: the rule at an address of the process; None where it has none that needs no more than rsp and rbp.
        row_at: all that is known at an address of the process, for frames without such a rule; None where there is nothing.

    """

    def word(address: int) -> int | None:
        index, rest = divmod(address - top.stack_pointer, 8)
        return top.words[index] if not rest and 0 <= index < len(top.words) else None

    if not top.words or not top.words[0]:
        return ()
    frames, needs_rows = _by_rules(top, word, rule_at)
    if not needs_rows or row_at is None:
        return frames
    # Rules do not follow the registers that a row may need: from the beginning, by rows.
    by_rows = _by_rows(top, word, row_at)
    return by_rows if len(by_rows) > len(frames) else frames


def _by_rules(top: StackTop, word: Word, rule_at: Callable[[int], FrameRule | None]) -> tuple[tuple[int, ...], bool]:
    """The frames, and whether it ended for want of a rule."""
    frames = [top.words[0]]
    sp, bp = top.stack_pointer + 8, top.frame_pointer
    while len(frames) < _MOST_FRAMES:
        # A return address belongs to the call before it.
        rule = rule_at(frames[-1] - 1)
        if rule is None:
            return tuple(frames), True
        cfa = (sp if rule.register == RSP else bp) + rule.offset
        caller = word(cfa - 8)
        if not caller or cfa <= sp:
            break
        if rule.rbp_offset is not None:
            saved = word(cfa + rule.rbp_offset)
            if saved is None:
                break
            bp = saved
        frames.append(caller)
        sp = cfa
    return tuple(frames), False


def _by_rows(top: StackTop, word: Word, row_at: Callable[[int], FrameRow | None]) -> tuple[int, ...]:
    frames = [top.words[0]]
    registers: dict[int, int] = {**dict(top.registers), RBP: top.frame_pointer, RSP: top.stack_pointer + 8}
    interrupted = False
    while len(frames) < _MOST_FRAMES:
        row = row_at(frames[-1] if interrupted else frames[-1] - 1)
        if row is None:
            break
        cfa = _frame_address(row, registers, word)
        # Stacks grow down; only what a signal interrupted may have been on another one.
        if cfa is None or (cfa <= registers[RSP] and not row.is_signal_frame):
            break
        caller = _recovered(row.saved.get(RETURN, (UNDEFINED, 0)), RETURN, cfa, registers, word)
        if not caller or caller >= _CODE_END:
            break
        before, registers = registers, dict(registers)
        for number, recovery in row.saved.items():
            value = _recovered(recovery, number, cfa, before, word)
            if value is None:
                registers.pop(number, None)
            else:
                registers[number] = value
        if RSP not in row.saved:
            registers[RSP] = cfa
        if RSP not in registers:
            break
        frames.append(caller)
        interrupted = row.is_signal_frame
    return tuple(frames)


def _frame_address(row: FrameRow, registers: dict[int, int], word: Word) -> int | None:
    if row.register is None:
        return evaluate(row.expression, registers.get, word)
    base = registers.get(row.register)
    return None if base is None else base + row.offset


def _recovered(recovery: Recovery, number: int, cfa: int, registers: dict[int, int], word: Word) -> int | None:
    how, value = recovery
    if isinstance(value, bytes):
        found = evaluate(value, registers.get, word, cfa)
        return found if how == IS_EXPRESSION or found is None else word(found) if how == AT_EXPRESSION else None
    if how == AT_OFFSET:
        return word(cfa + value)
    if how == IS_OFFSET:
        return cfa + value
    if how == IN_REGISTER:
        return registers.get(value)
    return None if how == UNDEFINED else registers.get(number)


def joined(exact: tuple[int, ...], by_frame_pointers: tuple[int, ...]) -> tuple[int, ...]:
    """The exact callers, and behind the last of them what frame pointers tell, if they come by there at all."""
    if not exact:
        return by_frame_pointers
    last = exact[-1]
    behind = by_frame_pointers[by_frame_pointers.index(last) + 1 :] if last in by_frame_pointers else ()
    return exact + behind
