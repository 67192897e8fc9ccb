"""The agent's tables as a damaged or hostile process may have them: in this one's own memory."""

from __future__ import annotations

import ctypes
import os
import random
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from leakline.errors import ParseError
from leakline.sources.agent import Agent
from leakline.sources.procfs import ProcFs

_HEAD = (0x656E696C6B61656C).to_bytes(8, "little") + (4).to_bytes(4, "little")  # magic and version
_WORDS, _BYTES = 160, 4096


def words(chance: random.Random, count: int, table: int) -> list[int]:
    """Small numbers, large ones, and addresses in the table."""
    kinds = [lambda: chance.randrange(200), lambda: chance.randrange(1 << 64), lambda: table + chance.randrange(_BYTES)]
    return [chance.choice(kinds)() for _ in range(count)]


@settings(max_examples=40)
@given(st.integers(), st.lists(st.integers(0, 2**64 - 1)))
def test_anything_may_lie_there(seed: int, wanted: list[int]) -> None:
    chance = random.Random(seed)
    table = (ctypes.c_uint64 * (_BYTES // 8))()
    place = ctypes.addressof(table)
    for at, word in enumerate(words(chance, len(table), place)):
        table[at] = word
    state = (ctypes.c_uint64 * _WORDS)(*words(chance, _WORDS, place))
    ctypes.memmove(state, _HEAD, len(_HEAD))
    agent = Agent(ProcFs(), os.getpid(), ctypes.addressof(state))
    agent.state()
    agent.counts()
    for module in agent.unloaded():
        assert module.vma.start < module.vma.end
    stacks = agent.stacks([*wanted, *range(8)])
    assert all(address >= 0 for stack in stacks.values() for address in stack)
    for ask in (agent.outstanding, lambda: agent.recorded(wanted)):
        with suppress(ParseError):
            ask()
