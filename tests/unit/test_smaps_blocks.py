"""smaps cut by the part in C against the reader in Python: whatever it takes, both take alike."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakline.errors import NotPossible, ParseError
from leakline.model.vma import VmaUsage
from leakline.native import blocks
from leakline.sources.maps import parse_smaps, read_smaps
from tests.unit.test_smaps_sums import KEYS, files, mapping


def in_c(path: Path) -> list[VmaUsage] | str | None:
    file = os.open(path, os.O_RDONLY)
    try:
        if blocks.read_blocks(file) is None:
            return None
    finally:
        os.close(file)
    return outcome(path)


def outcome(path: Path) -> list[VmaUsage] | str:
    try:
        return read_smaps(os.fspath(path))
    except ParseError as error:
        return str(error)


def in_python(data: bytes) -> list[VmaUsage] | str:
    try:
        return parse_smaps([data])
    except ParseError as error:
        return str(error)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=files)
def test_what_kernels_write_is_taken(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "smaps"
    path.write_bytes(data)
    assert in_c(path) == in_python(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(whole=files, data=st.data())
def test_what_is_damaged_is_read_or_refused_alike(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    pieces = [b" kB", b"\n", b"\nVmFlags:", b"VmFlags: rd\n", b"-", b" ", b"0" * 16, b"\0", b"\xff"]
    for _ in range(data.draw(st.integers(1, 4))):
        first = data.draw(st.integers(0, len(whole)))
        last = data.draw(st.integers(first, min(first + 80, len(whole))))
        whole = whole[:first] + data.draw(st.one_of(st.binary(max_size=4), st.sampled_from(pieces))) + whole[last:]
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole)))]
    path = tmp_path / "smaps"
    path.write_bytes(whole)
    assert outcome(path) == in_python(whole)


def test_many_mappings_with_many_texts(tmp_path: Path) -> None:
    texts = [mapping((n + 1) << 12, 1, b"/file%d" % (n % 3000), [n % 5] * len(KEYS), set()) for n in range(9000)]
    path = tmp_path / "smaps"
    path.write_bytes(b"".join(texts))
    found = in_c(path)
    assert isinstance(found, list)
    assert len(found) == 9000
    assert found == in_python(path.read_bytes())


def test_a_mapping_longer_than_any_is_left_to_python(tmp_path: Path) -> None:
    data = mapping(4096, 1, b"/" + b"x" * (3 << 20), [1] * len(KEYS), set())
    path = tmp_path / "smaps"
    path.write_bytes(data)
    assert in_c(path) is None
    assert outcome(path) == in_python(data)
    assert isinstance(outcome(path), list)


def test_without_the_part_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NotPossible("not built")

    monkeypatch.setattr(blocks, "load_smaps_library", refuse)
    assert {usage.vma.path for usage in read_smaps("/proc/self/smaps")} >= {"[stack]", "[heap]"}


def test_our_own_mappings_are_taken() -> None:
    file = os.open("/proc/self/smaps", os.O_RDONLY)
    try:
        assert blocks.read_blocks(file) is not None
    finally:
        os.close(file)
    assert {usage.vma.path for usage in read_smaps("/proc/self/smaps")} >= {"[stack]", "[heap]"}


def test_errors_are_the_kernels() -> None:
    with pytest.raises(FileNotFoundError):
        read_smaps("/proc/0/smaps")
    folder = os.open("/proc", os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            blocks.read_blocks(folder)
    finally:
        os.close(folder)
