"""Valgrind memcheck says what is lost at the end; a scan of the same program, held there, and `run` must say the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TARGETS, Build, Leakline, Start, assert_unharmed

KINDS = {
    "Leak_DefinitelyLost": "definite",
    "Leak_IndirectlyLost": "indirect",
    "Leak_PossiblyLost": "possible",
}


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.parametrize(
    "source",
    [
        ("kinds.c",),
        ("ended_threads.c",),
        ("churn.c",),
        ("interior.cpp",),
        ("interior.cpp", "-O2"),
        ("interior.cpp", "-O1", "-no-pie"),
    ],
)
def test_the_same_blocks_of_every_kind(
    build: Build, start: Start, leakline: Leakline, tmp_path: Path, source: tuple[str, ...]
) -> None:
    path = build(*source)
    report = tmp_path / "valgrind.xml"
    options = ["-q", "--leak-check=full", "--show-leak-kinds=all", "--xml=yes", f"--xml-file={report}"]
    subprocess.run(["valgrind", *options, str(path)], check=True, stdout=subprocess.DEVNULL)
    blocks = dict.fromkeys(KINDS.values(), 0)
    for error in ET.parse(report).getroot().iter("error"):
        kind = KINDS.get(error.findtext("kind") or "")
        if kind is not None:
            blocks[kind] += int(error.findtext("xwhat/leakedblocks") or 0)
    program = start(path, HOLD="1")
    summary = leakline("scan", program.pid, "--json").json["summary"]
    assert_unharmed(program)
    assert {kind: summary[kind]["blocks"] for kind in blocks} == blocks


def lost_at_end(leakline: Leakline, path: Path, engine: str, *command: object) -> Any:
    """The report of an engine of `run` about the program itself."""
    leakline("run", "--engine", engine, "--follow-fork", "none", "-q", "--json", "-o", path, "--", *command)
    report = json.loads(path.read_text())
    return report["summary"]["definite"], report["summary"]["indirect"], report["findings"]


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.parametrize("option", ["-O0", "-O2"])
@pytest.mark.parametrize("how", ["return", "exit", "_exit", "quick_exit", "handler", "thread", "register"])
def test_what_the_last_frames_hold(build: Build, leakline: Leakline, tmp_path: Path, how: str, option: str) -> None:
    """Frames that have returned hold nothing, those of who ends the program do, and so do the registers that it has kept."""
    program = build("leaves.c", "-g", option)

    def lost(engine: str) -> Any:
        definite, indirect, findings = lost_at_end(leakline, tmp_path / engine, engine, program, how)
        stacks = [f["stack"] for f in findings if f["kind"] == "definite"]
        lines = {next(frame["line"] for frame in stack if (frame["file"] or "").endswith("leaves.c")) for stack in stacks}
        return definite, indirect, lines

    assert lost("agent") == lost("valgrind")


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.parametrize(
    "command",
    [
        ("sort", __file__),
        ("tar", "cf", "/dev/null", Path(__file__).parent),
        ("gcc", "-E", TARGETS / "leaves.c"),
        ("perl", "-e", "my %h; $h{$_} = [1..10] for 1..1000; print scalar keys %h"),
        ("date",),
        ("grep", "-r", "main", TARGETS),
        ("bash", "-c", "for i in 1 2 3; do x[$i]=$i; done; echo ${x[@]}"),
    ],
    ids=lambda command: command[0],
)
def test_to_the_byte_what_valgrind_says_of_real_programs(leakline: Leakline, tmp_path: Path, command: tuple[object, ...]) -> None:
    found = [lost_at_end(leakline, tmp_path / engine, engine, *command)[:2] for engine in ("agent", "valgrind")]
    assert found[0] == found[1]
