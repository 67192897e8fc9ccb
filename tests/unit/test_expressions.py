from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.formats.expressions import evaluate

REGISTERS = {6: 0x7000, 7: 0x6F00}
MEMORY = {0x6FF8: 0x7100, 0x7000: 0x42}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("76 78 06", 0x7100),  # breg6 -8; deref: gcc's realigned frames
        ("77 08 80 00 3f 1a 3b 2a 33 24 22", 0x6F08),  # breg7 8; breg16 0; lit15; and; lit11; ge; lit3; shl; plus: a PLT's
        ("31 32 1c", (1 << 64) - 1),  # lit1; lit2; minus
        ("0b fe ff 31 1b", (1 << 64) - 2),  # const2s -2; lit1; div
        ("35 33 17", None),  # rot of two
        ("31 32 33 17 1c", 2),  # 1 2 3 rot: 3 1 2; 1 - 2 above 3
        ("31 28 01 00 32 33", 3),  # bra over lit2
        ("2f fd ff", None),  # skip to itself for ever
        ("92 06 08", 0x7008),  # bregx 6, 8
        ("70 00", None),  # a register that is not known
        ("76 00 23 80 01 06", None),  # memory that is not known
        ("31 30 1b", None),  # by zero
        ("fe", None),
        ("", None),
        ("9c", None),
    ],
)
def test_expressions(expression: str, value: int | None) -> None:
    registers = {**REGISTERS, 16: 0x40100A}
    found = evaluate(bytes.fromhex(expression), registers.get, MEMORY.get)
    if expression == "31 32 33 17 1c":
        value = (1 - 2) & (1 << 64) - 1
    assert found == value


def test_the_canonical_frame_address_stands_first() -> None:
    assert evaluate(bytes.fromhex("38 1c"), REGISTERS.get, MEMORY.get, 0x7008) == 0x7000


@given(st.binary(max_size=60), st.integers(0, (1 << 64) - 1))
def test_hostile_expressions_end(expression: bytes, first: int) -> None:
    found = evaluate(expression, REGISTERS.get, lambda address: address ^ 0xFF, first)
    assert found is None or 0 <= found < 1 << 64
