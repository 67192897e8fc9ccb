"""The parser of smaps in C against the one in Python: whatever it takes, both take alike."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import NotPossible, ParseError
from leakline.native import parts
from leakline.native.smaps import SmapsSums
from leakline.sources import mapping_table
from leakline.sources.machine import Machine
from leakline.sources.mapping_table import MappingCounter, MappingTableReader
from leakline.sources.maps import path_of

KEYS = (
    *("Size", "KernelPageSize", "Rss", "Pss", "Pss_Dirty", "Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty"),
    *(
        "Referenced",
        "Anonymous",
        "KSM",
        "LazyFree",
        "AnonHugePages",
        "Shared_Hugetlb",
        "Private_Hugetlb",
        "Swap",
        "SwapPss",
        "Locked",
    ),
)
OPTIONAL = ("Pss_Dirty", "KSM", "LazyFree", "Shared_Hugetlb", "Private_Hugetlb", "SwapPss")
NAMES = (
    *(
        b"",
        b"[heap]",
        b"[vsyscall]",
        b"/usr/lib/libc.so.6",
        b"/tmp/a b ",
        b"/tmp/x (deleted)",
        b"/tmp/new\\012line",
        b"/tmp/\xff\xfe",
    ),
    *(b"10 kB", b"VmFlags: rd", b"/tmp/\r\0", b"[anon: a:b]"),
)


def mapping(start: int, pages: int, name: bytes, amounts: list[int], lacks: set[str]) -> bytes:
    head = b"%08x-%08x rw-p 00001000 fe:00 %d" % (start, start + pages * 4096, 26723 if name else 0)
    lines = [b"%-16s%8d kB" % (f"{key}: ".encode(), amount) for key, amount in zip(KEYS, amounts, strict=True) if key not in lacks]
    return b"\n".join([head + b" " + b" " * 20 * bool(name) + name, *lines, b"THPeligible:           0", b"VmFlags: rd wr \n"])


mappings = st.builds(
    mapping,
    st.integers(0, 2**47),
    st.integers(1, 2**30),
    st.sampled_from(NAMES),
    st.lists(st.integers(0, 2**36), min_size=len(KEYS), max_size=len(KEYS)),
    st.sets(st.sampled_from(OPTIONAL)),
)
files = st.lists(mappings, min_size=1, max_size=5).map(b"".join)


def by_c(*data: bytes) -> dict[str, tuple[int, ...]] | None:
    """The sums; None where it refuses the last one."""
    with SmapsSums() as sums:
        taken = [sums.add(one) for one in data]
        return {path_of(name): found for name, found in sums.by_name().items()} if taken[-1] else None


def by_python(*data: bytes) -> dict[str, tuple[int, ...]] | None:
    """The sums; None for what is no smaps."""
    counter = MappingCounter()
    try:
        for one in data:
            counter.add(one)
    except ParseError:
        return None
    return counter.by_name()


@given(st.lists(files, min_size=1, max_size=3))
def test_both_parsers_take_what_kernels_write(data: list[bytes]) -> None:
    assert by_c(*data) == by_python(*data) is not None


@given(files, st.data())
def test_what_is_damaged_is_refused_or_taken_alike(whole: bytes, data: st.DataObject) -> None:
    noises = st.one_of(
        st.binary(max_size=4),
        st.sampled_from([b" kB", b"\n", b"\nVmFlags:", b"\nSwap: 5 kB", b"\nRss: 7", b"-", b"9" * 16, b"A", b"\t"]),
    )
    for _ in range(data.draw(st.integers(1, 4))):
        first = data.draw(st.integers(0, len(whole)))
        last = data.draw(st.integers(first, min(first + 80, len(whole))))
        whole = whole[:first] + data.draw(noises) + whole[last:]
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole)))]
    found = by_c(whole)
    assert found is None or found == by_python(whole)


@given(st.binary(max_size=300))
def test_noise_is_refused_or_taken_alike(data: bytes) -> None:
    found = by_c(data)
    assert found is None or found == by_python(data)


def test_our_own_smaps_is_taken() -> None:
    whole = Path("/proc/self/smaps").read_bytes()
    assert by_c(whole, whole) == by_python(whole, whole) is not None


def test_of_a_refused_file_nothing_is_counted() -> None:
    good = mapping(4096, 1, b"/a", [1] * len(KEYS), set())
    with SmapsSums() as sums:
        assert sums.add(good)
        before = sums.by_name()
        assert not sums.add(mapping(8192, 1, b"/b", [1] * len(KEYS), set()) + good[:-1])
        assert sums.by_name() == before


@pytest.mark.parametrize("lacks", sorted(set(KEYS[2:]) - {*OPTIONAL, "Referenced", "AnonHugePages", "Locked"}))
def test_a_mapping_that_lacks_an_amount_is_refused(lacks: str) -> None:
    whole = mapping(4096, 1, b"/a", [1] * len(KEYS), {lacks})
    assert by_c(whole) is by_python(whole) is None


def test_sums_that_do_not_fit_are_left_to_python() -> None:
    big = mapping(4096, 1, b"/a", [10**15 - 1] * len(KEYS), set())
    with SmapsSums() as sums:
        assert [sums.add(big) for _ in range(8)] == [True, True] + [False] * 6
    huge = mapping(4096, 1, b"/a", [10**15] * len(KEYS), set())
    assert by_c(huge) is None
    assert by_python(huge) is not None


def test_many_names() -> None:
    whole = b"".join(mapping(n * 4096, 1, b"/file%d" % n, [n] * len(KEYS), set()) for n in range(1, 3000))
    assert by_c(whole) == by_python(whole) is not None


def test_the_table_is_the_same_without_the_part_in_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = mapping(4096, 3, b"[heap]", list(range(len(KEYS))), set()) + mapping(65536, 3, b"/tmp/\xff", [7] * len(KEYS), {"SwapPss"})
    before_vmflags = b"".join(line for line in one.splitlines(keepends=True) if not line.startswith(b"VmFlags"))
    for pid, data in ((1, one), (2, before_vmflags), (3, one + one)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "smaps").write_bytes(data)
    machine = Machine(proc=tmp_path, live=False)
    groups, coverage = MappingTableReader(machine).read()
    monkeypatch.setattr(mapping_table, "_counting_in_c", nullcontext)
    in_python, coverage_in_python = MappingTableReader(machine).read()
    assert sorted(groups, key=lambda g: g.name) == sorted(in_python, key=lambda g: g.name)
    assert coverage == coverage_in_python
    assert {(g.name, g.count) for g in groups} == {("[heap]", 3), ("/tmp/\\xff", 3)}


def test_a_part_of_another_version_is_not_possible_and_no_bug() -> None:
    with pytest.raises(NotPossible, match="another version"):
        parts._load(parts.SMAPS, "leakline_smaps_abi", 0)
    with pytest.raises(NotPossible, match="cannot be loaded"):
        parts._load(parts.HEAP, "leakline_smaps_abi", 1)
