"""Files of findings, told apart by what is in them; and files of anything else."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import leakline
from leakline.errors import InvalidRequest, LeaklineError, ParseError
from leakline.model.finding import Reports
from leakline.session.filtering import Filters
from leakline.session.reading_reports import read_file, read_reports
from tests.findings import finding, report
from tests.unit.test_checker_logs import MEMCHECK, SANITIZER, TEXT
from tests.unit.test_kmemleak import OLDER

REPORT = report(findings=(finding(),), children=(report(findings=(finding(),), pid=8),))
ONE = msgspec.json.encode(REPORT)
SEVERAL = msgspec.json.encode(Reports(targets=(REPORT, REPORT)))
ALL = {
    "one.json": ONE,
    "several.json": b"\n" + SEVERAL,
    "memcheck.xml": MEMCHECK.encode(),
    "two.xml": MEMCHECK.encode() + b"\n" + MEMCHECK.replace("<pid>77", "<pid>78").encode(),
    "valgrind.log": TEXT.encode(),
    "asan.log": SANITIZER.encode(),
    "kernel.log": OLDER,
    "ctest.log": "".join(
        f"1: {one}\n12: {two}\n" for one, two in itertools.zip_longest(TEXT.splitlines(), SANITIZER.splitlines(), fillvalue="")
    ).encode(),
    "compose.log": "".join(f"app-1  | {line}\n" for line in SANITIZER.splitlines()).encode(),
    "ci.log": "".join(f"2026-11-25T22:01:44.1234567Z {line}\n" for line in (TEXT + SANITIZER).splitlines()).encode(),
}


def said(_text: str) -> None:
    return


@pytest.mark.parametrize(
    ("name", "processes"),
    [
        ("one.json", [7]),
        ("several.json", [7, 7]),
        ("memcheck.xml", [77]),
        ("two.xml", [77, 78]),
        ("valgrind.log", [77]),
        ("asan.log", [23161]),
        ("kernel.log", [None]),
        ("ci.log", [77, 23161]),
        ("ctest.log", [77, 23161]),
        ("compose.log", [23161]),
    ],
)
def test_each_sort_of_file(tmp_path: Path, name: str, processes: list[int | None]) -> None:
    (tmp_path / name).write_bytes(ALL[name])
    reports = read_file(tmp_path / name, said)
    assert [one.target and one.target.pid for one in reports] == processes
    assert all(one.findings for one in reports)
    if name == "one.json":
        assert reports == [REPORT], "as it was"


def test_several_files(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ALL]
    for path in paths:
        path.write_bytes(ALL[path.name])
    (tmp_path / "cut.log").write_text(SANITIZER[: SANITIZER.index("SUMMARY")])
    heard: list[str] = []
    reports = read_reports([*paths, tmp_path / "cut.log", tmp_path / "missing"], heard.append)
    # The sanitizer's log names the program by the module of main; valgrind's by its command.
    assert len([one.target and one.target.command for one in reports]) == len(
        {one.target and one.target.command for one in reports}
    )
    assert sum(text.startswith("not read: ") for text in heard) == 2
    app = next(one for one in reports if one.target is not None and one.target.command == "app")
    assert app.findings[0].blocks == 3 * 2 * 2, "three reports, each with a child"
    assert len(reports[-1].not_judged) >= 2


def test_from_python(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(TEXT)
    (one,) = leakline.read_reports(tmp_path / "log")
    assert one.findings
    assert [change.change for change in leakline.compare_reports([], [one]).changes] == ["new", "new"]


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for path, error in ((tmp_path / "text", ParseError), (tmp_path / "missing", InvalidRequest), (tmp_path, InvalidRequest)):
        with pytest.raises(error):
            read_reports([path], said)
    with pytest.raises(ParseError, match="none of the 2"):
        read_reports([tmp_path / "text", tmp_path / "missing"], said)


@pytest.mark.parametrize("name", ALL)
def test_any_of_them_is_a_baseline(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(ALL[name])
    filters = Filters(baseline=tmp_path / name)
    shown = filters.apply(read_file(tmp_path / name, said))
    assert all(one.findings == () and one.known is not None and one.known.findings for one in shown)
    assert filters.apply(shown) == shown


@given(st.sampled_from(sorted(ALL)), st.integers(0, 4000), st.binary(max_size=12))
def test_damage(name: str, at: int, junk: bytes) -> None:
    data = ALL[name]
    assert_typed(data[:at] + junk + data[at + len(junk) :])


@given(
    st.lists(st.sampled_from([line for data in ALL.values() for line in data.splitlines()]) | st.binary(max_size=30), max_size=12)
)
def test_any_lines(lines: list[bytes]) -> None:
    assert_typed(b"\n".join(lines))


def assert_typed(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            reports = read_file(Path(file.name), said)
        except LeaklineError:
            return
        assert reports
