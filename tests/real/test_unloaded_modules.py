"""Stacks through libraries that the program has unloaded since."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TARGETS, Build, Leakline, Start

SOURCE = TARGETS / "entry_library.c"


@pytest.fixture
def libraries(tmp_path: Path) -> list[Path]:
    """Two that differ in a name only, so that they are loaded to the same place, one after the other."""
    made = []
    for name in ("first", "other"):
        made.append(tmp_path / f"lib{name}.so")
        options = ["-g", "-O1", "-shared", "-fPIC", "-Wl,--build-id", f"-DNAME={name}"]
        subprocess.run(["gcc", *options, str(SOURCE), "-o", str(made[-1])], check=True)
    return made


def stacks(report: Any) -> dict[tuple[str, ...], int]:
    """Blocks by the functions of their stacks, up to main."""
    found = {}
    for finding in report["findings"]:
        if finding["kind"] == "definite":
            names = [frame["function"] or "-" for frame in finding["stack"]]
            found[tuple(names[: names.index("main")])] = finding["blocks"]
    return found


def test_each_is_named_at_the_end(build: Build, leakline: Leakline, libraries: list[Path], tmp_path: Path) -> None:
    first, other = libraries
    out = tmp_path / "report.json"
    leakline("run", "-o", out, "--json", "--", build("plugins.c"), first, other, first, other, other)
    report = json.loads(out.read_text())
    assert stacks(report) == {("first", "entry", "use"): 2, ("other", "entry", "use"): 3}
    line = next(n for n, text in enumerate(SOURCE.read_text().splitlines(), 1) if "malloc" in text)
    assert {(f["location"]["file"], f["location"]["line"]) for f in report["findings"]} == {(str(SOURCE), line)}
    assert {frame["module"] for f in report["findings"] for frame in f["stack"][:1]} == {"libfirst.so", "libother.so"}


def hold(start: Start, program: Path, libraries: list[Path]) -> int:
    """Start it under the agent; it waits when all libraries are unloaded: its process."""
    running = start(
        sys.executable, "-m", "leakline", "run", "-o", "/dev/null", "-f", "--", str(program), *map(str, libraries), HOLD="1"
    )
    return int(Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()[0])


def test_named_while_it_runs(build: Build, start: Start, leakline: Leakline, libraries: list[Path]) -> None:
    """The last one went unnoticed by the agent, as nothing was loaded since."""
    pid = hold(start, build("plugins.c"), [*libraries, libraries[1]])
    report = leakline("check", pid, "--json", status=None).json
    os.kill(pid, signal.SIGTERM)
    assert stacks(report) == {("first", "entry", "use"): 1, ("other", "entry", "use"): 2}


def test_another_file_by_now(build: Build, start: Start, leakline: Leakline, libraries: list[Path]) -> None:
    """Its names would be those of other code."""
    first, other = libraries
    pid = hold(start, build("plugins.c"), [first])
    first.unlink()
    other.rename(first)
    result = leakline("check", pid, "--json", status=None)
    os.kill(pid, signal.SIGTERM)
    assert stacks(result.json) == {("-", "-", "use"): 1}
    (finding,) = result.json["findings"]
    assert finding["stack"][0]["module"] == "libfirst.so"
    assert "libfirst.so: its file was replaced or deleted" in result.err


def test_without_a_build_id(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    library = tmp_path / "libplain.so"
    options = ["-g", "-O1", "-shared", "-fPIC", "-Wl,--build-id=none", "-DNAME=plain"]
    subprocess.run(["gcc", *options, str(SOURCE), "-o", str(library)], check=True)
    pid = hold(start, build("plugins.c"), [library])
    result = leakline("check", pid, "--json", status=None)
    os.kill(pid, signal.SIGTERM)
    assert stacks(result.json) == {("plain", "entry", "use"): 1}
    assert "no build-id" in result.err
