"""What makes accounting stumble, made for real."""

from __future__ import annotations

import doctest
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import leakline as library
from tests.conftest import Build, Leakline, Program, Start, needs_root, status_of

MIB = 1 << 20
SIZE = 64 * MIB


def row_of(leakline: Leakline, pid: int, *arguments: object) -> dict[str, Any]:
    rows: list[dict[str, Any]] = leakline("ps", pid, "--json", *arguments).json["processes"]
    assert len(rows) == 1
    return rows[0]


def started(build: Build, start: Start, how: str) -> Program:
    return start(build("traps.c"), how)


def meminfo() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}


def test_lazily_freed_memory_is_still_resident_and_shown_apart(build: Build, start: Start, leakline: Leakline) -> None:
    row = row_of(leakline, started(build, start, "lazyfree").pid)
    assert row["lazy_free"] >= 0.95 * SIZE
    assert row["uss"] >= row["lazy_free"]


def test_parts_of_huge_pages_that_were_freed_stay_charged(build: Build, start: Start, leakline: Leakline) -> None:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[never]" in enabled.read_text():
        pytest.skip("transparent huge pages are off")
    before = unexplained_of_cgroup(leakline)
    program = started(build, start, "thp")
    row = row_of(leakline, program.pid)
    assert 0.9 * SIZE / 2 <= row["rss"] <= 1.3 * SIZE / 2
    if before is None:
        pytest.skip("no memory controller here")
    after = unexplained_of_cgroup(leakline)
    assert after is not None
    assert after - before >= 0.8 * SIZE / 2, "the group is charged for what no process shows"


def unexplained_of_cgroup(leakline: Leakline) -> int | None:
    result = leakline("system", "--by", "cgroup", "--json", status=None)
    if result.status:
        assert result.status == 5, result.err
        return None
    mine = row_of(leakline, os.getpid(), "--columns", "cgroup")["cgroup"]
    found = [group["unexplained"] for group in result.json["cgroups"] if group["path"] == mine]
    return int(found[0]) if found and found[0] is not None else None


def test_a_memfd_that_nobody_maps_is_found_by_its_descriptor(build: Build, start: Start, leakline: Leakline) -> None:
    before = meminfo()["Shmem"]
    program = started(build, start, "memfd")
    assert row_of(leakline, program.pid)["rss"] < SIZE / 4, "no process shows it"
    assert meminfo()["Shmem"] - before >= 0.9 * SIZE
    result = leakline("system", "--by", "shmem", "--json")
    (file,) = [f for f in result.json["shmem_files"] if f["name"] == "/memfd:cache"]
    assert file["bytes"] >= SIZE
    assert file["mapped_by"] == []
    assert any(holder.startswith(f"{program.pid}/fd/") for holder in file["held_by"])
    assert "mapped by nobody that we see" in result.err


@needs_root
def test_a_system_v_segment_outlives_its_creator_and_is_named(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("traps.c"), "sysv", ready=False)
    assert program.stdout is not None
    number = int(program.stdout.readline())
    try:
        assert program.stdout.readline() == "READY\n"
        program.kill()
        program.wait()
        files = leakline("system", "--by", "shmem", "--json").json["shmem_files"]
        (segment,) = [f for f in files if f["name"] == f"shmid {number}"]
        assert segment["bytes"] >= SIZE
        assert str(program.pid) in segment["held_by"][0]
    finally:
        subprocess.run(["ipcrm", "-m", str(number)], check=True)


def test_a_file_in_tmpfs_is_kept_by_its_name(leakline: Leakline) -> None:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        pytest.skip("no /dev/shm")
    file = folder / f"leakline test {os.getpid()}"
    file.write_bytes(b"x" * MIB)
    try:
        files = leakline("system", "--by", "shmem", "--json").json["shmem_files"]
        (found,) = [f for f in files if f["name"] == str(file)]
        assert (found["bytes"], found["kind"], found["held_by"]) == (MIB, "tmpfs", ["its name"])
    finally:
        file.unlink()


