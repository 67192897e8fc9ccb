"""`record` on real processes, real kills and a real full disk."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leakline.sources.procfs import ProcFs
from leakline.store.reader import RecordingReader
from tests.conftest import Build, Leakline, Start, assert_unharmed, needs_root
from tests.programs import EXAMPLE

FAMILY = """
import os, sys, time
held = bytearray(b"x") * (8 << 20)
print("READY", flush=True)
if not os.fork():
    os.close(1)
    time.sleep(60)
time.sleep(60)
"""


def ticks_in(path: Path) -> int:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM tick").fetchone()
    connection.close()
    return int(count)


def test_a_leak_is_recorded_and_judged_with_its_mapping(start: Start, leakline: Leakline, tmp_path: Path) -> None:
    program, path = tmp_path / "leak-example", tmp_path / "x.leakline"
    includes = ["-include", "stdlib.h", "-include", "unistd.h"]
    subprocess.run(["cc", "-g", "-w", *includes, "-o", str(program), str(EXAMPLE)], check=True)
    leak, steady = start(program, ready=False), start(sys.executable, "-c", FAMILY)
    named = (leak.pid, steady.pid, "--children")
    result = leakline("record", *named, "-i", "0.25", "-d", "12", "--maps", "every=1s", "--kernel", "-o", path, "--json")
    summary = result.json
    assert 40 <= summary["ticks"] <= 49
    assert summary["processes"] == 3, "the child too"
    assert summary["bytes"] == path.stat().st_size
    verdicts = {one["name"]: one for one in leakline("trend", path, "--json").json["series"]}
    assert verdicts[f"leak-example ({leak.pid})"]["verdict"] == "GROWING"
    assert verdicts[f"leak-example ({leak.pid}) [heap]"]["verdict"] in ("GROWING", "UNDECIDED")
    assert (
        verdicts[f"python3 ({steady.pid})" if f"python3 ({steady.pid})" in verdicts else f"python ({steady.pid})"]["verdict"]
        == "STABLE"
    )
    assert any(name.startswith("slab ") for name in verdicts) == (os.geteuid() == 0)
    said = leakline("trend", path).out
    assert said.startswith("GROWING")
    assert "--all lists them" in said
    for one in (leak, steady):
        assert_unharmed(one)


def test_kill_at_any_moment(leakline: Leakline, tmp_path: Path) -> None:
    """Every tick that was said to be safe is in the file, which goes on with --append."""
    path, rng, acknowledged = tmp_path / "x.leakline", random.Random(4), 0
    for attempt in range(20):
        command = [sys.executable, "-m", "leakline", "record", "-v", "-i", "0.02", "-o", str(path), "--maps", "0.1s", "--append"]
        ours = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert ours.stderr is not None
        with ours.stderr as stderr:
            first = stderr.readline()
            assert "tick 1 is safe" in first, first
            time.sleep(rng.uniform(0, 0.3))
            ours.send_signal(signal.SIGKILL)
            said = first + stderr.read()
        ours.wait()
        acknowledged += max(map(int, re.findall(r"tick (\d+) is safe", said)))
        assert ticks_in(path) >= acknowledged, f"after kill {attempt + 1}"
        acknowledged = ticks_in(path)
    with RecordingReader(path) as reader:
        assert len(reader.ticks) == acknowledged
        assert reader.processes()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert leakline("record", "--append", "-i", "0.1", "-d", "0.3", "-o", path, "--json").json["ticks"] > acknowledged


@needs_root
@pytest.mark.alone
def test_a_full_disk_takes_nothing_back(leakline: Leakline, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    room = 600 + 2 * len(ProcFs().pids())  # the first tick writes down every process
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}k", "leakline-test", str(disk)], check=True)
    try:
        path = disk / "x.leakline"
        result = leakline("record", "-v", "-i", "0.02", "-d", "60", "--kernel", "--maps", "0.02s", "-o", path, status=2)
        said = [int(number) for number in re.findall(r"tick (\d+) is safe", result.err)]
        assert said, result.err
        assert "full" in result.err
        assert "--append" in result.err
        assert "Traceback" not in result.err
        assert ticks_in(path) >= said[-1]
        assert leakline("trend", path, "--json").json["series"]
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        goes_on = leakline("record", "--append", "-i", "0.05", "-d", "0.5", "-o", path, "--json").json
        assert goes_on["ticks"] >= said[-1] + 5
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_recording_can_be_read_while_it_goes_on(start: Start, leakline: Leakline, tmp_path: Path) -> None:
    path = tmp_path / "x.leakline"
    program = start(sys.executable, "-c", FAMILY)
    ours = subprocess.Popen([sys.executable, "-m", "leakline", "record", str(program.pid), "-q", "-i", "0.1", "-o", str(path)])
    try:
        time.sleep(3)
        (one, *_) = [s for s in leakline("trend", path, "--json").json["series"] if f"({program.pid})" in s["name"]]
        assert one["samples"] >= 10
        assert "is being recorded to" in leakline("record", "--append", "-o", path, status=2).err
    finally:
        ours.send_signal(signal.SIGINT)
        assert ours.wait(20) == 0
    assert not path.with_name("x.leakline-wal").exists(), "all is in the one file at the end"
    assert leakline("trend", path, "--json").json["series"]


def test_a_stopped_recorder_leaves_a_gap(start: Start, leakline: Leakline, tmp_path: Path) -> None:
    path = tmp_path / "x.leakline"
    program = start(sys.executable, "-c", FAMILY)
    command = [
        sys.executable,
        "-m",
        "leakline",
        "record",
        str(program.pid),
        "-q",
        "-i",
        "0.1",
        "-d",
        "5",
        "-o",
        str(path),
        "--json",
    ]
    ours = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(2)
    ours.send_signal(signal.SIGSTOP)
    time.sleep(2)
    ours.send_signal(signal.SIGCONT)
    out, _ = ours.communicate(timeout=30)
    assert json.loads(out)["missed_ticks"] >= 15
    with RecordingReader(path) as reader:
        steps = [b - a for a, b in zip(reader.times, reader.times[1:], strict=False)]
        assert max(steps) >= 1.5
        assert sum(step < 0.05 for step in steps) < 8, "no burst of some twenty ticks afterwards"


def test_bad_requests(leakline: Leakline, tmp_path: Path) -> None:
    path = tmp_path / "x.leakline"
    assert "--output" in leakline("record", status=2).err
    assert "no process 4194303" in leakline("record", 4194303, "-o", path, status=4).err
    assert not path.exists()
    path.write_text("a text")
    assert "exists" in leakline("record", "-o", path, "-d", "0.1", status=2).err
    assert leakline("record", "-o", path, "-d", "0.1", "--append", status=6).err
    assert path.read_text() == "a text"
    assert "is no file" in leakline("record", "-o", "/dev/null", "-f", "-d", "0.1", status=2).err
    assert Path("/dev/null").is_char_device()
    assert leakline("record", "-o", path, "-f", "-d", "0.2", "-i", "0.1").out == ""
    assert "its columns and units are known" in leakline("trend", path, "--unit", "KiB", status=2).err
    assert leakline("record", "-o", path, "--append", "-f", status=2).err
    assert leakline("record", "-o", path, "-f", "--keep", "1s", status=2).err
    assert "no folder" in leakline("record", "-o", tmp_path / "none/x", status=2).err.lower().replace(
        "such file or directory", "folder"
    )


@pytest.mark.slow
def test_a_bounded_cache_a_load_in_cycles_and_a_restart_loop_raise_nothing(
    build: Build, start: Start, leakline: Leakline, tmp_path: Path
) -> None:
    code = """
