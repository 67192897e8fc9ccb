"""Programs under `leakline run` that are looked at before their end: by `check`, `scan`, `--every`, and as a signal ends them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Build, Leakline, Program, assert_unharmed

Running = Callable[..., Program]


@pytest.fixture
def running() -> Iterator[Running]:
    """Start a program under `leakline run`, and wait for its READY line; both are ended at the end."""
    runs: list[Program] = []

    def run(*arguments: object, **environment: str) -> Program:
        started = subprocess.Popen(
            [sys.executable, "-m", "leakline", "run", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        runs.append(started)
        assert started.stdout is not None
        assert started.stdout.readline() == "READY\n"
        return started

    yield run
    for started in runs:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.communicate()


def children_of(pid: int) -> list[int]:
    """Its children now."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def totals(report: Any) -> dict[str, tuple[int, int]]:
    """Blocks and bytes by kind."""
    return {kind: (total["blocks"], total["bytes"]) for kind, total in report["summary"].items() if total is not None}


def test_a_program_is_checked_while_it_runs(build: Build, leakline: Leakline, running: Running, tmp_path: Path) -> None:
    run = running("-o", tmp_path / "report.json", "--", build("kinds.c"), HOLD="1")
    (pid,) = children_of(run.pid)
    report = leakline("check", pid, "--json").json
    assert report["schema"] == "leakline.findings/1"
    assert report["bytes_are"] == "requested"
    assert report["children"] == []
    assert (totals(report)["definite"], totals(report)["indirect"]) == ((20, 2000), (40, 8000))
    finding = report["findings"][0]
    assert (finding["kind"], finding["confidence"], finding["location_is"]) == ("definite", "high", "recorded")
    assert [frame["function"] for frame in finding["stack"]][:2] == ["lose_list", "main"]
    assert "two scans" in finding["evidence"][0]["text"]
    agent = report["cost"]["agent"]
    assert agent["allocations"] == agent["memo_hits"] + agent["memo_misses"] >= 20 * 3 + 12
    assert agent["memory_bytes"] > 0
    assert agent["held_at_end_ns"] is None
    assert report["cost"]["target_stopped_ns"] > 0
    text = leakline("check", "--name", "^kinds-", "--fail-on", "high", status=1)
    assert "kinds.c" in text.out
    assert "allocations" in text.out
    assert "stood still" in text.err
    scan = leakline("scan", pid, "--json", "-q").json
    assert (scan["bytes_are"], totals(scan)["definite"]) == ("requested", (20, 2000))
    assert scan["findings"][0]["location_is"] == "recorded"
    os.kill(pid, signal.SIGTERM)
    assert run.wait(60) == 128 + signal.SIGTERM


def test_its_children_are_checked_with_it(build: Build, leakline: Leakline, running: Running, tmp_path: Path) -> None:
    run = running("-o", tmp_path / "report.json", "--", "sh", "-c", f"{build('kinds.c')}; exit 3", HOLD="1")
    (shell,) = children_of(run.pid)
    (pid,) = children_of(shell)
    report = leakline("check", shell, "--json").json
    (child,) = report["children"]
    assert (report["target"]["pid"], child["target"]["pid"]) == (shell, pid)
    assert totals(child)["definite"] == (20, 2000)
    assert leakline("check", shell, "-q", "--fail-on", "high", status=1).out.count("leaks at") == 1
    error = leakline("check", run.pid, status=5).err
    assert f"leakline check {shell}" in error


def test_what_cannot_be_checked(build: Build, start: Callable[..., Program], leakline: Leakline) -> None:
    program = start(build("kinds.c"), HOLD="1")
    done = leakline("check", program.pid, "--json", status=5)
    error = json.loads(done.err)["error"]
    assert error["type"] == "NotSupported"
    assert f"leakline scan {program.pid}" in error["hint"]
    assert_unharmed(program)
    assert "no target" in leakline("check", status=2).err
    assert "no process" in leakline("check", 1 << 22, status=4).err
    assert "no process" in leakline("check", "--name", "^no such program$", status=4).err


