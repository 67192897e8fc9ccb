"""All processes by the part in C against the reader in Python, and `ps --json` against the JSON of records."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakline.errors import NotPossible
from leakline.model.accounting import Coverage, Group, ProcessMemory, ProcessTable
from leakline.native import processes
from leakline.present.json import to_json
from leakline.present.process_json import process_table_json
from leakline.session.process_listing import list_processes
from leakline.session.processes import process_table
from leakline.sources.machine import Machine
from leakline.sources.process_table import FIELDS, Fields, ProcessTableReader
from tests.unit.test_maps import ROLLUP

STAT = b"7 (sleep) S 1 7 7 0 -1 4194304 87 0 0 0 0 0 0 0 20 0 1 0 3822 5734400 276 18446744073709551615 1 1 0 0\n"
HEAD = b"55d0424a5000-7ffe940c8000 ---p 00000000 00:00 0                          [rollup]\n"
ROLLUP_HERE = HEAD + ROLLUP.partition(b"\n")[2]
ROLLUP_OLD = HEAD + b"Rss:         12 kB\nPss:          4 kB\nPrivate_Clean:  0 kB\n"
Outcome = tuple[list[Fields], dict[str, int]] | str


def look(machine: Machine, demanded: tuple[str, ...] = ("started",)) -> Outcome:
    reader = ProcessTableReader(machine, demanded)
    return sorted(reader.read_fields()), reader.seen()


def without_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NotPossible("not built")

    monkeypatch.setattr(processes, "load_smaps_library", refuse)


def both(machine: Machine) -> tuple[Outcome, Outcome]:
    in_c = look(machine)
    with pytest.MonkeyPatch.context() as patch:
        without_c(patch)
        return in_c, look(machine)


def fake(folder: Path, files: dict[str, bytes]) -> Machine:
    shutil.rmtree(folder / "proc", ignore_errors=True)
    for name, data in files.items():
        path = folder / "proc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Machine(proc=folder / "proc")


def test_the_fields_are_those_of_the_record() -> None:
    assert ProcessMemory.__struct_fields__ == FIELDS


def test_on_this_machine_both_see_the_same() -> None:
    asleep = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    odd = subprocess.Popen(
        ["", 'quo"te\\', "new\nline", "\udcff\x1b[31m", "ü", ""], executable="/usr/bin/yes", stdout=subprocess.PIPE
    )
    gone = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
        in_c, in_python = both(Machine())
        assert not isinstance(in_c, str)
        assert not isinstance(in_python, str)
        ours, theirs = ({row[0]: row for row in rows} for rows, _ in (in_c, in_python))
        # What is shared with others changes as others come and go.
        own = [place for place, field in enumerate(FIELDS) if "pss" not in field and field != "uss"]
        for process in asleep:
            assert [ours[process.pid][place] for place in own] == [theirs[process.pid][place] for place in own]
            assert ours[process.pid][FIELDS.index("cmdline")] == "sleep 60"
        command = FIELDS.index("command")
        assert ours[odd.pid][: command + 2] == theirs[odd.pid][: command + 2]
        assert gone.pid not in ours
        assert in_c[1]["zombies"] >= 1
        lasting = [pid for pid in ours if pid in theirs and ours[pid][20] == theirs[pid][20]]
        assert len(lasting) > len(ours) * 0.5
        assert all(ours[pid][1:3] == theirs[pid][1:3] for pid in lasting if pid in ours)
    finally:
        for process in (*asleep, odd, gone):
            process.kill()
            process.communicate()


def test_ordinary_files_are_read_in_c(tmp_path: Path) -> None:
    machine = fake(tmp_path, {"7/stat": STAT, "7/smaps_rollup": ROLLUP_HERE, "7/cmdline": b"sleep\x0060\0", "stat": b"btime 5\n"})
    proc = os.open(machine.proc, os.O_RDONLY)
    try:
        found, names = processes.read_processes(proc, 4096)
        (row,) = found
    finally:
        os.close(proc)
    assert (row[0], row[4:8], names) == (processes.READ, (1, 7, 1, os.getuid()), b"sleepsleep 60")
    in_c, in_python = both(machine)
    assert in_c == in_python
    assert in_c[1] == {"seen": 1, "readable": 1, "vanished": 0, "kernel_threads": 0, "zombies": 0}


@pytest.mark.parametrize(
    "files",
    [
        {"7/stat": STAT, "7/smaps_rollup": ROLLUP_OLD, "7/cmdline": b""},
        {"7/stat": STAT, "7/smaps_rollup": ROLLUP_HERE, "7/cmdline": b"\0\0"},
        {"7/stat": STAT, "7/smaps_rollup": ROLLUP_HERE, "7/cmdline": b"x" * 70000},
        {"7/stat": STAT.replace(b"sleep", b") S 1 (\xff\n\x80"), "7/smaps_rollup": ROLLUP_HERE, "7/cmdline": b"\xed\xa0\x80\0 \0"},
        {"7/stat": STAT.replace(b" 276 ", b" -1 "), "7/smaps_rollup": ROLLUP_HERE, "7/cmdline": b"a"},
        {"7/stat": STAT[:60], "7/smaps_rollup": ROLLUP_HERE, "7/cmdline": b"a"},
        {"7/stat": STAT, "7/smaps_rollup": HEAD + b"Rss: 99999999999999999999 kB\nPss: 1 kB\n", "7/cmdline": b"a"},
        {"7/stat": STAT, "7/smaps_rollup": b"", "7/cmdline": b"a"},
        {"7/stat": STAT, "7/cmdline": b"a"},
        {"7/stat": STAT, "7/smaps_rollup": ROLLUP_HERE},
        {"7/stat": b"", "7/smaps_rollup": ROLLUP_HERE, "7/cmdline": b"a"},
        {"self/stat": STAT, "7x/stat": STAT, "sys/stat": STAT},
        {"stat": b"btime 9\n"},
    ],
)
def test_odd_files_are_read_alike(tmp_path: Path, files: dict[str, bytes]) -> None:
    machine = fake(tmp_path, files)
    in_c, in_python = both(machine)
    assert in_c == in_python


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hostile_files_are_read_alike(tmp_path: Path, data: st.DataObject) -> None:
    files = {"7/stat": STAT, "7/smaps_rollup": ROLLUP_HERE, "7/cmdline": b"sleep\x0060\0"}
    noises = st.one_of(
        st.binary(max_size=6), st.sampled_from([b" kB\n", b"\nRss: 5 kB", b"9" * 15, b"-", b") ", b"(", b"\0", b" 1"])
    )
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(files)))
        whole = files[name]
        first = data.draw(st.integers(0, len(whole)))
        last = data.draw(st.integers(first, min(first + 30, len(whole))))
        files[name] = whole[:first] + data.draw(noises) + whole[last:]
    in_c, in_python = both(fake(tmp_path, files))
    assert in_c == in_python


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['"\\\b\f\n\r\t\x7f\x80\u2028\u202e', "", "ü"]
)
numbers = st.integers(0, 2**62) | st.none()
rows = st.tuples(
    *(st.integers(1, 2**22), numbers, texts | st.none(), texts, texts | st.none()),
    *[numbers] * 16,
    st.none() | st.integers(0, 2**40).map(lambda hundredths: hundredths / 100),
    *(numbers, numbers, texts | st.none(), texts | st.none()),
)


@given(st.lists(rows, max_size=4), st.none() | st.booleans(), numbers)
def test_the_json_is_that_of_the_records(fields: list[Any], estimated: bool | None, most: int | None) -> None:
    group: dict[str, Any] = {"name": "total", "count": 1, "unreadable": 0, "vss": 5, "rss": None, "pss": 0, "uss": 1}
    totals = Group(**group, swap=0, swap_pss=None)
    seen = {"seen": 1, "readable": 2, "vanished": 3, "kernel_threads": 4, "zombies": 5}
    table = ProcessTable(
        processes=tuple(ProcessMemory(*row) for row in fields),
        totals=totals,
        coverage=Coverage(**seen),
        max_map_count=most,
        pss_is_estimate=estimated,
    )
    rest = {"totals": {**group, "swap": 0, "swap_pss": None}, "coverage": seen, "max_map_count": most, "pss_is_estimate": estimated}
    assert process_table_json(FIELDS, fields, "leakline.ps/1", rest) == to_json(table)


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("sort", ["pss", "command", "pid", "cgroup"])
def test_a_listing_is_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sort: str, ascending: bool) -> None:
    from leakline.analysis import accounting

    files = {"stat": b"btime 1700000000\n", "sys/vm/max_map_count": b"65530\n"}
    for pid, rollup in ((7, ROLLUP_HERE), (8, ROLLUP_OLD), (9, HEAD + b"Swap: 3 kB\nKSM: 1 kB\n")):
        files |= {f"{pid}/stat": STAT, f"{pid}/smaps_rollup": rollup, f"{pid}/cmdline": b"a%d\0" % (90 - pid)}
    machine = fake(tmp_path, files)
    monkeypatch.setattr(Machine, "kernel_option", lambda *_: False)
    text, seen, _ = list_processes(machine, sort, ascending=ascending)
    found, coverage = ProcessTableReader(machine, ["started"]).read()
    whole = process_table(machine, accounting.order(found, sort, ascending=ascending), coverage)
    assert text == to_json(whole)
    assert Coverage(**seen) == coverage