import collections, math, time
cache, began = collections.OrderedDict(), time.monotonic()
print("READY", flush=True)
while True:
    for number in range(200):
        cache[time.monotonic_ns()] = bytes(2000)
        if len(cache) > 15000:
            cache.popitem(last=False)
    load = bytearray(b"x") * int((2 + math.sin((time.monotonic() - began) / 2)) * (1 << 20))
    time.sleep(0.05)
"""
    program, path = start(sys.executable, "-c", code), tmp_path / "x.leakline"
    name = f"loop{os.getpid()}"
    (tmp_path / name).symlink_to("/bin/sleep")
    loop = subprocess.Popen(["sh", "-c", f'while :; do "{tmp_path / name}" 2; done'])
    try:
        time.sleep(10)
        leakline("record", program.pid, "--name", f"^{name[:15]}$", "-q", "-i", "0.25", "-d", "80", "-o", path, timeout=150)
    finally:
        loop.kill()
        loop.wait()
    verdicts = {one["name"].split(" ")[0]: one for one in leakline("trend", path, "--json").json["series"] if "(" in one["name"]}
    assert len(verdicts) == 2, "a loop of restarts is one series"
    assert all(one["verdict"] not in ("GROWING", "LEAK") for one in verdicts.values()), verdicts


def test_an_exec_and_a_missing_target(leakline: Leakline, tmp_path: Path) -> None:
    path = tmp_path / "x.leakline"
    shell = subprocess.Popen(["sh", "-c", "sleep 1; exec sleep 20"])
    try:
        leakline("record", shell.pid, "-i", "0.2", "-d", "3", "-q", "-o", path)
        assert f"sleep ({shell.pid})" in [one["name"] for one in leakline("trend", path, "--json").json["series"]]
        before = path.read_bytes()
        assert "no process 4194303" in leakline("record", 4194303, shell.pid, "-o", path, "-f", status=4).err
        assert "kernel thread" in leakline("record", 2, "-o", path, "-f", status=5).err
        assert leakline("record", "--name", "[", "-o", path, "-f", status=2).err
        assert path.read_bytes() == before, "--force replaces nothing before there is something to record"
        assert leakline("record", shell.pid, "-i", "200000d", "-o", path, "-f", status=2).err
        with open("/dev/full", "w") as full:
            command = [
                sys.executable,
                "-m",
                "leakline",
                "record",
                str(shell.pid),
                "-v",
                "-i",
                "0.1",
                "-d",
                "1",
                "-f",
                "-o",
                str(path),
            ]
            assert subprocess.run(command, stderr=full, check=False).returncode == 0
        assert ticks_in(path) >= 8
    finally:
        shell.kill()
        shell.wait()


def test_a_program_is_started_and_recorded_to_its_end(tmp_path: Path, leakline: Leakline) -> None:
    path = tmp_path / "x"
    code = (
        "import os, sys; held = b'x' * (8 << 20); os.fork() or os._exit(0); os.wait(); print('mine'); sys.stdin.read(); sys.exit(7)"
    )
    with subprocess.Popen(["sleep", "1"], stdout=subprocess.PIPE) as slow:  # its end is the end of the program's input
        done = leakline("record", "-i", "50ms", "-q", "-o", path, "--", sys.executable, "-c", code, status=7, stdin=slow.stdout)
    assert done.out == "mine\n"
    with RecordingReader(path) as reader:
        (one,) = [series for series in reader.processes() if max(series.values) > 8 << 20]
        assert len(one.values) >= 3


def test_what_cannot_be_started_is_said_as_env_says_it(tmp_path: Path, leakline: Leakline) -> None:
    assert "cannot start" in leakline("record", "-o", tmp_path / "x", "--", "/no/such/program", status=127).err
    assert "go without it" in leakline("record", "1", "-o", tmp_path / "x", "--", "true", status=2).err
    assert "stdout" in leakline("record", "--json", "-o", tmp_path / "x", "--", "true", status=2).err
    assert not (tmp_path / "x").exists()


def test_a_program_that_a_signal_ends(tmp_path: Path, leakline: Leakline) -> None:
    leakline("record", "-i", "50ms", "-o", tmp_path / "x", "--", "sh", "-c", "sleep 0.3; kill -9 $$", status=137)
