"""Processes in files: saved images, and core dumps of the kernel and of gdb; and what grew since an earlier scan."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import leakline as leakline_library
from leakline.model.finding import KindTotal
from tests.conftest import Build, Leakline, Start, assert_unharmed

KINDS = {
    "definite": {"bytes": 20 * 104, "blocks": 20},
    "indirect": {"bytes": 40 * 200, "blocks": 40},
    "possible": {"bytes": 5 * 312, "blocks": 5},
}


def kinds_of(report: dict[str, dict[str, object]]) -> dict[str, object]:
    return {kind: report["summary"][kind] for kind in KINDS}


def test_a_saved_image_says_what_the_scan_said(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    program = start(build("kinds.c"), HOLD="1")
    image = tmp_path / "kinds.core"
    live = leakline("scan", program.pid, "--save", image, "--json").json
    assert_unharmed(program)
    assert image.stat().st_mode & 0o777 == 0o600, "it holds all that the process has in memory"
    assert "--force" in leakline("scan", program.pid, "--save", image, status=2).err
    program.kill()
    program.wait()
    saved = leakline("scan", "--open", image, "--json").json
    assert saved["target"] == live["target"]
    assert kinds_of(saved) == kinds_of(live) == KINDS
    assert saved["summary"]["reachable"] == live["summary"]["reachable"]
    assert saved["findings"][0]["confidence"] == "medium", "one look"
    assert saved["not_judged"] == []
    assert saved["cost"]["target_stopped_ns"] == 0
    assert leakline_library.scan_file(image).summary.definite == KindTotal(bytes=2080, blocks=20)


def test_threads_and_arenas_in_a_saved_image(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    program = start(build("arenas.c"))
    image = tmp_path / "arenas.core"
    leakline("scan", program.pid, "--save", image)
    assert leakline("scan", "--open", image, "--json").json["summary"]["definite"]["blocks"] == 4 * 50


@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
def test_debuggers_read_a_saved_image(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    program = start(build("kinds.c"), HOLD="1")
    image = tmp_path / "kinds.core"
    leakline("scan", program.pid, "--save", image)
    command = ["gdb", "-batch", "-nx", "-ex", "print held[0] != 0", "-ex", "backtrace", str(build("kinds.c")), str(image)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "$1 = 1" in out
    assert " main () at " in out


@pytest.mark.skipif(shutil.which("gcore") is None, reason="needs gdb")
@pytest.mark.parametrize(
    ("source", "blocks"),
    [
        ("kinds.c", 20),
        pytest.param("arenas.c", 200, marks=pytest.mark.slow),
        pytest.param("ended_threads.c", None, marks=pytest.mark.slow),
    ],
)
def test_a_core_of_gdb(build: Build, start: Start, leakline: Leakline, tmp_path: Path, source: str, blocks: int | None) -> None:
    program = start(build(source), HOLD="1")
    live = leakline("scan", program.pid, "--json").json["summary"]
    subprocess.run(["gcore", "-o", tmp_path / "core", str(program.pid)], capture_output=True, check=True)
    found = leakline("scan", "--core", tmp_path / f"core.{program.pid}", "--json").json["summary"]
    assert {kind: found[kind] for kind in KINDS} == {kind: live[kind] for kind in KINDS}
    assert blocks is None or found["definite"]["blocks"] == blocks


@pytest.mark.skipif(
    Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"), reason="this kernel hands core dumps to a program"
)
def test_a_core_of_the_kernel(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    program = subprocess.Popen(
        [build("kinds.c")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HOLD": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)),
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "READY\n"
    program.send_signal(signal.SIGSEGV)
    program.communicate()
    (core,) = tmp_path.glob("*core*")
    report = leakline("scan", "--core", core, "--json").json
    assert report["target"]["pid"] == program.pid
    assert report["target"]["command"].startswith("kinds")
    assert kinds_of(report) == KINDS
    data = core.read_bytes()
    core.write_bytes(data[: len(data) // 2])
    cut = leakline("scan", "--core", core, status=None)
    assert "Traceback" not in cut.err
    if cut.status == 0:
        assert "cut short" in cut.out
        assert "lost for good" not in cut.out


def test_what_is_no_image(leakline: Leakline, tmp_path: Path) -> None:
    for content, status, words in (
        (b"", 2, "it is empty"),
        (b"hello", 6, "no core file"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), 6, "unzstd"),
        (Path("/bin/ls").read_bytes(), 6, "no core file"),
    ):
        path = tmp_path / "image"
        path.write_bytes(content)
        assert words in leakline("scan", "--core", path, status=status).err
    assert "No such file" in leakline("scan", "--core", tmp_path / "none", status=2).err
    assert "no process" in leakline("scan", "--core", tmp_path / "image", os.getpid(), status=2).err


def test_a_libc_that_is_not_here(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    """A dump of another machine: its libc has another build-id."""
    if shutil.which("gcore") is None:
        pytest.skip("needs gdb")
    program = start(build("kinds.c"), HOLD="1")
    subprocess.run(["gcore", "-o", tmp_path / "core", str(program.pid)], capture_output=True, check=True)
    core = tmp_path / f"core.{program.pid}"
    libc = next(line.split()[-1] for line in Path(f"/proc/{program.pid}/maps").read_text().splitlines() if "libc.so.6" in line)
    core.write_bytes(core.read_bytes().replace(libc.encode(), libc.replace("libc.so.6", "libc-2.99.so").encode()[: len(libc)]))
    error = leakline("scan", "--core", core, status=5).err
    assert "Traceback" not in error


def test_who_holds_a_block(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("growing.c"), "still")
    assert program.stdout is not None
    newest, oldest = program.stdout.readline().split()
    secret = program.stdout.readline().strip()
    time.sleep(0.2)
    why = leakline("scan", program.pid, "--why", oldest, "--json").json["why"]
    assert why["kind"] == "reachable"
    assert why["root"].startswith("cache in growing")
    first, second, last = (step["address"] for step in why["path"])
    assert (first, last) == (int(newest, 16), int(oldest, 16))
    assert [step["held_at"] for step in why["path"]][1:] == [first, second]
    assert why["address"] == last
    lost = leakline("scan", program.pid, "--why", hex(int(secret, 16) + 9), "--json").json["why"]
    assert (lost["kind"], lost["root"], lost["path"]) == ("indirect", None, [])
    assert [step["size"] for step in lost["referrers"]] == [712]
    assert leakline("scan", program.pid, "--why", "0x10", "--json").json["why"]["kind"] == "no block"
    text = leakline("scan", program.pid, "--why", oldest).out
    assert "held (reachable) by cache in growing" in text
    assert "is not an address" in leakline("scan", program.pid, "--why", "main", status=2).err
    assert_unharmed(program)


def test_content_is_shown_only_when_asked_for(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("growing.c"), "still")
    time.sleep(0.2)
    assert "correct horse" not in leakline("scan", program.pid, "--json").out
    holder = leakline("scan", program.pid).out
    assert "one of them holds" not in holder
    shown = start(build("kinds.c"), HOLD="1")
    assert "one of them holds" not in leakline("scan", shown.pid, "--show-content").out, "nothing printable is in them"


def test_content_of_lost_blocks(tmp_path: Path, start: Start, leakline: Leakline) -> None:
    source = tmp_path / "text.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n"
        'static __attribute__((noinline)) void lose(void) { strcpy((char *)malloc(900) + 20, "GET /index\\033[31m index"); }\n'
        "static __attribute__((noinline)) void wipe(void) { volatile char s[9999]; memset((char *)s, 0, sizeof s); }\n"
        'int main(void) { lose(); wipe(); puts("READY"); fflush(stdout); for (;;) pause(); }\n'
    )
    subprocess.run(["gcc", "-O0", "-w", "-o", tmp_path / "text", source], check=True)
    program = start(tmp_path / "text")
    out = leakline("scan", program.pid, "--show-content").out
    assert "one of them holds: GET /" in out
    assert "\033" not in out
    assert "GET /" not in leakline("scan", program.pid, "--json").out


def test_what_grew_since_an_earlier_scan(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    program = start(build("growing.c"))
    report, image = tmp_path / "before.json", tmp_path / "before.core"
    leakline("scan", program.pid, "--json", "-o", report)
    leakline("scan", program.pid, "--save", image)
    time.sleep(2)
    for before in (report, image):
        found = leakline("scan", program.pid, "--diff", before, "--json").json
        (growing,) = [f for f in found["findings"] if f["kind"] == "growing"]
        assert growing["subject"] == {"type": "heap", "name": "blocks of 248 bytes"}
        assert growing["blocks"] >= 50
        assert growing["bytes"] == growing["blocks"] * 248
        assert growing["confidence"] == "low"
    assert growing["evidence"][0]["method"] == "diff"
    assert "lost for good" not in leakline("scan", program.pid, "--diff", report).out.split("growing")[0]
    kinds = start(build("kinds.c"), HOLD="1")
    other = leakline("scan", kinds.pid, "--diff", report, "--json").json
    assert all(f["rate_bytes_per_second"] is None for f in other["findings"])


@contextmanager
def recorded(start: Start, program: Path, report: Path) -> Iterator[int]:
    """A program started under the agent: its PID."""
    run = start(sys.executable, "-m", "leakline", "run", "-q", "-f", "-o", str(report), "--", str(program))
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)


def grows_in_remember(finding: dict[str, Any]) -> None:
    source = (Path(__file__).parents[1] / "targets/cache.c").read_text().splitlines()
    assert (finding["location"]["function"], finding["location_is"]) == ("remember", "recorded")
    assert "/* grows */" in source[finding["location"]["line"] - 1]
    assert [frame["function"] for frame in finding["stack"]][:2] == ["remember", "main"]
    assert finding["subject"]["name"] == "blocks of 248 bytes"
    assert finding["bytes"] == finding["blocks"] * 248
    assert finding["evidence"][1]["values"]["engine"] == "agent"


def growing_in(report: dict[str, Any]) -> dict[str, Any]:
    (finding,) = [f for f in report["findings"] if f["kind"] == "growing"]
    found: dict[str, Any] = finding
    return found


def test_the_line_that_grows_where_a_recorder_ran(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    """Two lines make blocks of one size: only one of them makes more and more."""
    before, image = tmp_path / "before.json", tmp_path / "before.core"
    with recorded(start, build("cache.c"), tmp_path / "run") as pid:
        leakline("scan", pid, "--json", "-o", before)
        leakline("scan", pid, "--save", image)
        census = json.loads(before.read_text())["census"]
        ring = [g for g in census["groups"] if g["size"] == 248 and g["blocks"] == 64]
        stacks = {site["number"]: [census["frames"][i]["function"] for i in site["stack"]] for site in census["sites"]}
        assert ["renew", "main"] in [stacks[group["site"]][:2] for group in ring]
        time.sleep(1)
        for options in ((), ("--no-stop",)):
            finding = growing_in(leakline("scan", pid, *options, "--diff", before, "--json").json)
            grows_in_remember(finding)
            assert finding["blocks"] >= 25
        # An image has no records: then types and sizes are compared.
        finding = growing_in(leakline("scan", pid, "--diff", image, "--json").json)
        assert (finding["location"], finding["subject"]["name"]) == (None, "blocks of 248 bytes")
        assert "cache.c:" in leakline("scan", pid, "--diff", before).out
    with recorded(start, build("cache.c"), tmp_path / "another") as pid:
        # Another run of the program: its sites have other numbers and addresses, and the same lines.
        held = next(g["blocks"] for g in census["groups"] if stacks.get(g["site"], [])[:1] == ["remember"])
        time.sleep(held / 50 + 1)
        finding = growing_in(leakline("scan", pid, "--diff", before, "--json").json)
        grows_in_remember(finding)
        assert finding["rate_bytes_per_second"] is None


@pytest.mark.slow
def test_the_line_that_grows_from_look_to_look(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    with recorded(start, build("cache.c"), tmp_path / "run") as pid:
        finding = growing_in(leakline("scan", pid, "--every", "250ms", "--duration", "6s", "--json").json)
    grows_in_remember(finding)
    assert finding["evidence"][0]["values"]["verdict"] in ("GROWING", "LEAK")


def test_what_is_no_earlier_scan(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    program = start(build("kinds.c"), HOLD="1")
    path = tmp_path / "before.json"
    for content, status in (("{}", 6), ("[", 6), ("", 6)):
        path.write_text(content)
        assert "scan" in leakline("scan", program.pid, "--diff", path, status=status).err
    without = leakline("diagnose", program.pid, "--budget", "2s", "--json").json
    path.write_text(json.dumps(without))
    assert "does not count all blocks" in leakline("scan", program.pid, "--diff", path, status=2).err
    assert "No such file" in leakline("scan", program.pid, "--diff", tmp_path / "none", status=2).err


@pytest.mark.slow
def test_look_after_look(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("growing.c"))
    report = leakline("scan", program.pid, "--every", "250ms", "--duration", "8s", "--json").json
    (growing,) = [f for f in report["findings"] if f["kind"] == "growing"]
    assert growing["subject"]["name"] == "blocks of 248 bytes"
    assert growing["evidence"][0]["values"]["verdict"] in ("GROWING", "LEAK")
    low, high = growing["rate_interval"]
    assert low < 50 * 248 * 1.1
    assert high > 50 * 248 * 0.5
    assert_unharmed(program)
    still = start(build("growing.c"), "still")
    quiet = leakline("scan", still.pid, "--every", "250ms", "--duration", "8s", "--json").json
    assert not [f for f in quiet["findings"] if f["kind"] == "growing"]
    assert "goes on" in leakline("scan", still.pid, "--duration", "3s", status=2).err


def test_a_pause_that_is_too_long_is_refused_before_anything_stops(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("kinds.c"), HOLD="1")
    refused = leakline("scan", program.pid, "--max-pause", "1ms", status=5)
    assert "--no-stop" in refused.err
    assert "stood still for" not in refused.err.replace("would stand still", "")
    assert leakline("scan", program.pid, "--max-pause", "5s", "--json").json["summary"]["definite"]["blocks"] == 20
    assert_unharmed(program)


def test_processes_that_share_an_address_space(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("shared_space.c"))
    summary = leakline("scan", program.pid, "--json").json["summary"]
    assert summary["definite"]["blocks"] == 10
    assert summary["indirect"]["blocks"] == summary["possible"]["blocks"] == 0
    assert_unharmed(program)
