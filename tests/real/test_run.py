"""Programs that `leakline run` starts: what they lost, to the byte and the line, however they end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
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
    import os

    os.chown(program, 65534, 65534)
    program.chmod(0o4755)
    assert "setuid" in leakline("run", "--", program, status=5).err


def test_a_script_and_a_pipeline(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    report = report_of(leakline, tmp_path / "report.json", "sh", "-c", f"{build('ends.c')} | cat; exit 6", status=6)
    found = {child["target"]["command"][:4]: child["summary"]["definite"] for child in report["children"]}
    assert found["ends"] == {"bytes": 300, "blocks": 3}
    assert found["cat"] == {"bytes": 0, "blocks": 0}
