"""Callers from the top of a stack that was copied when a function was entered, by the modules' call frame information.

What it finds is exact, in programs without frame pointers and behind libraries too, as far as the copy reaches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.formats.eh_frame import RSP

if TYPE_CHECKING:
    from collections.abc import Callable

    from leakline.formats.eh_frame import FrameRule
    from leakline.model.trace import StackTop

_MOST_FRAMES = 64


def unwind(top: StackTop, rule_at: Callable[[int], FrameRule | None]) -> tuple[int, ...]:
    """Return addresses, innermost first.

    Args:
        top: the registers and the stack's first words at a function's first instruction.
        rule_at: the rule at an address of the process; None where it has none.

    """

    def word(address: int) -> int | None:
        index, rest = divmod(address - top.stack_pointer, 8)
        return top.words[index] if not rest and 0 <= index < len(top.words) else None

    if not top.words or not top.words[0]:
        return ()
    frames = [top.words[0]]
    sp, bp = top.stack_pointer + 8, top.frame_pointer
    while len(frames) < _MOST_FRAMES:
        # A return address belongs to the call before it.
        rule = rule_at(frames[-1] - 1)
        if rule is None:
            break
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
    return tuple(frames)


def joined(exact: tuple[int, ...], by_frame_pointers: tuple[int, ...]) -> tuple[int, ...]:
    """The exact callers, and behind the last of them what frame pointers tell, if they come by there at all."""
    if not exact:
        return by_frame_pointers
    last = exact[-1]
    behind = by_frame_pointers[by_frame_pointers.index(last) + 1 :] if last in by_frame_pointers else ()
    return exact + behind
