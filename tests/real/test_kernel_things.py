"""Things made from user space that look like kernel leaks: the counter that they move grows, and their maker is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest

from tests.conftest import TARGETS, Leakline, Start, needs_root

SCHEMA = Path(__file__).parents[2] / "docs/schemas/kernel-1.json"


class Case(NamedTuple):
    kind: str
    rate: int
    """Things a second."""
    counters: tuple[str, ...]
    """One of them must grow and name the maker: the kernel's own names, or their aliases."""
    what: str


CASES = (
    Case("pipe", 1000, ("slab:kmalloc-cg-1k", "slab:kmalloc-1k"), "pipe end"),
    Case("filled_pipe", 150, ("unexplained",), "pipe end"),
    Case("eventfd", 3000, ("slab:filp",), "eventfd"),
    Case("unix", 750, ("slab:UNIX", "slab:UNIX-STREAM"), "UNIX socket"),
    Case("tcp", 750, ("slab:TCP",), "TCP socket"),
    Case("unread_tcp", 12, ("unexplained",), "TCP socket"),
    Case("udp", 1250, ("slab:UDP",), "UDP socket"),
    Case("packet_ring", 16, ("unexplained",), "PACKET socket"),
    Case("epoll_item", 2500, ("slab:eventpoll_epi",), "epoll item"),
    Case("inotify_mark", 2500, ("slab:inotify_inode_mark",), "inotify mark"),
    Case("page_table", 500, ("meminfo:PageTables",), "page of page tables"),
    Case("memfd", 12, ("meminfo:Shmem",), "memfd"),
    Case("unlinked_file", 12, ("meminfo:Shmem",), "unlinked file in memory"),
    Case("shared_memory", 12, ("meminfo:Shmem",), "SysV shared memory"),
    Case("timer", 2000, ("slab:posix_timers_cache",), "POSIX timer"),
    Case("bpf_map", 6, ("meminfo:VmallocUsed",), "BPF map"),
    Case("bpf_percpu_map", 12, ("meminfo:Percpu",), "BPF map"),
    Case("bpf_element", 12000, ("slab:kmalloc-cg-128", "slab:kmalloc-128"), "BPF map"),
    Case("network_namespace", 9, ("slab:proc_dir_entry", "slab:kernfs_node_cache"), "network namespace"),
    Case("zombie", 180, ("slab:task_struct",), "zombie child"),
    Case("thread", 120, ("meminfo:KernelStack",), "thread"),
    Case("lock", 2000, ("slab:file_lock_cache",), "file lock"),
    Case("mapping", 3000, ("slab:vm_area_struct",), "mapping"),
    Case("mount", 240, ("slab:mnt_cache", "slab:kmalloc-2k"), "mount in its namespace"),
    Case("perf_ring", 36, ("unexplained",), "perf event"),
    Case("io_uring", 60, ("slab:kmalloc-1k", "slab:kmalloc-2k", "unexplained"), "io_uring"),
)
QUICK = CASES[:1]


def _watch(seconds: float) -> subprocess.Popen[str]:
    """Leakline, which has counted everything when this returns."""
    command = [sys.executable, "-m", "leakline", "kernel", "-i", "0.25s", "-d", f"{seconds}s", "--json"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stderr is not None
    assert "watching" in watching.stderr.readline()
    return watching


def _report(watching: subprocess.Popen[str]) -> Any:
    out, err = watching.communicate(timeout=120)
    assert watching.returncode == 0, err
    report = json.loads(out)
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    return report


def _names(growth: Any) -> set[str]:
    return {growth["counter"], *(f"slab:{alias}" for alias in growth["aliases"])}


def _grown(report: Any, case: Case) -> int:
    return max((growth["bytes"] for growth in report["growth"] if _names(growth) & set(case.counters)), default=0)


def _provoke(case: Case, start: Start, folder: Path) -> Any:
    """Make things and watch; once more where others kept the machine so busy that they came in fits and starts."""
    for attempt in ("first", "second"):
        (folder / attempt).mkdir()
        maker = start(sys.executable, str(TARGETS / "kernel_things.py"), case.kind, str(case.rate), str(folder / attempt))
        assert maker.stdin is not None
        watching = _watch(5.0)
        maker.stdin.write("go\n")
        maker.stdin.flush()
        report = _report(watching)
        maker.stdin.write("end\n")
        maker.stdin.flush()
        assert maker.wait(60) == 0
        if _grown(report, case):
            break
    grown = [growth for growth in report["growth"] if _names(growth) & set(case.counters)]
    assert grown, [(growth["counter"], growth["bytes"]) for growth in report["growth"]]
    owners = [owner for growth in grown for owner in growth["owners"] if owner["pid"] == maker.pid]
    assert case.what in {owner["what"] for owner in owners}, grown
    assert all(growth["rate_bytes_per_second"] > 0 for growth in grown)
    return report


@needs_root
@pytest.mark.alone
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.kind)
def test_who_makes_things_is_named(case: Case, start: Start, tmp_path: Path) -> None:
    _provoke(case, start, tmp_path)


@needs_root
@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_who_makes_things_is_named_and_nothing_after_they_are_gone(case: Case, start: Start, tmp_path: Path) -> None:
    during = _grown(_provoke(case, start, tmp_path), case)
    # Others may be at work on this machine; what was made is gone.
    assert _grown(_report(_watch(2.5)), case) < during / 4


