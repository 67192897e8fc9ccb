"""Callers of a thread that was interrupted anywhere, by call frame information, from a copy of its registers and stack.

Stacks repeat: what a walk read is kept with its answer, and where all of it stands again, so does the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from leakline.formats.eh_frame import RSP

if TYPE_CHECKING:
    from collections.abc import Callable

    from leakline.formats.eh_frame import FrameRule
    from leakline.formats.perf_records import Stack

MOST_FRAMES = 128
_MOST_REMEMBERED = 16


# struct rt_sigframe of x86-64 behind its return address is a ucontext_t (arch/x86/include/asm/sigframe.h,
# include/uapi/asm/sigcontext.h): rip, rsp and rbp in it.
_CONTEXT = 168, 160, 120


def _never(_address: int) -> bool:
    return False


class _Walked(NamedTuple):
    """A walk, and what its answer hangs on. Places are words from the stack pointer up."""

    returns: tuple[tuple[int, int], ...]
    """Return addresses: place, value."""
    saved: tuple[tuple[int, int], ...]
    """Saved frame pointers that were used: place, distance from the stack pointer."""
    frame_pointer: int | None
    """Its distance from the stack pointer, where it was used as it came."""
    frames: tuple[int, ...]
    whole: bool
    """Whether the walk came to the outermost frame, or to code without call frame information, not to the end of the copy."""


def walk(
    ip: int,
    sp: int,
    bp: int,
    word: Callable[[int], int | None],
    rule_at: Callable[[int], FrameRule | None],
    most: int = MOST_FRAMES,
    is_code: Callable[[int], bool] = _never,
    is_signal_frame: Callable[[int], bool] = _never,
) -> _Walked:
    """The instruction and its callers' return addresses, innermost first.

    Args:
        ip: where the thread was interrupted.
        sp: its stack pointer.
        bp: rbp, whatever it is used for.
        word: the stack's 8 bytes at an address.
        rule_at: the rule at an address of the process; None where it has none.
        most: frames.
        is_signal_frame: whether an address is what a signal handler returns to.
        is_code: whether an address may hold code, where no rule tells; asked of what a thread that jumped astray came from.

    """
    frames = [ip]
    returns: list[tuple[int, int]] = []
    saved: list[tuple[int, int]] = []
    first, bp_place, bp_used = sp, -1, False
    entry_bp: int | None = None
    while len(frames) < most:
        # A return address belongs to the call before it; where a thread was interrupted, the instruction itself counts.
        rule = rule_at(frames[-1] if len(frames) == 1 else frames[-1] - 1)
        if rule is None and len(frames) > 1 and is_signal_frame(frames[-1] - 1):
            interrupted = [word(sp + offset) for offset in _CONTEXT]
            ip_then, sp_then, bp_then = interrupted
            if not ip_then or sp_then is None or bp_then is None:
                return _Walked(tuple(returns), tuple(saved), entry_bp, tuple(frames), whole=False)
            returns += [((sp + o - first) // 8, value) for o, value in zip(_CONTEXT, (ip_then, sp_then, bp_then), strict=True)]
            # It was interrupted there, and has not called: one more, so that it is looked up like a return address.
            frames.append(ip_then + 1)
            sp, bp, bp_used = sp_then, bp_then, True
            continue
        if rule is None:
            caller = word(sp)
            # A jump to what is no code, or a stub that has pushed nothing yet: the return address is on top.
            if len(frames) > 1 or not caller or (rule_at(caller - 1) is None and not is_code(caller)):
                return _Walked(tuple(returns), tuple(saved), entry_bp, tuple(frames), caller is not None)
            returns.append(((sp - first) // 8, caller))
            frames.append(caller)
            sp += 8
            continue
        if rule.register != RSP and not bp_used:
            bp_used = True
            if bp_place < 0:
                entry_bp = bp - first
            else:
                saved.append((bp_place, bp - first))
        cfa = (sp if rule.register == RSP else bp) + rule.offset
        caller = word(cfa - 8)
        if caller is None:
            return _Walked(tuple(returns), tuple(saved), entry_bp, tuple(frames), whole=False)
        if not caller or cfa <= sp:
            break
        returns.append(((cfa - 8 - first) // 8, caller))
        if rule.rbp_offset is not None:
            value = word(cfa + rule.rbp_offset)
            if value is None:
                return _Walked(tuple(returns), tuple(saved), entry_bp, (*frames, caller), whole=False)
            bp, bp_place, bp_used = value, (cfa + rule.rbp_offset - first) // 8, False
        frames.append(caller)
        sp = cfa
    return _Walked(tuple(returns), tuple(saved), entry_bp, tuple(frames), whole=True)


class StackWalker:
    """Walks the stacks of one process.

    Args:
        rule_at: the rule at an address of the process; None where it has none.
        is_signal_frame: whether an address is what a signal handler returns to.

    """

    def __init__(self, rule_at: Callable[[int], FrameRule | None], is_signal_frame: Callable[[int], bool] = _never) -> None:
        self._rule_at, self._is_signal_frame = rule_at, is_signal_frame
        self._remembered: dict[int, list[_Walked]] = {}

    def frames(self, stack: Stack, callchain: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """The instruction and return addresses, innermost first; and how many of them are exact.

        Args:
            stack: registers, and the top of the stack.
            callchain: by frame pointers, for what lies deeper than the copy.

        """
        memory = memoryview(stack.memory)[: len(stack.memory) // 8 * 8].cast("Q")
        known = self._remembered.setdefault(stack.instruction_pointer, [])
        for walked in known:
            if _holds(walked, stack, memory):
                break
        else:
            walked = self._walk(stack, memory)
            known.insert(0, walked)
            del known[_MOST_REMEMBERED:]
        if walked.whole or not callchain:
            return walked.frames, len(walked.frames)
        last = walked.frames[-1]
        deeper = callchain[callchain.index(last) + 1 :] if last in callchain else ()
        return walked.frames + deeper, len(walked.frames)

    def _walk(self, stack: Stack, memory: memoryview) -> _Walked:
        sp, size = stack.stack_pointer, len(memory)

        def word(address: int) -> int | None:
            index, rest = divmod(address - sp, 8)
            return int(memory[index]) if not rest and 0 <= index < size else None

        return walk(stack.instruction_pointer, sp, stack.frame_pointer, word, self._rule_at, is_signal_frame=self._is_signal_frame)


def _holds(walked: _Walked, stack: Stack, memory: memoryview) -> bool:
    sp, size = stack.stack_pointer, len(memory)
    if walked.frame_pointer is not None and stack.frame_pointer - sp != walked.frame_pointer:
        return False
    if not walked.whole and walked.returns and walked.returns[-1][0] >= size:
        return False
    return all(place < size and memory[place] == value for place, value in walked.returns) and all(
        place < size and memory[place] - sp == distance for place, distance in walked.saved
    )