def test_a_look_every_now_and_then(build: Build, running: Running, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    run = running("--every", "500ms", "-q", "-o", path, "--", build("piles_up.c"))
    growing: list[Any] = []
    looks = set()
    until = time.monotonic() + 60
    while not growing and time.monotonic() < until:
        if path.exists():
            looks.add(path.read_text())
            growing = [f for f in json.loads(path.read_text())["findings"] if f["kind"] == "growing"]
        time.sleep(0.01)
    (finding,) = growing
    assert finding["location"]["function"] == "keep"
    assert finding["location_is"] == "recorded"
    assert finding["evidence"][0]["values"]["looks"] >= 3
    assert finding["bytes"] % 1000 >= 0
    earlier = [json.loads(text)["summary"]["definite"]["blocks"] for text in looks]
    assert len(earlier) >= 3
    assert run.poll() is None
    (pid,) = children_of(run.pid)
    assert_unharmed_child(pid)
    assert run.stdin is not None
    run.stdin.close()
    run.stdin = None
    assert run.wait(60) == 3
    last = json.loads(path.read_text())
    assert last["summary"]["definite"]["blocks"] >= max(earlier) > min(earlier)
    assert "at the program's end" in last["findings"][0]["evidence"][0]["text"]
    assert [f["location"]["function"] for f in last["findings"] if f["kind"] == "growing"] == ["keep"]
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def assert_unharmed_child(pid: int) -> None:
    """It runs, and nobody traces it."""
    status = Path(f"/proc/{pid}/status").read_text()
    assert "TracerPid:\t0" in status


@pytest.mark.slow
def test_reports_to_a_person(build: Build, running: Running) -> None:
    run = running("--every", "500ms", "--", build("piles_up.c"))
    assert run.stderr is not None
    lines: list[str] = []
    while not any("leaks at" in line for line in lines):
        lines.append(run.stderr.readline())
        assert lines[-1], lines
    assert any("after 0." in line or "after 1." in line for line in lines)
    (pid,) = children_of(run.pid)
    os.kill(pid, signal.SIGKILL)
    _, rest = run.communicate(timeout=60)
    assert "signal 9 ended it" in rest
    assert "this is what the last look saw" in rest


@pytest.mark.parametrize(
    ("how", "status", "children"),
    [
        ("kill", 128 + signal.SIGKILL, ()),
        pytest.param("segv", 128 + signal.SIGSEGV, (), marks=pytest.mark.slow),
        pytest.param("term", 128 + signal.SIGTERM, (), marks=pytest.mark.slow),
        ("threads", 128 + signal.SIGSEGV, ()),
        ("exec", 128 + signal.SIGKILL, ()),
        ("child", signal.SIGKILL, (5,)),
        ("signals", 42, (3,)),
    ],
)
def test_what_a_signal_ends(
    build: Build, leakline: Leakline, tmp_path: Path, how: str, status: int, children: tuple[int, ...]
) -> None:
    path = tmp_path / "report.json"
    leakline("run", "--catch-signals", "-q", "-o", path, "--", build("dies.c"), how, status=status, cwd=tmp_path)
    report = json.loads(path.read_text())
    assert totals(report)["definite"] == (3, 300)
    unseen = [child["not_judged"] for child in report["children"] if child["summary"]["definite"] is None]
    assert not unseen
    assert [totals(child)["definite"][0] for child in report["children"]] == list(children)
    (finding,) = [f for f in report["findings"] if f["kind"] == "definite"]
    assert finding["location"]["function"] == "lose"
    assert report["cost"]["agent"]["held_at_end_ns"] > 0
    if status > 128:
        assert f"when signal {status - 128} ended the program" in finding["evidence"][0]["text"]
        assert (finding["confidence"], finding["rate_bytes_per_second"]) == ("medium", None)


def test_signals_that_are_not_caught(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    leakline("run", "-q", "-o", path, "--", build("dies.c"), "child", status=signal.SIGKILL)
    (child,) = json.loads(path.read_text())["children"]
    assert child["summary"]["definite"] is None
    assert "signal" in child["not_judged"][0]["why"]
    assert "cannot start" in leakline("run", "--catch-signals", "--", "/nonexistent", status=127).err
    assert leakline("run", "--catch-signals", "-q", "--", "/bin/true").out == ""
    assert "agent" in leakline("run", "--engine", "valgrind", "--catch-signals", "--", "/bin/true", status=2).err
    assert "500ms" in leakline("run", "--every", "1ms", "--", "/bin/true", status=2).err


@pytest.mark.slow
def test_catching_and_looking_at_the_same_time(build: Build, running: Running, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    run = running("--every", "500ms", "--catch-signals", "-q", "-o", path, "--", build("piles_up.c"))
    until = time.monotonic() + 60
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.01)
    seen = json.loads(path.read_text())["summary"]["definite"]["blocks"]
    (pid,) = children_of(run.pid)
    os.kill(pid, signal.SIGSEGV)
    assert run.wait(60) == 128 + signal.SIGSEGV
    report = json.loads(path.read_text())
    assert report["summary"]["definite"]["blocks"] >= seen > 0
    assert "when signal 11 ended the program" in report["findings"][0]["evidence"][0]["text"], report["not_judged"]


@pytest.mark.slow
def test_without_privilege(build: Build, unprivileged_leakline: Leakline, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    arguments = ("--catch-signals", "--every", "500ms", "-q", "-o", path, "--", build("dies.c"), "threads")
    unprivileged_leakline("run", *arguments, status=128 + signal.SIGSEGV)
    assert totals(json.loads(path.read_text()))["definite"] == (3, 300)