def test_a_mmapped_chunk_of_malloc_is_told_by_its_header(build: Build, start: Start, leakline: Leakline) -> None:
    program = started(build, start, "chunk")
    kinds = {group["name"]: group for group in leakline("maps", program.pid, "--by", "kind", "--json").json["groups"]}
    assert kinds["mmapped malloc chunk"]["rss"] >= SIZE
    raw = started(build, start, "lazyfree")
    kinds = {group["name"]: group for group in leakline("maps", raw.pid, "--by", "kind", "--json").json["groups"]}
    assert kinds["anon"]["rss"] >= SIZE
    assert kinds.get("mmapped malloc chunk", {"rss": 0})["rss"] < MIB


def test_gently_read_sums_are_the_kernels(build: Build, start: Start, leakline: Leakline) -> None:
    result = leakline("ps", "--gentle", "--json", status=None)
    if result.status == 5:
        pytest.skip("this kernel cannot be asked gently")
    program = started(build, start, "lazyfree")
    row, truth = row_of(leakline, program.pid, "--gentle"), row_of(leakline, program.pid)
    assert abs(row["rss"] - truth["rss"]) <= 65536
    assert row["swap"] == truth["swap"]
    assert row["pss"] is row["uss"] is None, "which it cannot know"
    assert "pss" not in leakline("ps", "--gentle").out.splitlines()[0].split()
    assert leakline("ps", "--gentle", "--by", "mapping", status=2).err


def test_fork_churn_crashes_nothing_and_is_counted(leakline: Leakline) -> None:
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            children = [os.posix_spawn("/bin/true", ["true"], {}) for _ in range(4)]
            for child in children:
                os.waitpid(child, 0)
            time.sleep(0.02)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(6):
            table = leakline("ps", "--json").json
            coverage = table["coverage"]
            unreadable = sum(row["pss"] is None for row in table["processes"])
            assert coverage["seen"] == coverage["readable"] + coverage["vanished"] + coverage["zombies"] + unreadable
            assert all(row["command"] and row["start_ticks"] is not None for row in table["processes"]), "no invented row"
            assert leakline("ps", "--by", "mapping", "--json").json["coverage"]["readable"] > 0
    finally:
        done.set()
        thread.join()


