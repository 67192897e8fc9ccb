"""Scan after scan of a program that never rests and checks itself: nothing hangs, no signal is lost, no finding is false."""

from __future__ import annotations

import struct
import time
from collections import Counter
from pathlib import Path

import pytest

from leakline.session.scanning import Scanner
from leakline.sources.procfs import ProcFs
from tests.conftest import Build, Start

LOST, ERRORS, SENT, TAKEN = range(4)
USABLE = 1000  # malloc_usable_size of what the program loses


def tally(path: Path) -> tuple[int, ...]:
    return struct.unpack("<16Q", path.read_bytes()[:128])


@pytest.mark.parametrize("scans", [30, pytest.param(500, marks=pytest.mark.slow)])
def test_scans_of_a_storm(build: Build, start: Start, tmp_path: Path, scans: int) -> None:
    path = tmp_path / "tally"
    program = start(build("storm.c", "-g", "-O1"), str(path))
    scanner = Scanner(ProcFs(), program.pid)
    history: list[tuple[float, int]] = []
    began = time.monotonic()
    while len(history) < scans or time.monotonic() - began < 3:
        history.append((time.monotonic(), tally(path)[LOST]))
        scan = scanner.scan()
        most = tally(path)[LOST]
        least = max((lost for moment, lost in history if moment <= scan.time_ns / 1e9 - 1), default=0)
        sizes = Counter(block.size for block in scan.lost if block.kind == "definite")
        assert set(sizes) <= {USABLE}, "only what is lost is called so"
        assert least <= sizes[USABLE] <= most
        assert not scan.problems
    program.terminate()
    assert program.wait(30) == 0, f"it found errors, by kind (line * 1000 + errno): {tally(path)[7:]}"
    assert tally(path)[ERRORS] == 0
    assert tally(path)[SENT] == tally(path)[TAKEN] > 0
    assert tally(path)[LOST] > 100
