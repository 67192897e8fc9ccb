from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema

from leakline.sources.maps import parse_smaps_rollup
from tests.conftest import Build, Leakline, Start


def maps_of(leakline: Leakline, pid: int, *more: object) -> dict[str, Any]:
    found: dict[str, Any] = leakline("maps", pid, "--json", *more).json
    jsonschema.validate(found, json.loads((Path(__file__).parents[2] / "docs/schemas/maps-1.json").read_text()))
    return found


def test_kinds_of_an_ordinary_program(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("arenas.c"))
    table = maps_of(leakline, program.pid)
    kinds = {v["kind"] for v in table["vmas"]}
    assert {"text", "rodata", "data", "heap", "stack", "anon", "vdso", "malloc arena", "thread stack", "guard"} <= kinds
    stacks = [v for v in table["vmas"] if v["kind"] == "thread stack"]
    assert {v["tid"] for v in stacks} == {int(t.name) for t in Path(f"/proc/{program.pid}/task").iterdir()} - {program.pid}
    assert len([v for v in table["vmas"] if v["kind"] == "malloc arena"]) == 4
    with open(f"/proc/{program.pid}/smaps_rollup", "rb") as file:
        truth = parse_smaps_rollup(file.read())
    assert (table["totals"]["rss"], table["totals"]["uss"]) == (truth.rss, truth.uss)
    size = next(line for line in Path(f"/proc/{program.pid}/status").read_text().splitlines() if line.startswith("VmSize"))
    assert table["totals"]["size"] == int(size.split()[1]) * 1024


def test_memory_of_every_other_kind(leakline: Leakline, tmp_path: Path) -> None:
    odd = tmp_path / "10 kB (deleted)"
    odd.write_bytes(b"x" * 8192)
    code = (
        "import mmap,os,sys,time\n"
        "keep=[mmap.mmap(-1,8192)]\n"
        "fd=os.memfd_create('a\\nb'); os.ftruncate(fd,8192); keep.append(mmap.mmap(fd,8192))\n"
        "f=open(sys.argv[1],'r+b'); keep.append(mmap.mmap(f.fileno(),0))\n"
        "keep.append(mmap.mmap(-1,4096,flags=mmap.MAP_PRIVATE|mmap.MAP_ANONYMOUS,prot=mmap.PROT_READ|mmap.PROT_WRITE|mmap.PROT_EXEC))\n"
        "[m.__setitem__(0,1) for m in keep]\nprint('x',flush=True)\ntime.sleep(60)"
    )
    program = subprocess.Popen([sys.executable, "-c", code, str(odd)], stdout=subprocess.PIPE)
    try:
        assert program.stdout is not None
        program.stdout.readline()
        table = maps_of(leakline, program.pid)
        by_path = {v["path"]: v for v in table["vmas"]}
        assert by_path["/dev/zero (deleted)"]["kind"] == "shmem"
        assert by_path["/memfd:a\nb (deleted)"]["kind"] == "memfd"
        assert by_path[str(odd)]["kind"] == "file"
        assert any(v["kind"] == "jit" for v in table["vmas"])
        assert "a\\x0ab" in leakline("maps", program.pid).out
        groups = maps_of(leakline, program.pid, "--by", "kind")["groups"]
        assert sum(g["rss"] for g in groups) == table["totals"]["rss"]
        file = by_path[str(odd)]
        only = maps_of(leakline, program.pid, "--range", f"{file['start']:x}")["vmas"]
        assert [v["path"] for v in only] == [str(odd)]
    finally:
        program.kill()
        program.communicate()


def test_wrong_requests(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("kinds.c"), HOLD="1")
    assert "neither" in leakline("maps", program.pid, "--range", "here", status=2).err
    leakline("maps", 4_000_000, status=4)
    leakline("maps", 2, status=5)
    text = leakline("maps", program.pid, "--totals", "--columns", "+flags", "--sort", "rss")
    assert "grows down" in text.out
    assert "that vm.max_map_count allows" in text.err
