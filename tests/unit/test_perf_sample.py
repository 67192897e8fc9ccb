from __future__ import annotations

import struct

from leakline.sources.perf_events import parse_sample

USER = (1 << 64) - 512


def test_a_sample_with_registers_and_stack() -> None:
    chain = (USER, 0x401000, 0x402000)
    body = struct.pack("<QIIQQ3Q", 0x401000, 10, 11, 999, len(chain), *chain)
    body += struct.pack("<Q6Q", 2, 0xAAA, 0xC, 0xD, 0x51, 0xD1, 0x7FFE)
    body += struct.pack("<Q16sQ", 16, struct.pack("<QQ", 0xCA11, 0), 16)
    hit = parse_sample(body)
    assert (hit.address, hit.tid, hit.time_ns, hit.result) == (0x401000, 11, 999, 0xAAA)
    assert hit.arguments == (0xD1, 0x51, 0xD)
    assert hit.return_address == 0xCA11
    assert hit.callchain == (0x401000, 0x402000)


def test_a_sample_without_registers_and_stack() -> None:
    body = struct.pack("<QIIQQ", 1, 2, 3, 4, 0) + struct.pack("<QQ", 0, 0)
    hit = parse_sample(body)
    assert (hit.result, hit.return_address, hit.callchain) == (0, None, ())
