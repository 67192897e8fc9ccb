from __future__ import annotations

import struct

from leakline.sources.breakpoints import parse_sample

USER = (1 << 64) - 512


def test_a_sample_with_registers_and_stack() -> None:
    chain = (USER, 0x401000, 0x402000)
    body = struct.pack("<QIIQQ3Q", 0x401000, 10, 11, 999, len(chain), *chain)
    body += struct.pack("<Q6Q", 2, 0xAAA, 0xD, 0x51, 0xD1, 0xBB, 0x7FFE)
    body += struct.pack("<Q24sQ", 24, struct.pack("<QQQ", 0xCA11, 5, 9), 16)
    hit = parse_sample(body)
    assert (hit.address, hit.tid, hit.time_ns, hit.result) == (0x401000, 11, 999, 0xAAA)
    assert hit.arguments == (0xD1, 0x51, 0xD)
    assert hit.stack == (0xCA11, 5), "of 24 bytes asked for, 16 were there"
    assert (hit.stack_pointer, hit.frame_pointer) == (0x7FFE, 0xBB)
    assert hit.callchain == (0x401000, 0x402000)


def test_a_sample_without_registers_and_stack() -> None:
    body = struct.pack("<QIIQQ", 1, 2, 3, 4, 0) + struct.pack("<QQ", 0, 0)
    hit = parse_sample(body)
    assert (hit.result, hit.stack, hit.callchain) == (0, (), ())
