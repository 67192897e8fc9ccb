"""Targets that cannot be looked at: each a typed error with a next step, never a wrong number."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import UNPRIVILEGED, Build, Leakline, Start, needs_root

COMMANDS = pytest.mark.parametrize("command", [["scan"], ["diagnose", "--budget", "4s"], ["trace", "-d", "1"]], ids=lambda c: c[0])


SCANNING = pytest.mark.parametrize("command", [["scan"], ["diagnose", "--budget", "4s"]], ids=lambda c: c[0])


def check_not_supported(leakline: Leakline, command: list[str], pid: int, word: str) -> None:
    """`scan` refuses; `diagnose` says what it could not judge, and proves nothing lost."""
    if command[0] == "scan":
        check(leakline, command, pid, 5, "not supported", word)
        return
    report = leakline(*command, pid, "--json", "-q").json
    assert report["summary"]["definite"] is None
    assert {finding["kind"] for finding in report["findings"]} <= {"growing", "outstanding"}
    (why,) = [gap["why"] for gap in report["not_judged"] if gap["name"] == "whether blocks are lost"]
    assert "not supported" in why
    assert word in why


def check(leakline: Leakline, command: list[str], pid: int, status: int, *words: str) -> None:
    result = leakline(*command, pid, "--json", "-q", status=status)
    error = json.loads(result.err.splitlines()[-1])["error"]
    assert all(word in error["message"] for word in words), error
    assert error["hint"]
    assert result.out == ""


@COMMANDS
def test_no_such_process(leakline: Leakline, command: list[str]) -> None:
    check(leakline, command, 4_000_000, 4, "no process 4000000")


@COMMANDS
def test_a_kernel_thread(leakline: Leakline, command: list[str]) -> None:
    if not Path("/proc/2/stat").read_text().startswith("2 (kthreadd)"):
        pytest.skip("kernel threads are not visible here")
    check(leakline, command, 2, 5, "kernel thread")


@COMMANDS
def test_a_zombie(leakline: Leakline, command: list[str]) -> None:
    child = subprocess.Popen(["true"])
    while Path(f"/proc/{child.pid}/stat").read_text().split(") ")[1][0] != "Z":
        time.sleep(0.01)
    check(leakline, command, child.pid, 4, "zombie")
    child.wait()


@needs_root
@COMMANDS
def test_somebody_elses_process(unprivileged_leakline: Leakline, command: list[str]) -> None:
    other = subprocess.Popen(["sleep", "60"], user=65534)
    try:
        result = unprivileged_leakline(*command, other.pid, status=3)
        assert "belongs to user 65534" in result.err
        assert "CAP_SYS_PTRACE" in result.err
    finally:
        other.kill()
        other.wait()


@SCANNING
def test_a_static_program(build: Build, start: Start, leakline: Leakline, command: list[str]) -> None:
    program = start(build("loses.c", "-g", "-static"))
    check_not_supported(leakline, command, program.pid, "statically linked")


@COMMANDS
def test_a_32_bit_program(build: Build, start: Start, leakline: Leakline, command: list[str]) -> None:
    program = start(build("raw32.c", "-m32", "-nostdlib", "-static", "-fno-pic"), ready=False)
    check(leakline, command, program.pid, 5, "not supported", "32-bit")


@SCANNING
def test_a_program_on_musl(build: Build, start: Start, leakline: Leakline, command: list[str]) -> None:
    program = start(build("kinds.c", compiler="musl-gcc"), HOLD="1")
    check_not_supported(leakline, command, program.pid, "musl")


@SCANNING
def test_a_program_with_jemalloc(build: Build, start: Start, leakline: Leakline, command: list[str]) -> None:
    libraries = sorted(Path("/usr/lib").glob("*/libjemalloc.so.2"))
    if not libraries:
        pytest.skip("libjemalloc2 is not installed")
    program = start(build("loses.c"), LD_PRELOAD=str(libraries[0]))
    check_not_supported(leakline, command, program.pid, "jemalloc")


@COMMANDS
def test_a_target_that_ends_half_way(build: Build, leakline: Leakline, command: list[str]) -> None:
    program = subprocess.Popen([build("loses.c")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    ours = subprocess.Popen(
        [sys.executable, "-m", "leakline", *command, "--json", "-q", str(program.pid)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(0.6)
    program.kill()
    program.communicate()
    out, err = ours.communicate(timeout=60)
    # A scan may have been done by then; whatever takes longer finds nobody there.
    assert ours.returncode in ((0, 4) if command[0] == "scan" else (4,)), err
    assert "Traceback" not in err
    assert ours.returncode == 0 or json.loads(err)["error"]["type"] == "TargetGone"
    assert ours.returncode == 4 or json.loads(out)["findings"] is not None


def test_a_stripped_program_names_module_and_build_id(build: Build, start: Start, leakline: Leakline, needs_bpf: None) -> None:
    program = start(build("loses.c", "-O1", "-s"))
    result = leakline("trace", program.pid, "-d", "2", "--json")
    (finding,) = [f for f in result.json["findings"] if f["kind"] == "definite"]
    frame = finding["stack"][0]
    assert (finding["location"]["line"], frame["function"], frame["module"]) == (None, None, Path(str(program.args[0])).name)  # type: ignore[index]
    assert len(frame["build_id"]) == 40
    text = leakline("trace", program.pid, "-d", "1").out
    assert f"{frame['module']}+{frame['address']:#x}" in text


def test_a_program_that_was_replaced_on_disk(
    build: Build, start: Start, leakline: Leakline, tmp_path: Path, needs_bpf: None
) -> None:
    copy = tmp_path / "service"
    shutil.copy(build("loses.c"), copy)
    program = start(copy)
    copy.unlink()
    shutil.copy("/bin/true", copy)
    report = leakline("trace", program.pid, "-d", "1", "--json").json
    (finding,) = [f for f in report["findings"] if f["kind"] == "definite"]
    assert finding["location"]["function"] == "lose"


def test_a_hostile_name(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    copy = tmp_path / "a\x1b[31m\n) R <b>"
    shutil.copy(build("kinds.c"), copy)
    program = start(copy, HOLD="1")
    result = leakline("scan", program.pid)
    assert "\x1b" not in result.out + result.err
    report = leakline("scan", program.pid, "--json").json
    assert report["target"]["command"] == "a\x1b[31m\n) R <b>"[:15]
    assert report["summary"]["definite"]["blocks"] == 20


def test_a_name_that_is_not_utf8(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    copy = os.fsencode(tmp_path) + b"/\xff\xfe"
    shutil.copy(os.fsencode(build("kinds.c")), copy)
    program = start(os.fsdecode(copy), HOLD="1")
    assert leakline("scan", program.pid, "--json").json["target"]["command"] == "\\xff\\xfe"


def test_privileges_are_dropped_in_these_tests() -> None:
    done = subprocess.run([*UNPRIVILEGED, "grep", "CapEff", "/proc/self/status"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1].strip("0") == "" or os.geteuid() != 0