@needs_root
def test_what_hidepid_hides_is_not_counted_as_empty(leakline: Leakline) -> None:
    script = 'mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid=65534 --clear-groups "$@"'
    code = "import os,sys; from leakline.cli.main import main; sys.argv=['leakline','ps','--json']; main()"
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and ("unshare" in done.stderr or "mount:" in done.stderr or "Permission denied" in done.stderr):
        pytest.skip(f"not possible here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    import json

    table = json.loads(done.stdout)
    assert table["coverage"]["seen"] < len([name for name in os.listdir("/proc") if name.isdigit()])
    assert all(row["uss"] != 0 or row["rss"] == 0 for row in table["processes"])


@needs_root
@pytest.mark.parametrize("capability", [None, "perfmon"])
def test_nobody_with_and_without_cap_perfmon(build: Build, start: Start, capability: str | None) -> None:
    program = started(build, start, "lazyfree")
    grant = ["--inh-caps", f"+{capability}", "--ambient-caps", f"+{capability}"] if capability else []
    nobody = ["setpriv", "--reuid=65534", "--clear-groups", *grant]
    if subprocess.run([*nobody, sys.executable, "-c", "import leakline, click"], capture_output=True, check=False).returncode:
        pytest.skip("uid 65534 cannot run this interpreter")
    done = subprocess.run([*nobody, sys.executable, "-m", "leakline", "ps", "--json"], capture_output=True, text=True, check=True)
    import json

    (row,) = [row for row in json.loads(done.stdout)["processes"] if row["pid"] == program.pid]
    assert row["rss"]
    if capability:
        assert row["uss"] >= SIZE, "smaps_rollup may be read with CAP_PERFMON"
    else:
        assert row["pss"] is row["uss"] is row["swap"] is None, "unknown is not 0"


def test_snapshot_shows_elsewhere_what_was_here(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    program = started(build, start, "memfd")
    archive = tmp_path / "this.tar.gz"
    leakline("snapshot", "-o", archive)
    assert archive.stat().st_mode & 0o077 == 0, "others may not read what only root may"
    assert leakline("snapshot", "-o", archive, status=2).err
    fifo, link = tmp_path / "fifo", tmp_path / "link.tar"
    os.mkfifo(fifo)
    assert leakline("snapshot", "-o", fifo, "-f", status=2).err
    assert fifo.is_fifo()
    link.symlink_to(tmp_path / "behind.tar")
    leakline("snapshot", "-o", link)
    assert link.is_symlink()
    assert (tmp_path / "behind.tar").is_file()
    live = row_of(leakline, program.pid, "--columns", "pid,uss,rss,vss,user,cmdline,command,started,cgroup,vmas")
    there = row_of(
        leakline, program.pid, "--columns", "pid,uss,rss,vss,user,cmdline,command,started,cgroup,vmas", "--root", archive
    )
    assert there == live
    folder = tmp_path / "unpacked"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else tar.extractall(folder)
    assert row_of(leakline, program.pid, "--columns", "pid,uss,rss", "--root", folder) == {
        k: live[k] for k in ("pid", "uss", "rss")
    }
    vmas = leakline("maps", program.pid, "--json", "--root", archive).json["vmas"]
    assert sum(vma["rss"] for vma in vmas) == live["rss"]
    system = leakline("system", "--by", "shmem", "--json", "--root", archive).json
    assert any(f["name"] == "/memfd:cache" and f["mapped_by"] == [] for f in system["shmem_files"])
    assert sum(owner["bytes"] for owner in system["owners"]) == system["mem_total"]
    groups = leakline("ps", "--by", "mapping", "--json", "--root", archive).json["groups"]
    assert any(group["name"].endswith("libc.so.6") for group in groups)
    assert "captured" in leakline("ps", "--gentle", "--root", archive, status=5).err
    assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob("leakline-*/proc")), "nothing is left behind"


@pytest.mark.skipif(shutil.which("pmap") is None, reason="no pmap")
def test_pmap_agrees(build: Build, start: Start, leakline: Leakline) -> None:
    """To the byte; PSS of a page that is shared follows the processes that come and go, and lies between USS and RSS."""
    program = start(build("kinds.c"), HOLD="1")
    table = leakline("maps", program.pid, "--json").json
    lines = subprocess.run(["pmap", "-X", str(program.pid)], capture_output=True, text=True, check=True).stdout.splitlines()
    names, total = lines[1].split(), [line for line in lines if line.strip() and line.split()[0].isdigit()][-1].split()
    sums = dict(zip(names[5:], map(int, filter(str.isdigit, total)), strict=False))
    assert sums["Rss"] * 1024 == table["totals"]["rss"]
    by_start = {f"{vma['start']:x}": vma for vma in table["vmas"]}
    compared, unshared = 0, 0
    for line in lines[2:]:
        fields = line.split()
        if fields and fields[0] in by_start:
            vma, theirs = by_start[fields[0]], {name: int(fields[names.index(name)]) * 1024 for name in ("Size", "Pss")}
            assert theirs["Size"] == vma["size"]
            assert vma["uss"] <= theirs["Pss"] <= vma["rss"]
            compared += 1
            unshared += vma["rss"] > 0 and vma["uss"] == vma["rss"]
    assert compared >= 15
    assert unshared >= 8


@pytest.mark.skipif(shutil.which("smem") is None, reason="no smem")
def test_smem_agrees_where_it_is_right(build: Build, start: Start, leakline: Leakline) -> None:
    """USS to 64 KiB; PSS to a tenth, since processes that share may come and go; never its VSS of `-u`."""
    program = start(build("kinds.c"), HOLD="1")
    out = subprocess.run(["smem", "-H", "-c", "pid uss pss rss"], capture_output=True, text=True, check=False)
    rows = {
        int(line.split()[0]): [int(x) * 1024 for x in line.split()[1:]]
        for line in out.stdout.splitlines()
        if line.split()[0].isdigit()
    }
    if program.pid not in rows:
        pytest.skip(f"smem does not run here: {out.stderr[-200:]}")
    uss, pss, rss = rows[program.pid]
    row = row_of(leakline, program.pid)
    assert abs(row["uss"] - uss) <= 65536
    assert abs(row["rss"] - rss) <= 65536
    assert abs(row["pss"] - pss) <= 0.1 * pss + 65536


def test_free_and_available_are_meminfos(leakline: Leakline) -> None:
    """Within 2 % of MemTotal: other processes run on."""
    table, truth = leakline("system", "--json").json, meminfo()
    assert abs(table["mem_free"] - truth["MemFree"]) <= truth["MemTotal"] // 50
    assert abs(table["mem_available"] - truth["MemAvailable"]) <= truth["MemTotal"] // 50
    assert table["mem_total"] == truth["MemTotal"]


def test_details_of_the_machine(leakline: Leakline) -> None:
    zones = leakline("system", "--by", "zone", "--json").json["zones"]
    assert zones
    assert all(zone["min"] <= zone["low"] <= zone["high"] for zone in zones)
    nodes = leakline("system", "--by", "numa", "--json").json["numa"]
    assert not nodes or sum(node["free"] for node in nodes) > 0
    table = leakline("system", "--processes", "--json").json
    assert table["processes"]["pss_anon"] <= table["processes"]["anon_pages"] * 1.2 + 32 * MIB
    assert "AnonPages" in leakline("system", "--processes").err


def test_the_librarys_examples() -> None:
    from leakline.session import api

    for module in (library, api):
        result = doctest.testmod(module, extraglobs={"leakline": library})
        assert result.attempted > 0
        assert result.failed == 0


def test_the_library(build: Build, start: Start) -> None:
    program = started(build, start, "chunk")
    process = library.Process(program.pid)
    memory = process.memory()
    assert memory.uss is not None
    assert memory.uss >= SIZE
    assert memory.started is not None
    assert abs(memory.started - time.time()) < 60
    assert memory.vmas == len(process.maps())
    program.kill()
    program.wait()
    with pytest.raises(library.LeaklineError):
        process.memory()


def test_what_changed_between_two_looks(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    script = (
        "import sys,mmap\nprint('READY',flush=True)\nsys.stdin.readline()\nm=mmap.mmap(-1,8<<20,flags=2)\nm.write(b'x'*(8<<20))\n"
        "print('READY',flush=True)\nsys.stdin.readline()"
    )
    program = start(sys.executable, "-c", script)
    before = tmp_path / "before.json"
    leakline("maps", program.pid, "--json", "-o", before)
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write("\n")
    program.stdin.flush()
    program.stdout.readline()
    table = leakline("maps", program.pid, "--diff", before, "--json").json
    assert table["schema"] == "leakline.maps-diff/1"
    assert table["totals"]["uss"] >= 7 * MIB, "libraries' pages become shared meanwhile, as others start"
    assert max(change["uss"] for change in table["changes"]) >= 8 * MIB
    by_kind = leakline("maps", program.pid, "--diff", before, "--by", "kind").out
    assert "+8." in by_kind
    assert "+8" in leakline("maps", program.pid, "--diff", before, "--totals").out
    before.write_text('{"schema": "leakline.maps/1", "pid": "x"}')
    assert leakline("maps", program.pid, "--diff", before, status=6).err
    assert leakline("maps", program.pid, "--diff", tmp_path / "none", status=2).err


# The rest changes the machine: swap, huge pages and KSM are everybody's. LEAKLINE_CHANGE_MACHINE=1 allows it.
changes_machine = [
    pytest.mark.slow,
    needs_root,
    pytest.mark.skipif(not os.environ.get("LEAKLINE_CHANGE_MACHINE"), reason="LEAKLINE_CHANGE_MACHINE=1 allows it"),
    pytest.mark.alone,
]


@contextmanager
def written(path: str, value: str) -> Iterator[None]:
    file = Path(path)
    if not file.exists():
        pytest.skip(f"no {path}")
    before = file.read_text().strip()
    try:
        file.write_text(value)
    except OSError as error:
        pytest.skip(f"{path}: {error}")
    try:
        yield
    finally:
        file.write_text(before)


@contextmanager
def swap_on_a_file(folder: Path) -> Iterator[Path]:
    file = folder / "swap"
    with file.open("wb") as out:
        os.posix_fallocate(out.fileno(), 0, 512 * MIB)
    file.chmod(0o600)
    subprocess.run(["mkswap", str(file)], check=True, capture_output=True)
    on = subprocess.run(["swapon", str(file)], capture_output=True, text=True, check=False)
    if on.returncode:
        pytest.skip(f"swapon: {on.stderr.strip()}")
    try:
        yield file
    finally:
        subprocess.run(["swapoff", str(file)], check=True)


class TestMachineChanges:
    pytestmark = changes_machine

    def test_hugetlb_has_a_column_of_its_own(self, build: Build, start: Start, leakline: Leakline) -> None:
        with written("/proc/sys/vm/nr_hugepages", "40"):
            program = started(build, start, "hugetlb")
            row = row_of(leakline, program.pid)
            assert row["hugetlb"] == SIZE
            assert row["rss"] < SIZE / 4
            assert row["uss"] >= SIZE, "it would come back"
            groups = {g["name"]: g for g in leakline("maps", program.pid, "--by", "kind", "--json").json["groups"]}
            assert groups["hugetlb"]["size"] == SIZE
            assert leakline("maps", program.pid, "--json").json["totals"]["uss"] == row["uss"]
            table = leakline("system", "--json").json
            assert table["hugetlb"][0]["pages"] >= 32
            assert next(o["bytes"] for o in table["owners"] if o["name"] == "hugetlb") >= SIZE
            assert "huge pages of" in leakline("system").err
            with suppress(AssertionError):
                assert row_of(leakline, program.pid, "--gentle")["rss"] < SIZE / 4
            program.kill()
            program.wait()

    def test_ksm_is_shown(self, build: Build, start: Start, leakline: Leakline) -> None:
        with written("/sys/kernel/mm/ksm/pages_to_scan", "20000"), written("/sys/kernel/mm/ksm/run", "1"):
            program = started(build, start, "ksm")
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                row = row_of(leakline, program.pid)
                if row["ksm"] is None:
                    pytest.skip("this kernel does not tell")
                if row["ksm"] > 0.9 * SIZE:
                    break
                time.sleep(0.5)
            assert row["ksm"] > 0.9 * SIZE
            assert row["rss"] >= SIZE
            assert row["uss"] < SIZE / 2
            Path("/sys/kernel/mm/ksm/run").write_text("2")

    def test_swap_is_shown_and_shared_out(self, build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
        with swap_on_a_file(tmp_path) as file:
            program = started(build, start, "swap")
            row = row_of(leakline, program.pid)
            assert row["swap"] >= 0.9 * SIZE
            assert abs(row["swap_pss"] - row["swap"] / 2) <= 0.05 * SIZE, "two processes share it"
            table = leakline("system", "--json").json
            (area,) = [area for area in table["swap_areas"] if area["name"] == str(file)]
            assert area["used"] >= 0.9 * SIZE
            assert sum(owner["bytes"] for owner in table["owners"]) == table["mem_total"]
            gentle = leakline("ps", program.pid, "--gentle", "--json", status=None)
            if gentle.status == 0:
                assert abs(gentle.json["processes"][0]["swap"] - row["swap"]) <= 0.05 * SIZE
            program.kill()

    def test_shared_memory_in_swap_has_no_share(self, build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
        with swap_on_a_file(tmp_path):
            program = started(build, start, "shmemswap")
            row = row_of(leakline, program.pid)
            assert row["swap"] >= 0.9 * SIZE
            assert row["swap_pss"] == 0
            assert status_of(program.pid)["VmSwap"] == "0 kB", "where others look"
            program.kill()
            program.wait()
