from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import ParseError
from leakline.model.vma import Vma
from leakline.sources.maps import parse_maps, parse_smaps, parse_smaps_rollup

ROLLUP = b"""55b8d000-7ffe1000 ---p 00000000 00:00 0                          [rollup]
Rss:                1024 kB
Pss:                 512 kB
Pss_Dirty:           100 kB
Shared_Clean:        300 kB
Shared_Dirty:          4 kB
Private_Clean:        20 kB
Private_Dirty:       700 kB
Referenced:         1024 kB
Anonymous:           710 kB
LazyFree:              8 kB
Swap:                 64 kB
SwapPss:              32 kB
Locked:                0 kB
"""


def test_a_line_of_each_kind() -> None:
    data = (
        b"00400000-00401000 r-xp 00001000 fe:01 1234567                            /usr/bin/a b \n"
        b"7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n"
        b"7f0000001000-7f0000002000 rw-s 00000000 00:05 99                         /memfd:new\\012line (deleted)\n"
        b"7ffd0000000-7ffd0001000 rw-p 00000000 00:00 0                          [stack]\n"
        b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
    )
    text, anonymous, memfd, stack, vsyscall = parse_maps(data)
    assert text == Vma(
        start=0x400000, end=0x401000, perms="r-xp", offset=0x1000, device=(0xFE, 1), inode=1234567, path="/usr/bin/a b "
    )
    assert anonymous.path is None
    assert not anonymous.is_file
    assert (memfd.path, memfd.is_shared, memfd.is_file) == ("/memfd:new\nline (deleted)", True, True)
    assert (stack.path, vsyscall.size) == ("[stack]", 4096)


def test_a_name_that_is_not_utf8_keeps_its_bytes() -> None:
    (vma,) = parse_maps(b"1000-2000 r--p 00000000 00:01 5     /tmp/\xff\xfe\n")
    assert vma.path is not None
    assert vma.path.encode("utf-8", "surrogateescape") == b"/tmp/\xff\xfe"


@pytest.mark.parametrize("line", [b"nonsense", b"1000-2000 rwxp", b"2000-1000 r--p 0 00:00 0", b"1000-2000 r--p 0 0:0 x /f"])
def test_what_is_no_mapping_is_refused(line: bytes) -> None:
    with pytest.raises(ParseError):
        parse_maps(line + b"\n")


def test_the_sums_of_a_rollup() -> None:
    usage = parse_smaps_rollup(ROLLUP)
    assert (usage.rss, usage.pss, usage.uss) == (1024 << 10, 512 << 10, 720 << 10)
    assert (usage.swap, usage.swap_pss, usage.lazy_free) == (64 << 10, 32 << 10, 8 << 10)


def test_what_an_old_kernel_lacks_is_none_and_not_zero() -> None:
    old = b"".join(line + b"\n" for line in ROLLUP.splitlines() if not line.startswith((b"SwapPss", b"LazyFree")))
    usage = parse_smaps_rollup(old)
    assert usage.swap_pss is None
    assert usage.lazy_free is None


@pytest.mark.parametrize("cut", range(0, len(ROLLUP) - 60, 37))
def test_a_rollup_that_is_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(ParseError):
        parse_smaps_rollup(ROLLUP[:cut])


def test_smaps_blocks() -> None:
    body = ROLLUP.split(b"\n", 1)[1]
    one = b"1000-3000 rw-p 00000000 00:00 0                          [heap]\n" + body + b"VmFlags: rd wr mr mw me ac sd\n"
    two = b"4000-5000 rw-p 00000000 00:00 0 \n" + body + b"THPeligible:           0\nVmFlags: rd wr\n"
    heap, anonymous = parse_smaps([one + two])
    assert (heap.vma.path, heap.usage.uss, heap.flags[-1], anonymous.vma.path) == ("[heap]", 720 << 10, "sd", None)
    old = b"".join(line for line in (one + two).splitlines(keepends=True) if not line.startswith(b"VmFlags"))
    assert [u.vma for u in parse_smaps([old])] == [heap.vma, anonymous.vma], "before Linux 3.8"
    for cut in range(1, len(one + two)):
        try:
            assert parse_smaps([(one + two)[:cut]])[0].usage.rss == heap.usage.rss, (
                "a part is never taken for the whole of a mapping"
            )
        except ParseError:
            continue


@given(st.binary(max_size=400))
def test_hostile_bytes_are_parsed_or_refused(data: bytes) -> None:
    for parse in (parse_maps, lambda data: parse_smaps([data]), parse_smaps_rollup):
        try:
            parse(data)
        except ParseError:
            continue


@given(st.integers(1, 400))
def test_smaps_may_come_cut_anywhere(size: int) -> None:
    body = ROLLUP.split(b"\n", 1)[1]
    whole = b"".join(b"%x000-%x000 rw-p 00000000 00:00 0 \n%sVmFlags: rd wr\n" % (n, n + 1, body) for n in range(1, 6))
    assert parse_smaps(whole[at : at + size] for at in range(0, len(whole), size)) == parse_smaps([whole])


@given(st.lists(st.integers(0, len(ROLLUP) - 1), max_size=6), st.binary(min_size=1, max_size=3))
def test_a_damaged_rollup_is_parsed_or_refused(places: list[int], noise: bytes) -> None:
    data = bytearray(ROLLUP)
    for place in places:
        data[place : place + len(noise)] = noise
    try:
        parse_smaps_rollup(bytes(data))
    except ParseError:
        return


def test_our_own_maps_and_smaps_agree() -> None:
    with open("/proc/self/smaps", "rb") as file:
        smaps = parse_smaps([file.read()])
    with open("/proc/self/maps", "rb") as file:
        paths = {vma.path for vma in parse_maps(file.read())}
    assert "[stack]" in paths
    assert {u.vma.path for u in smaps} >= {"[stack]", "[heap]"}
