from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.formats.x86 import cheap_offset


@pytest.mark.parametrize(
    ("code", "offset"),
    [
        ("41 54 55 53", 0),  # push r12: glibc 2.36's malloc
        ("48 85 ff 0f 84 bf 00 00 00 55", 3),  # test rdi,rdi; je: glibc 2.36's free
        ("80 3d 46 1b 14 00 00 74 07", 7),  # cmpb $0,x(%rip); je
        ("f3 0f 1e fa 41 57", 4),  # endbr64; push r15
        ("f3 0f 1e fa 48 85 ff 74 10", 7),
        ("48 83 ec 18 55", 0),  # sub $24,%rsp moves the stack
        ("48 89 f7 55", 0),  # mov %rsi,%rdi changes an argument
        ("48 8d 77 f0 55", 0),  # lea -16(%rdi),%rsi changes one
        ("48 8b 05 00 00 00 00 55", 7),  # mov x(%rip),%rax
        ("31 c0 e9 00 00 00 00", 2),  # xor %eax,%eax; jmp
        ("4c 8b 25 00 00 00 00 50", 7),  # mov x(%rip),%r12
        ("66 90", 0),  # a prefix that is not known here
        ("48 8b 44 24 08 55", 5),  # mov 8(%rsp),%rax: SIB
        ("c3", 0),
        ("", 0),
    ],
)
def test_the_first_instruction_that_the_kernel_emulates(code: str, offset: int) -> None:
    assert cheap_offset(bytes.fromhex(code)) == offset


@given(st.binary(max_size=64))
def test_any_bytes_give_a_place_among_them(code: bytes) -> None:
    assert 0 <= cheap_offset(code) <= len(code)