@needs_root
@pytest.mark.slow
@pytest.mark.alone
def test_names_that_do_not_exist_fill_a_cache_that_is_no_leak(start: Start, tmp_path: Path) -> None:
    maker = start(sys.executable, str(TARGETS / "kernel_things.py"), "missing_name", "40000", str(tmp_path))
    assert maker.stdin is not None
    watching = _watch(5.0)
    maker.stdin.write("go\n")
    maker.stdin.flush()
    (dentries,) = [growth for growth in _report(watching)["growth"] if growth["counter"] == "slab:dentry"]
    assert dentries["reclaimable"]
    assert dentries["verdict"] != "LEAK"
    assert "reclaimable" in dentries["gates"]


@needs_root
@pytest.mark.slow
@pytest.mark.alone
def test_groups_that_were_removed_but_are_still_held(start: Start, tmp_path: Path) -> None:
    if not Path("/sys/fs/cgroup/memory/memory.usage_in_bytes").exists():
        pytest.skip("no control groups of version 1 here")
    case = Case("removed_group", 60, (), "")
    maker = start(sys.executable, str(TARGETS / "kernel_things.py"), case.kind, str(case.rate), str(tmp_path))
    assert maker.stdin is not None
    watching = _watch(5.0)
    maker.stdin.write("go\n")
    maker.stdin.flush()
    owners = [owner for growth in _report(watching)["growth"] for owner in growth["owners"]]
    held = [owner for owner in owners if owner["what"] == "control group that was removed, but is still held"]
    assert held
    assert all(owner["pid"] is None and owner["count"] >= 50 for owner in held)
    maker.stdin.write("end\n")
    maker.stdin.flush()
    assert maker.wait(60) == 0


@needs_root
@pytest.mark.slow
@pytest.mark.alone
def test_the_same_counters_are_watched_and_recorded(start: Start, leakline: Leakline, tmp_path: Path) -> None:
    maker = start(sys.executable, str(TARGETS / "kernel_things.py"), "tcp", "800", str(tmp_path))
    assert maker.stdin is not None
    maker.stdin.write("go\n")
    maker.stdin.flush()
    file, command = tmp_path / "kernel.leakline", tmp_path / "findings.json"
    recording = subprocess.Popen(
        [sys.executable, "-m", "leakline", "record", str(maker.pid), "--kernel", "-i", "0.25s", "-d", "6s", "-o", file]
    )
    watched = leakline("watch", "--kernel", "-i", "0.25s", "-d", "6s", "--json", "--exec", f"cat > {command}")
    assert recording.wait(60) == 0
    assert "slab:TCP  GROWING" in watched.err
    (finding,) = [f for f in watched.json["findings"] if f["subject"]["name"] == "slab:TCP"]
    assert finding["kind"] == "growing"
    assert any(e["method"] == "owner" and e["values"]["pid"] == maker.pid for e in finding["evidence"])
    assert json.loads(command.read_text())["target"] is None
    recorded = leakline("kernel", file, "--json").json
    jsonschema.validate(recorded, json.loads(SCHEMA.read_text()))
    assert "meminfo:VmallocUsed" not in {growth["counter"] for growth in recorded["growth"] if growth["bytes"] < 0}
    assert recorded["unexplained_bytes"] > 0
    assert recorded["samples"] >= 20
    names = {series["name"] for series in leakline("trend", file, "--all", "--json").json["series"]}
    assert {"meminfo unexplained", "slab TCP", "vmalloc kernel_clone"} <= names


@needs_root
def test_an_ordinary_user_hears_what_it_takes(unprivileged_leakline: Leakline) -> None:
    report = unprivileged_leakline("kernel", "-d", "0.5s", "-i", "0.25s", "--json").json
    assert report["unexplained_bytes"] > 0
    assert report["samples"] >= 2
    for source in ("tracepoints", "slab-traces", "kmemleak", "auto"):
        result = unprivileged_leakline("kernel", "--locate", "--source", source, "-d", "0.2s", status=None)
        assert result.status in (3, 5)
        assert result.out == ""
        assert "Traceback" not in result.err


@needs_root
def test_tables_and_one_look(leakline: Leakline) -> None:
    report = leakline("kernel", "-d", 0, "--slab", "--vmalloc", "--zones", "--buddy", "--json").json
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    assert report["samples"] == 1
    assert report["growth"] == []
    assert report["unexplained_growth"] is None
    assert {row["name"] for row in report["slabs"]} >= {"dentry"}
    assert report["buddy"]
    assert report["zones"]
    assert report["vmalloc"][0]["bytes"] > 0
    text = leakline("kernel", "-d", 0, "--slab", "--buddy").out
    assert "one look tells what there is, not what grows" in text
    assert "free blocks by order" in text


def test_what_makes_no_sense_is_refused(leakline: Leakline, tmp_path: Path) -> None:
    for arguments in (
        ("--counter", "slab:dentry"),
        ("--source", "kmemleak"),
        ("--locate", "--slab"),
        ("-i", "1ms"),
        ("--fail-on", "low"),
    ):
        assert leakline("kernel", *arguments, status=2).out == ""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 10 kB\nMemFree: 5 kB\n")
    assert leakline("kernel", "--locate", "--root", tmp_path, status=2).out == ""
    report = leakline("kernel", "--root", tmp_path, "--json").json
    assert (report["unexplained_bytes"], report["samples"]) == (5120, 1)
    assert any("slabinfo" in why for why in report["unreadable"])
