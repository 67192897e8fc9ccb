"""Programs under valgrind, AddressSanitizer and LeakSanitizer, in our own words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Build, Leakline


def report_of(leakline: Leakline, path: Path, engine: str, *command: object, status: int = 0, **options: Any) -> Any:
    leakline("run", "--engine", engine, "-o", path, "-f", "--json", "--", *command, status=status, **options)
    return json.loads(path.read_text())


@pytest.mark.parametrize("engine", ["valgrind", "lsan", "asan"])
def test_every_kind(build: Build, leakline: Leakline, tmp_path: Path, engine: str) -> None:
    flags = ("-g", "-O0", "-fsanitize=address") if engine == "asan" else ("-g", "-O0")
    report = report_of(leakline, tmp_path / "report.json", engine, build("kinds.c", *flags))
    summary = report["summary"]
    assert summary["definite"] == {"bytes": 2000, "blocks": 20}
    assert summary["indirect"] == {"bytes": 8000, "blocks": 40}
    assert summary["possible"] == ({"bytes": 1500, "blocks": 5} if engine == "valgrind" else None)
    finding = report["findings"][0]
    assert (finding["location"]["function"], Path(finding["location"]["file"]).name) == ("lose_list", "kinds.c")
    assert finding["confidence"] == "high"
    assert report["bytes_are"] == "requested"


@pytest.mark.parametrize("engine", ["valgrind", "lsan"])
def test_nothing_lost_and_the_programs_own_status(build: Build, leakline: Leakline, tmp_path: Path, engine: str) -> None:
    clean = report_of(leakline, tmp_path / "report.json", engine, "/bin/sh", "-c", "exit 7", status=7)
    assert clean["summary"]["definite"] == {"bytes": 0, "blocks": 0}
    leaking = report_of(leakline, tmp_path / "report.json", engine, build("ends.c"), "abort", status=128 + signal.SIGABRT)
    assert leaking["target"]["command"].startswith("ends")


def test_children_of_valgrind(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    report = report_of(leakline, tmp_path / "report.json", "valgrind", build("ends.c"), "fork", status=5)
    (child,) = report["children"]
    assert (report["summary"]["definite"]["blocks"], child["summary"]["definite"]["blocks"]) == (3, 5)


def test_options_of_the_user_stay(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    suppressions = tmp_path / "suppressions"
    suppressions.write_text("leak:lose_list\n")
    environment = {**os.environ, "LSAN_OPTIONS": f"suppressions={suppressions}:print_suppressions=0"}
    report = report_of(leakline, tmp_path / "report.json", "lsan", build("kinds.c"), env=environment)
    assert report["summary"]["definite"] == {"bytes": 0, "blocks": 0}
    valgrind = tmp_path / "valgrind.supp"
    valgrind.write_text("{\n   ours\n   Memcheck:Leak\n   fun:malloc\n   fun:lose_list\n}\n")
    path = tmp_path / "report.json"
    options = ("--engine", "valgrind", "--valgrind-option", f"--suppressions={valgrind}", "-o", path, "-f", "--json")
    leakline("run", *options, "--", build("kinds.c"))
    assert json.loads(path.read_text())["summary"]["definite"]["blocks"] == 0
    assert "goes with" in leakline("run", "--valgrind-option", "-v", "--", "/bin/true", status=2).err


def test_what_cannot_be_checked(build: Build, leakline: Leakline) -> None:
    done = leakline("run", "--engine", "asan", "--", build("kinds.c"), status=5)
    assert "-fsanitize=address" in done.err
    assert done.out == "", "it was not started"
    assert "cannot start" in leakline("run", "--engine", "lsan", "--", "/nonexistent", status=127).err


def test_errors_that_are_no_leaks_are_counted(tmp_path: Path, leakline: Leakline) -> None:
    source = tmp_path / "bad.c"
    source.write_text("#include <stdlib.h>\nint main(void) { int *p = calloc(1, 4); free(p); return *p; }\n")
    subprocess.run(["gcc", "-g", "-w", "-o", tmp_path / "bad", source], check=True)
    report = report_of(leakline, tmp_path / "report.json", "valgrind", tmp_path / "bad")
    assert "1 errors that are no leaks" in report["not_judged"][0]["why"]
