"""Programs that `leakline run` starts: what they lost, to the byte and the line, however they end."""

from __future__ import annotations

import json
import os
import pty
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Build, Leakline, needs_root


def report_of(leakline: Leakline, path: Path, *command: object, status: int | None = 0, options: tuple[str, ...] = ()) -> Any:
    leakline("run", *options, "-o", path, "-f", "--json", "--", *command, status=status)
    return json.loads(path.read_text())


def test_every_kind_with_its_line(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    report = report_of(leakline, tmp_path / "report.json", build("kinds.c"))
    assert report["bytes_are"] == "requested"
    assert report["summary"]["definite"] == {"bytes": 20 * 100, "blocks": 20}
    assert report["summary"]["indirect"] == {"bytes": 40 * 200, "blocks": 40}
    assert report["summary"]["possible"] == {"bytes": 5 * 300, "blocks": 5}
    (finding,) = [f for f in report["findings"] if f["kind"] == "definite"]
    assert (finding["confidence"], finding["location_is"]) == ("high", "recorded")
    assert finding["location"]["function"] == "lose_list"
    source = (Path(__file__).parents[1] / "targets/kinds.c").read_text().splitlines()
    assert "first = malloc(100)" in source[finding["location"]["line"] - 1]
    assert [frame["function"] for frame in finding["stack"]][:2] == ["lose_list", "main"]
    assert report["not_judged"] == []


@pytest.mark.parametrize(
    ("how", "status"),
    [("return", 0), ("_exit", 3), ("quick_exit", 4), ("abort", 128 + signal.SIGABRT), ("thread", 0), ("closed", 0)],
)
def test_each_way_to_end(build: Build, leakline: Leakline, tmp_path: Path, how: str, status: int) -> None:
    report = report_of(leakline, tmp_path / "report.json", build("ends.c"), how, status=status)
    assert report["summary"]["definite"] == {"bytes": 300, "blocks": 3}
    assert report["children"] == []


def test_what_an_exit_handler_lets_go_is_lost(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    report = report_of(leakline, tmp_path / "report.json", build("ends.c"), "atexit")
    assert report["summary"]["definite"] == {"bytes": 600, "blocks": 4}


def test_an_end_without_a_word_is_said(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    report = report_of(leakline, tmp_path / "report.json", build("ends.c"), "killed", status=128 + signal.SIGKILL)
    assert report["summary"]["definite"] is None
    assert "signal" in report["not_judged"][0]["why"]


@pytest.mark.parametrize(("how", "lost"), [("lose", {"bytes": 220, "blocks": 2}), ("keep", {"bytes": 0, "blocks": 0})])
def test_behind_what_was_asked_for_is_nothing(build: Build, leakline: Leakline, tmp_path: Path, how: str, lost: Any) -> None:
    """But for a program that asks malloc_usable_size(3) how much it got."""
    report = report_of(leakline, tmp_path / "report.json", build("recycled.c"), how)
    assert (report["summary"]["definite"], report["summary"]["indirect"]["blocks"]) == (lost, 0)


@pytest.mark.parametrize("library", ["libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libmimalloc.so.2.0"])
def test_other_allocators(build: Build, leakline: Leakline, tmp_path: Path, library: str) -> None:
    """Only what was not freed is known; none of it is called lost."""
    program = build("kinds.c", f"-l:{library}", "-Wl,--no-as-needed", f"-l:{library}")
    report = report_of(leakline, tmp_path / "report.json", program)
    found = [f for f in report["findings"] if (f["location"] or {}).get("function") == "lose_list"]
    assert {f["kind"] for f in report["findings"]} == {"outstanding"}
    assert (sum(f["blocks"] for f in found), sum(f["bytes"] for f in found)) == (60, 20 * 100 + 40 * 200)
    assert report["summary"]["definite"] is None
    assert report["bytes_are"] == "requested"
    assert any(library.split(".")[0] in gap["why"] for gap in report["not_judged"])


def test_little_address_space(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    """A table of blocks instead of the shadow: loss is proved all the same."""
    path = tmp_path / "report.json"
    report = report_of(leakline, path, "sh", "-c", 'ulimit -v 500000; exec "$@"', "sh", build("kinds.c"))
    assert report["summary"]["definite"] == {"bytes": 20 * 100, "blocks": 20}
    assert next(f for f in report["findings"] if f["kind"] == "definite")["location"]["function"] == "lose_list"


def test_children_report_too(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report = report_of(leakline, path, build("ends.c"), "fork", status=5)
    (child,) = report["children"]
    assert report["summary"]["definite"]["blocks"] == 3
    assert child["summary"]["definite"]["blocks"] == 5, "it has its parent's heap"
    report = report_of(leakline, path, build("ends.c"), "exec")
    (child,) = report["children"]
    assert child["summary"]["definite"]["blocks"] == 3
    assert report_of(leakline, path, build("ends.c"), "fork", status=5, options=("--follow-fork", "exec"))["children"] == []
    assert len(report_of(leakline, path, build("ends.c"), "exec", options=("--follow-fork", "exec"))["children"]) == 1
    assert report_of(leakline, path, build("ends.c"), "exec", options=("--follow-fork", "none"))["children"] == []


def test_input_output_and_environment_stay_the_programs(leakline: Leakline, tmp_path: Path) -> None:
    script = "import os, sys; print(sys.stdin.read().upper()); print(len(os.listdir('/proc/self/fd'))); sys.exit(9)"
    plain = subprocess.run([sys.executable, "-c", script], input="abc", capture_output=True, text=True, check=False)
    done = leakline(
        "run", "--follow-fork", "all", "-q", "-o", tmp_path / "report", "--", sys.executable, "-c", script, input="abc", status=9
    )
    assert done.out == plain.stdout
    assert done.err == ""


def test_the_report_goes_to_stderr(build: Build, leakline: Leakline) -> None:
    done = leakline("run", "--", build("kinds.c"))
    assert done.out == "READY\n"
    assert "leaks at" in done.err
    assert "kinds.c" in done.err
    assert "at the program's end no root led to" in done.err
    assert leakline("run", "-q", "--findings-exit", "77", "--", build("kinds.c"), status=77).out == "READY\n"
    assert leakline("run", "-q", "--findings-exit", "77", "--", "/bin/true").out == ""


def test_what_takes_no_agent(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    assert "statically linked" in leakline("run", "--", build("kinds.c", "-static"), status=5).err
    assert "cannot start" in leakline("run", "--", "/nonexistent", status=127).err
    assert "cannot start" in leakline("run", "--", "/etc/passwd", status=126).err
    assert "no command" in leakline("run", status=2).err
    assert "--output" in leakline("run", "--json", "--", "/bin/true", status=2).err
    (tmp_path / "report").touch()
    assert "exists" in leakline("run", "-o", tmp_path / "report", "--", "/bin/true", status=2).err


@needs_root
def test_a_setuid_program(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    program = tmp_path / "setuid"
    program.write_bytes(build("kinds.c").read_bytes())

    os.chown(program, 65534, 65534)
    program.chmod(0o4755)
    assert "setuid" in leakline("run", "--", program, status=5).err


def test_a_script_and_a_pipeline(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    report = report_of(leakline, tmp_path / "report.json", "sh", "-c", f"{build('ends.c')} | cat; exit 6", status=6)
    found = {child["target"]["command"][:4]: child["summary"]["definite"] for child in report["children"]}
    assert found["ends"] == {"bytes": 300, "blocks": 3}
    assert found["cat"] == {"bytes": 0, "blocks": 0}


@pytest.mark.parametrize("follow", ["all", pytest.param("exec", marks=pytest.mark.slow), "none"])
def test_nobody_sees_the_agent_in_an_environment(build: Build, leakline: Leakline, tmp_path: Path, follow: str) -> None:
    path, program = tmp_path / "report.json", build("starts.c")
    environment = {"PATH": os.environ["PATH"], "LD_PRELOAD": "libm.so.6", "EMPTY": "", "LINES": "a\nb='c'"}
    bare = subprocess.run([program, program], capture_output=True, text=True, env=environment, check=True)
    done = leakline("run", "--follow-fork", follow, "-q", "-o", path, "--", program, program, env=environment)
    assert done.out == bare.stdout
    assert "it's sh" in bare.stdout
    assert "pages of 4096" in bare.stdout
    children = json.loads(path.read_text())["children"]
    assert [child["not_judged"] for child in children] == [[]] * len(children)
    commands = [child["target"]["command"][:6] for child in children]
    assert sorted(commands) == ([] if follow == "none" else ["sh"] * 2 + ["starts"] * 12)


def test_what_takes_no_agent_sees_no_trace_of_it(build: Build, leakline: Leakline) -> None:
    static = build("starts.c", "-static")
    assert "LEAKLINE" not in leakline("run", "-q", "--", "sh", "-c", f"{static}; exit 0").out
    assert leakline("run", "-q", "--", "env", env={"PATH": os.environ["PATH"]}).out == f"PATH={os.environ['PATH']}\n"


def test_one_process_after_another(leakline: Leakline, tmp_path: Path) -> None:
    """A program that makes way for another stays the one that was started, whatever is followed."""
    report = report_of(leakline, tmp_path / "report.json", "env", "A=1", "sh", "-c", "exec true", options=("--follow-fork", "none"))
    assert (report["target"]["command"], report["children"], report["not_judged"]) == ("true", [], [])


def test_descriptors_are_handed_on(leakline: Leakline, tmp_path: Path) -> None:
    read, write = os.pipe()
    leakline("run", "-q", "--", sys.executable, "-c", f"import os; os.write({write}, b'hello')", pass_fds=(write,))
    os.close(write)
    with os.fdopen(read) as said:
        assert said.read() == "hello"
    script = tmp_path / "script"
    script.write_text("echo $1; exit 4")
    script.chmod(0o755)
    assert leakline("run", "-q", "--", script, "no format", status=4).out == "no format\n"


def test_signals_for_leakline_are_the_programs(leakline: Leakline) -> None:
    script = "trap 'echo heard; exit 9' TERM; echo $PPID; while :; do sleep 0.05; done"
    command = [sys.executable, "-m", "leakline", "run", "-q", "-o", "/dev/null", "-f", "--", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert int(run.stdout.readline()) == run.pid
        run.send_signal(signal.SIGTERM)
        assert run.stdout.read() == "heard\n"
        assert run.wait(60) == 9
    ignoring = "import os, signal, sys; signal.signal(2, signal.SIG_IGN); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    command = [
        sys.executable,
        "-c",
        ignoring,
        "-m",
        "leakline",
        "run",
        "-q",
        "-o",
        "/dev/null",
        "-f",
        "--",
        "grep",
        "SigIgn",
        "/proc/self/status",
    ]
    ignored = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(ignored[1], 16) & 1 << (signal.SIGINT - 1)


def test_findings_of_children_count(build: Build, leakline: Leakline) -> None:
    command = ("--", "sh", "-c", f"{build('kinds.c')} >/dev/null; exit 6")
    assert leakline("run", "-q", *command, status=6).err.count("leaks at") == 1
    assert leakline("run", "-q", "--findings-exit", "77", *command, status=77).out == ""
    leakline("run", "-q", "--fail-on", "high", *command, status=1)
    leakline("run", "-q", "--fail-on", "high", "--findings-exit", "78", *command, status=78)
    leakline("run", "-q", "--fail-on", "high", "--", "sh", "-c", "exit 6", status=6)


def test_a_stack_that_ends_says_so(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    report = report_of(leakline, tmp_path / "report.json", build("no_cfi.c"))
    (finding,) = [f for f in report["findings"] if f["kind"] == "definite"]
    assert [frame["function"] for frame in finding["stack"]] == ["lose", "bare"]
    assert (finding["blocks"], finding["location"]["function"]) == (4, "lose")
    (said,) = [e["text"] for e in finding["evidence"] if e["method"] == "stack"]
    assert "no call frame information" in said
    (whole,) = [f for f in report_of(leakline, tmp_path / "other.json", build("ends.c"))["findings"] if f["kind"] == "definite"]
    assert [e["method"] for e in whole["evidence"]] == ["scan", "trace"]


def test_what_it_costs(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    report = report_of(leakline, tmp_path / "report.json", build("kinds.c"))
    cost = report["cost"]
    assert cost["agent"]["allocations"] == cost["agent"]["memo_hits"] + cost["agent"]["memo_misses"]
    assert 60 + 12 <= cost["agent"]["allocations"] < 80
    assert cost["agent"]["memory_bytes"] > 4096
    assert 0 < cost["target_stopped_ns"] < cost["agent"]["held_at_end_ns"]
    text = leakline("run", "--", build("kinds.c")).err
    assert "stood still for" in text
    assert f"agent: {cost['agent']['allocations']} allocations" in text


@needs_root
@pytest.mark.parametrize("kind", ["setgid", "capabilities"])
def test_a_program_with_rights_of_its_own(build: Build, leakline: Leakline, tmp_path: Path, kind: str) -> None:
    program = tmp_path / "program"
    program.write_bytes(build("kinds.c").read_bytes())
    program.chmod(0o2755 if kind == "setgid" else 0o755)
    if kind == "setgid":
        os.chown(program, 0, 65534)
        program.chmod(0o2755)
        assert "setgid" in leakline("run", "--", program, status=5).err
        return
    try:  # struct vfs_cap_data (include/uapi/linux/capability.h), with CAP_NET_RAW
        os.setxattr(program, "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
    except OSError as error:
        pytest.skip(f"no capabilities of files: {error.strerror}")
    assert leakline("run", "-q", "--", program).out == "READY\n"  # root gains nothing by them


def test_keys_of_a_terminal_are_for_the_program() -> None:
    script = """
import sys, time
for turn in range(2):
    try:
        print("READY", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("heard", flush=True)
sys.exit(7)
"""
    terminal, theirs = pty.openpty()
    command = ["setsid", "--ctty", sys.executable, "-m", "leakline", "run", "-n", "1", "--", sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as run:
        os.close(theirs)
        said = listen_to(terminal)
    assert run.returncode == 7
    assert said.count(b"heard") == 2
    assert b"heap: definite" in said


def listen_to(terminal: int) -> bytes:
    """All that is said there, with Ctrl-C as the answer to each READY."""
    said = b""
    with suppress(OSError):  # the last one has closed it
        while data := os.read(terminal, 4096):
            if b"READY" in data:
                os.write(terminal, b"\x03")
            said += data
    os.close(terminal)
    return said
