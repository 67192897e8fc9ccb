from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import NotPossible, ParseError
from leakline.sources.cgroupfs import parse_numbers, read_cgroups
from leakline.sources.machine import Machine


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)


def machine(root: Path) -> Machine:
    (root / "proc").mkdir(exist_ok=True)
    return Machine(proc=root / "proc", sys=root / "sys", live=False)


def test_version_2(tmp_path: Path) -> None:
    root = tmp_path / "sys/fs/cgroup"
    write(root, {"cgroup.controllers": "cpu memory pids\n", "memory.stat": "anon 100\nfile 50\nkernel 7\nsock 3\nfile_mapped 20\n"})
    write(
        root / "web.slice",
        {
            "memory.current": "1000\n",
            "memory.max": "max\n",
            "memory.swap.current": "5\n",
            "memory.stat": "anon 600\nfile 200\nkernel 100\nshmem 150\nfile_mapped 50\n",
            "memory.events": "low 0\nhigh 3\nmax 2\noom 1\noom_kill 1\n",
        },
    )
    write(root / "no-controller", {"cgroup.procs": ""})
    top, web = sorted(read_cgroups(machine(tmp_path), {"/web.slice": 2, "/": 1}), key=lambda group: group.path)
    assert (top.path, top.version, top.usage, top.processes) == ("/", 2, 160, 3)
    assert (web.path, web.usage, web.limit, web.swap, web.kernel) == ("/web.slice", 1000, None, 5, 100)
    assert (web.unmapped, web.unexplained) == (150, 100)
    assert (web.high_events, web.max_events, web.oom_kills, web.processes) == (3, 2, 1, 2)


def test_version_1_beside_a_version_2_without_the_controller(tmp_path: Path) -> None:
    base = tmp_path / "sys/fs/cgroup"
    write(base / "unified", {"cgroup.controllers": "\n"})
    write(
        base / "memory/app",
        {
            "memory.usage_in_bytes": "5000\n",
            "memory.limit_in_bytes": "8000\n",
            "memory.failcnt": "9\n",
            "memory.kmem.usage_in_bytes": "400\n",
            "memory.stat": "cache 1\ntotal_cache 1000\ntotal_rss 3000\ntotal_shmem 200\ntotal_mapped_file 300\ntotal_swap 10\n",
            "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
        },
    )
    write(base / "memory", {"memory.usage_in_bytes": "6000\n", "memory.limit_in_bytes": "9223372036854771712\n"})
    top, app = sorted(read_cgroups(machine(tmp_path), {}), key=lambda group: group.path)
    assert (top.limit, top.anon, top.unmapped) == (None, None, None), "unknown is not 0"
    assert (app.version, app.limit, app.anon, app.file, app.kernel, app.unmapped, app.unexplained) == (
        1,
        8000,
        3000,
        1000,
        400,
        700,
        600,
    )
    assert (app.max_events, app.oom_kills) == (9, 4)


def test_without_the_controller(tmp_path: Path) -> None:
    write(tmp_path / "sys/fs/cgroup", {"cgroup.controllers": "cpu\n"})
    with pytest.raises(NotPossible):
        read_cgroups(machine(tmp_path), {})


@given(st.binary(max_size=200))
def test_hostile_numbers(data: bytes) -> None:
    try:
        parse_numbers(data, "memory.stat")
    except ParseError:
        return
