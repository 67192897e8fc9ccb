"""Our rules for call frames against readelf's, over whole libraries."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest

from leakline.formats.eh_frame import RBP, RSP
from leakline.formats.elf import Elf

_FDE = re.compile(r"^[0-9a-f]+ [0-9a-f]+ [0-9a-f]+ FDE cie=[0-9a-f]+ pc=([0-9a-f]+)\.\.([0-9a-f]+)")
_ROW = re.compile(r"^([0-9a-f]{16}) (\S+)\s+(.*)$")


def rows(library: Path) -> list[tuple[int, int, str, dict[str, str]]]:
    """(from, to, CFA, other columns) of every row that readelf interprets."""
    command = ["readelf", "--debug-dump=frames-interp", "--wide", str(library)]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found: list[tuple[int, int, str, dict[str, str]]] = []
    columns: list[str] = []
    end = 0
    pending: list[tuple[int, str, dict[str, str]]] = []
    for line in [*output.splitlines(), "00 00 00 FDE cie=00 pc=0..0"]:
        fde = _FDE.match(line)
        if fde or line.startswith("Contents") or " CIE " in line:
            starts = [start for start, _, _ in pending]
            for (start, cfa, cells), following in zip(pending, [*starts[1:], end], strict=False):
                found.append((start, following, cfa, cells))
            pending = []
            end = int(fde[2], 16) if fde else 0
            columns = []
        elif line.strip().startswith("LOC"):
            columns = line.split()[2:]
        elif end and (row := _ROW.match(line)):
            pending.append(
                (int(row[1], 16), row[2], dict(zip(columns, re.sub(r"r\d+ \(\w+\)", "register", row[3]).split(), strict=False)))
            )
    return found


@pytest.mark.parametrize("name", ["libc.so.6", "libstdc++.so.6", "libcrypto.so.3"])
def test_the_same_rules_as_readelf(name: str) -> None:
    library = next(iter(sorted(Path("/usr/lib").glob(f"*-linux-gnu/{name}"))), None)
    if library is None:
        pytest.skip(f"{name} is not installed")
    sample = random.Random(3).sample(found := rows(library), min(3000, len(found)))
    assert len(sample) == 3000
    compared = 0
    with Elf.open(str(library), name) as elf:
        table = elf.frame_table()
        assert table is not None
        for start, end, cfa, cells in sample:
            if end <= start:
                continue
            rule = table.rule(end - 1)
            match = re.fullmatch(r"(rsp|rbp)\+(\d+)", cfa)
            rbp = cells.get("rbp", "u")
            plain = match is not None and re.fullmatch(r"u|c-\d+", rbp) is not None and cells.get("ra") == "c-8"
            if not plain or match is None:
                assert rule is None, f"{end - 1:#x}: {cfa} {cells}"
                continue
            assert rule is not None, f"{end - 1:#x}: {cfa} {cells}"
            assert rule.register == (RSP if match[1] == "rsp" else RBP)
            assert rule.offset == int(match[2])
            assert rule.rbp_offset == (None if rbp == "u" else int(rbp[1:]))
            compared += 1
    assert compared > 2500
