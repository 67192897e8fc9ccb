"""`ps` against the kernel itself, with processes that make other tools stumble (zombie leaders, odd names, fork families)."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from leakline.sources.maps import parse_smaps_rollup
from tests.conftest import UNPRIVILEGED, Build, Leakline, Start, needs_root

Row = dict[str, Any]


def rows_of(leakline: Leakline, *arguments: object) -> dict[int, Row]:
    return {row["pid"]: row for row in leakline("ps", "--json", *arguments).json["processes"]}


def close_to(value: int, truth: int) -> bool:
    return abs(value - truth) <= max(65536, truth * 0.02)


def test_the_kernels_own_sums(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("kinds.c"), HOLD="1")
    row = rows_of(leakline)[program.pid]
    with open(f"/proc/{program.pid}/smaps_rollup", "rb") as file:
        truth = parse_smaps_rollup(file.read())
    assert (row["rss"], row["uss"], row["swap"]) == (truth.rss, truth.uss, truth.swap)
    assert abs(row["pss"] - truth.pss) <= 0.3 * truth.pss, "leakline itself shared libc while it looked"
    size = next(line for line in Path(f"/proc/{program.pid}/status").read_text().splitlines() if line.startswith("VmSize"))
    assert row["vss"] == int(size.split()[1]) * 1024, "without [vsyscall]"
    assert row["pss_anon"] + row["pss_file"] + row["pss_shmem"] <= row["pss"] + 4096
    assert (row["ppid"], row["threads"], row["user"]) == (os.getpid(), 1, "root" if os.geteuid() == 0 else row["user"])


def test_a_zombie_leader_with_live_threads(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("zombie_leader.c"))
    while Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    row = rows_of(leakline)[program.pid]
    assert row["uss"] >= 20 << 20, "which smem, ps, psutil and pmap do not see"
    assert row["vss"] > row["uss"]
    asked = rows_of(leakline, program.pid, "--columns", "pid,vmas,page_tables,cgroup")[program.pid]
    assert asked["vmas"] > 10
    assert asked["page_tables"] > 0
    heaps = leakline("ps", "--by", "mapping", "--mapping", "zombie_leader", "--json").json["groups"]
    assert heaps, "its mappings are seen too"
    assert leakline("maps", program.pid, "--json").json["totals"]["uss"] >= 20 << 20
    assert "first thread" in leakline("scan", program.pid, status=5).err


def test_odd_names_lose_nobody_and_reach_no_terminal(leakline: Leakline, tmp_path: Path) -> None:
    odd = tmp_path / "10 kB"
    odd.write_bytes(b"x" * 40960)
    maps_it = "import mmap,sys,time;f=open(sys.argv[1],'r+b');m=mmap.mmap(f.fileno(),0);m[:];print('x',flush=True);time.sleep(60)"
    named = "import ctypes,time;ctypes.CDLL(None).prctl(15,b') evil\\n1\\x1b[31m',0,0,0);print('x',flush=True);time.sleep(60)"
    held = [
        subprocess.Popen([sys.executable, "-c", maps_it, str(odd)], stdout=subprocess.PIPE),
        subprocess.Popen([sys.executable, "-c", named], stdout=subprocess.PIPE),
        subprocess.Popen(["", "60"], executable="/usr/bin/sleep"),
        subprocess.Popen(["=cmd|' /C calc'!A0", "60"], executable="/usr/bin/sleep"),
    ]
    try:
        for process in held:
            if process.stdout is not None:
                process.stdout.readline()
        found = rows_of(leakline)
        assert {p.pid for p in held} <= found.keys()
        assert found[held[1].pid]["command"] == ") evil\n1\x1b[31m"[:15]
        text = leakline("ps", "--columns", "pid,command,cmdline").out
        assert "\x1b" not in text
        assert ") evil\\x0a1\\x1b[31m" in text
        listed = list(csv.DictReader(io.StringIO(leakline("ps", "--format", "csv").out)))
        by_pid = {int(row["pid"]): row for row in listed}
        assert by_pid[held[3].pid]["cmdline"].startswith("'="), "no formula in a spreadsheet"
        mappings = {g["name"]: g for g in leakline("ps", "--by", "mapping", "--json").json["groups"]}
        assert mappings[str(odd)]["rss"] >= 40960
    finally:
        for process in held:
            process.kill()
            process.communicate()


def test_what_reaches_a_terminal_or_an_old_one_is_harmless(leakline: Leakline) -> None:
    code = "import os,pty,sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    hostile = subprocess.Popen(["\x1b]0;owned\x07\u009b31m", "60"], executable="/usr/bin/sleep")
    try:
        for form in ("csv", "json", "jsonl", "table"):
            ours = [sys.executable, "-m", "leakline", "ps", str(hostile.pid), "--format", form, "--color", "never", "-q"]
            shown = subprocess.run(
                [sys.executable, "-c", code, *ours], capture_output=True, check=True, stdin=subprocess.DEVNULL
            ).stdout
            assert b"owned" in shown
            assert b"\x1b" not in shown
            assert "\u009b".encode() not in shown
    finally:
        hostile.kill()
        hostile.wait()
    old = leakline("ps", "--totals", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert "\\u2500" in old.out


def test_output_that_cannot_be_written_is_no_bug_of_ours() -> None:
    with open("/dev/full", "w") as full:
        ours = subprocess.run([sys.executable, "-m", "leakline", "ps"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ours.returncode == 2
    assert "No space left" in ours.stderr
    closed = subprocess.run(["sh", "-c", f"{sys.executable} -m leakline ps -q >&-"], capture_output=True, text=True, check=False)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_a_fork_family_shares_what_it_shares(leakline: Leakline) -> None:
    code = (
        "import os,time\nb=bytearray(b'x')*(32<<20)\nkids=[]\nfor i in range(3):\n p=os.fork()\n"
        " if p==0: time.sleep(60)\n kids.append(p)\n"
        "print(*kids,flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    family = [parent.pid, *map(int, parent.stdout.readline().split())]
    try:
        found = rows_of(leakline)
        for pid in family:
            assert found[pid]["rss"] > 32 << 20
            assert found[pid]["uss"] < 8 << 20
        assert 32 << 20 < sum(found[pid]["pss"] for pid in family) < 64 << 20
        shape = leakline("ps", "--tree", "--columns", "pid,cmdline", "--name", "python").out.splitlines()
        order = [int(line.split()[0]) for line in shape[1:]]
        assert all(order.index(parent.pid) < order.index(child) for child in family[1:])
    finally:
        for pid in reversed(family):
            os.kill(pid, 9)
        parent.communicate()


@needs_root
def test_unknown_is_null_and_a_dash_and_never_zero(unprivileged_leakline: Leakline) -> None:
    other = subprocess.Popen(["sleep", "60"], user=65534)
    try:
        result = unprivileged_leakline("ps", "--json", other.pid)
        (row,) = result.json["processes"]
        assert (row["pss"], row["uss"], row["swap"], row["swap_pss"]) == (None, None, None, None)
        assert row["rss"] > 0
        assert row["user"] == "nobody"
        assert result.json["coverage"]["seen"] > result.json["coverage"]["readable"]
        assert result.json["totals"]["unreadable"] == 1
        text = unprivileged_leakline("ps", other.pid)
        assert " -  " in text.out.splitlines()[1]
        assert "CAP_SYS_PTRACE" in text.err
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("by", ["user", "command", "cgroup", "mapping"])
def test_groups_add_up(leakline: Leakline, by: str) -> None:
    table = leakline("ps", "--by", by, "--json").json
    schema = json.loads((Path(__file__).parents[2] / "docs/schemas/ps-1.json").read_text())
    jsonschema.validate(table, schema)
    assert sum(g["rss"] for g in table["groups"]) == table["totals"]["rss"]
    assert table["totals"]["rss"] > 0


def test_columns_order_and_limit(leakline: Leakline) -> None:
    first = leakline(
        "ps", "--format", "jsonl", "--columns", "pid,uss,vmas,page_tables,cgroup", "--sort", "uss", "-n", "3", "-r"
    ).out
    rows = [json.loads(line) for line in first.splitlines()]
    assert len(rows) == 3
    assert rows[0]["uss"] >= rows[1]["uss"] >= rows[2]["uss"]
    assert all(set(row) == {"pid", "uss", "vmas", "page_tables", "cgroup"} and row["vmas"] > 5 for row in rows)
    lines = leakline("ps", "--columns", "+threads", "--bytes", "--totals", "-q")
    assert "threads" in lines.out.splitlines()[0]
    assert lines.err == ""
    assert "%" in leakline("ps", "--percent", "-n", "2").out
    assert "there are: pid" in leakline("ps", "--columns", "nosuch", status=2).err.lower()
    assert "no column" in leakline("ps", "--sort", "nosuch", status=2).err
    assert "names none" in leakline("ps", "--columns", ",", status=2).err
    assert "vmas" in leakline("ps", "--columns", "pid, vmas").out
    assert " -" not in leakline("ps", os.getpid(), "--columns", "pid, vmas").out
    leakline("ps", 4_000_000, status=4)
    leakline("ps", "--tree", "-n", "3", status=2)


def test_json_is_of_the_published_schema(leakline: Leakline) -> None:
    schema = json.loads((Path(__file__).parents[2] / "docs/schemas/ps-1.json").read_text())
    jsonschema.validate(leakline("ps", "--json").json, schema)


def test_churn_invents_no_rows_and_is_counted(leakline: Leakline) -> None:
    storm = subprocess.Popen(["sh", "-c", "while :; do /bin/true & /bin/true; done"], start_new_session=True)
    try:
        for _ in range(3):
            table = leakline("ps", "--json").json
            for row in table["processes"]:
                assert row["rss"] is not None
            assert table["coverage"]["seen"] >= len(table["processes"])
    finally:
        os.killpg(storm.pid, 9)
        storm.wait()


def test_filters(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("kinds.c"), HOLD="1")
    assert set(rows_of(leakline, program.pid)) == {program.pid}
    assert program.pid in rows_of(leakline, "--name", "^kinds")
    assert rows_of(leakline, "--user", "^nosuchuser$") == {}
    assert "regular expression" in leakline("ps", "--name", "(", status=2).err
    assert leakline("ps", "--tree", "--by", "user", status=2)
    assert leakline("ps", "--mapping", "libc", status=2)
    groups = leakline("ps", "--by", "mapping", "--mapping", "^.heap.$", "--json").json["groups"]
    assert [g["name"] for g in groups] == ["[heap]"]


def test_capabilities_are_dropped_here() -> None:
    assert UNPRIVILEGED or os.geteuid() != 0
