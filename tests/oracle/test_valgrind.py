"""Valgrind memcheck says what is lost at the end; a scan of the same program, held there, must say the same."""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.conftest import Build, Leakline, Start, assert_unharmed

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
