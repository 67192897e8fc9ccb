"""`diagnose` where the answer is not a lost block of glibc's heap, and what it may cost."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from leakline.sources.procfs import ProcFs
from tests.conftest import TARGETS, Build, Leakline, Start, assert_unharmed, needs_root


def line_of(source: str, marker: str) -> int:
    lines = (TARGETS / source).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if marker in line)


def test_a_raw_mmap_is_named_by_the_line_that_fills_it(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("outside.c"), "mmap")
    report = leakline("diagnose", program.pid, "--json").json
    assert_unharmed(program)
    (finding,) = [f for f in report["findings"] if f["location"]]
    assert (finding["kind"], finding["subject"]["type"]) == ("growing", "mapping")
    assert (finding["location"]["function"], finding["location"]["line"]) == ("map", line_of("outside.c", "/* mmap */"))
    assert 300_000 < finding["rate_bytes_per_second"] < 900_000


@pytest.mark.parametrize(
    ("way", "kind", "name"),
    [
        ("pipe", "fd", "pipe end"),
        ("memfd", "fd", "memfd"),
        ("thread", "thread", "thread"),
        pytest.param("zombie", "process", "zombie child", marks=pytest.mark.slow),
    ],
)
def test_what_it_holds_of_the_kernel_is_named(
    build: Build, start: Start, leakline: Leakline, way: str, kind: str, name: str
) -> None:
    program = start(build("outside.c"), way)
    report = leakline("diagnose", program.pid, "--json").json
    assert_unharmed(program)
    (finding,) = [f for f in report["findings"] if f["subject"] == {"type": kind, "name": name}]
    assert (finding["kind"], finding["confidence"]) == ("growing", "low")
    assert finding["blocks"] >= 20
    if way == "memfd":
        assert finding["bytes"] >= 20 << 16


def test_a_program_that_holds_what_it_has(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("outside.c"), "nothing")
    assert leakline("diagnose", program.pid, "--json").json["findings"] == []


def test_an_allocator_that_no_scan_reads(build: Build, start: Start, leakline: Leakline, needs_bpf: None) -> None:
    library = next(iter(sorted(Path("/usr/lib").glob("*/libjemalloc.so.2"))))
    program = start(build("loses.c"), LD_PRELOAD=str(library))
    result = leakline("diagnose", program.pid, "--json")
    assert_unharmed(program)
    report = result.json
    assert report["summary"]["definite"] is None
    finding = report["findings"][0]
    assert (finding["kind"], finding["location"]["function"]) == ("growing", "lose")
    assert "whether blocks are lost" in [gap["name"] for gap in report["not_judged"]]


def test_a_program_that_allocates_all_the_time_is_sampled(build: Build, start: Start, leakline: Leakline, needs_bpf: None) -> None:
    program = start(build("outside.c"), "storm")
    result = leakline("diagnose", program.pid, "--json")
    assert_unharmed(program)
    assert "recording one in 16 KiB instead" in result.err
    (finding,) = [f for f in result.json["findings"] if f["kind"] == "definite"]
    assert (finding["location"]["line"], finding["location_is"]) == (line_of("outside.c", "/* storm */"), "inferred")
    assert "sampling" in {e["method"] for e in finding["evidence"]}


def test_a_pause_that_is_not_allowed(build: Build, start: Start, leakline: Leakline, needs_bpf: None) -> None:
    program = start(build("loses.c"))
    result = leakline("diagnose", program.pid, "--max-pause", "0.1ms", "--json")
    assert_unharmed(program)
    assert "looking at it while it runs" in result.err
    assert {f["kind"] for f in result.json["findings"]} <= {"possible", "growing"}
    finding = next(f for f in result.json["findings"] if f["location"])
    assert (finding["kind"], finding["confidence"], finding["location"]["function"]) == ("possible", "low", "lose")


def plan(leakline: Leakline, *arguments: object) -> dict[str, Any]:
    (target,) = leakline("diagnose", "--dry-run", "--json", *arguments).json["targets"]
    return {step["name"]: step for step in target["steps"]}


def test_the_plan_is_told_before_anything_is_done(build: Build, start: Start, leakline: Leakline, needs_bpf: None) -> None:
    program = start(build("loses.c"))
    steps = plan(leakline, program.pid)
    assert list(steps) == ["measure", "scan", "record", "sample", "faults"]
    assert all(step["possible"] for step in steps.values())
    assert 0 < steps["scan"]["pause_ns"] < 1e9
    assert 0 < steps["sample"]["cpu_ns_per_allocation"] < steps["record"]["cpu_ns_per_allocation"]
    assert "while it runs on" in plan(leakline, program.pid, "--max-pause", "0.1ms")["scan"]["does"]
    text = leakline("diagnose", "--dry-run", program.pid).out
    assert "what a diagnosis would do" in text
    assert_unharmed(program)


def test_the_plan_says_what_is_not_possible(build: Build, start: Start, unprivileged_leakline: Leakline, tmp_path: Path) -> None:
    from tests.conftest import UNPRIVILEGED

    program = start(*UNPRIVILEGED, str(build("loses.c"))) if UNPRIVILEGED else start(build("loses.c"))
    told = unprivileged_leakline("diagnose", "--dry-run", "--json", program.pid).json
    steps = {step["name"]: step for step in told["targets"][0]["steps"]}
    assert not steps["record"]["possible"]
    assert "CAP_BPF" in steps["record"]["why_not"]
    assert steps["scan"]["possible"]
    assert "breakpoints" in steps


@needs_root
def test_processes_of_a_user_and_of_a_control_group(build: Build, leakline: Leakline) -> None:
    folder = tempfile.TemporaryDirectory(prefix="leakline-test-")  # pytest's own are closed to other users
    os.chmod(folder.name, 0o755)
    own = shutil.copy(build("loses.c"), folder.name)
    program = subprocess.Popen([own], stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=65533)
    try:
        assert program.stdout is not None
        program.stdout.readline()
        group = ProcFs().memory_cgroup(program.pid)
        for words in (["--user", "65533"], ["--cgroup", str(group), "--name", "^loses"]):
            report = leakline("scan", "--json", *words).json
            targets = report.get("targets", [report])
            assert program.pid in [target["target"]["pid"] for target in targets], words
        assert "no process belongs to 65532" in leakline("scan", "--user", "65532", status=4).err
        assert "there is no user" in leakline("scan", "--user", "nobody-at-all", status=2).err
        assert "is in the control group /no/such" in leakline("scan", "--cgroup", "no/such", status=4).err
    finally:
        program.kill()
        program.communicate()
        folder.cleanup()
