"""The kernel's leak detector's text: of real kernels, older forms, and damaged."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import ParseError
from leakline.formats.kmemleak import looks_like_kmemleak, parse_kmemleak

FIXTURES = Path(__file__).parents[1] / "fixtures"
OLDER = b"""\
unreferenced object 0xffff9b5c4a3f2e00 (size 512):
  comm "modprobe", pid 1397, jiffies 4294728103 (age 102.040s)
  hex dump (first 32 bytes):
    6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b  kkkkkkkkkkkkkkkk
  backtrace:
    [<00000000a1b2c3d4>] kmem_cache_alloc_trace+0x121/0x240
    [<ffffffffc0345010>] init_module+0x10/0x1000 [leaky]
    [<0000000011223344>] 0xffffffffc0400123
"""


def test_text_of_real_kernels() -> None:
    x86, uml = ((FIXTURES / kernel / "kmemleak").read_bytes() for kernel in ("6.12-x86", "6.12-uml"))
    first = parse_kmemleak(x86).objects[0]
    assert (first.address, first.size, first.comm, first.pid) == (0xFF1100000447A800, 256, "sh", 64)
    assert (first.jiffies, first.age_seconds, first.type) == (4294901184, None, "virtual")
    assert [(call.function, call.offset, call.size, call.module) for call in first.backtrace[:2]] == [
        ("__kmalloc_noprof", 0x1D3, 0x3B0, None),
        ("leak_one_kmalloc", 0x25, 0x40, "leakdrv"),
    ]
    assert len(first.backtrace) == 8
    assert [len(parse_kmemleak(data).objects) for data in (x86, uml, b"")] == [4, 4, 0]
    assert looks_like_kmemleak(uml)
    assert not looks_like_kmemleak(b"unreferenced object")


def test_the_form_of_older_kernels() -> None:
    (one,) = parse_kmemleak(OLDER).objects
    assert one.age_seconds == 102.04
    assert [(call.function, call.module, call.address) for call in one.backtrace] == [
        ("kmem_cache_alloc_trace", None, None),
        ("init_module", "leaky", 0xFFFFFFFFC0345010),
        (None, None, 0xFFFFFFFFC0400123),
    ]


def test_the_kernels_log_and_other_types() -> None:
    lines = OLDER.replace(b"object 0x", b"object (percpu) 0x").splitlines(keepends=True)
    log = b"[    1.0] Linux\n" + b"".join(b"[  102.123456][  T54] kmemleak: " + line for line in lines)
    assert parse_kmemleak(log).objects[0].type == "percpu"
    assert len(parse_kmemleak(log).objects[0].backtrace) == 3


def test_a_task_may_have_any_name() -> None:
    (one,) = parse_kmemleak(OLDER.replace(b"modprobe", b'a"\n, pid 1\x1b\xff')).objects
    assert (one.comm, one.pid) == ('a"\n, pid 1\x1b\\xff', 1397)


def test_text_that_is_cut_short() -> None:
    cut = parse_kmemleak(OLDER + OLDER[:150], "log")
    assert len(cut.objects) == 1
    assert "cut short" in cut.problems[0]
    for data in (OLDER[:150], b"something else\n"):
        with pytest.raises(ParseError):
            parse_kmemleak(data)


@given(st.integers(0, len(OLDER)), st.binary(max_size=12))
def test_damage(at: int, junk: bytes) -> None:
    with suppress(ParseError):
        for one in parse_kmemleak(OLDER + OLDER[:at] + junk + OLDER[at + len(junk) :]).objects:
            assert one.size >= 0


@given(st.lists(st.sampled_from(OLDER.splitlines()) | st.binary(max_size=40), max_size=14))
def test_any_lines(lines: list[bytes]) -> None:
    with suppress(ParseError):
        parse_kmemleak(b"\n".join(lines))
