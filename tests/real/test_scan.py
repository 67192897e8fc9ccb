"""Scans of real programs whose leaks are known to the byte."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from leakline.formats.elf import Elf
from leakline.native.heap import MemoryCopy
from leakline.session.process_libc import find_libc
from leakline.session.scanning import Scanner
from leakline.sources.allocators.glibc import find_main_arena, parse_version
from leakline.sources.procfs import ProcFs
from leakline.sources.ptrace import stopped
from leakline.sources.remote_memory import PageMap, RemoteMemory, buffer_for
from tests.conftest import Build, Leakline, Start, assert_unharmed, needs_root


def test_every_kind(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("kinds.c"), HOLD="1")
    report = leakline("scan", program.pid, "--json").json
    assert_unharmed(program)
    # Usable sizes: 100 -> 104, 200 -> 200, 300 -> 312.
    assert report["summary"]["definite"] == {"bytes": 20 * 104, "blocks": 20}
    assert report["summary"]["indirect"] == {"bytes": 40 * 200, "blocks": 40}
    assert report["summary"]["possible"] == {"bytes": 5 * 312, "blocks": 5}
    (finding,) = [f for f in report["findings"] if f["kind"] == "definite"]
    assert (finding["blocks"], finding["indirect_blocks"], finding["indirect_bytes"]) == (20, 40, 8000)
    assert finding["confidence"] == "high"
    assert report["bytes_are"] == "usable"
    assert 0 < report["cost"]["target_stopped_ns"] < report["cost"]["duration_ns"]


def test_arenas_of_threads(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("arenas.c"))
    report = leakline("scan", program.pid, "--json").json
    assert_unharmed(program)
    assert report["summary"]["definite"]["blocks"] == 4 * 50
    assert report["summary"]["definite"]["bytes"] == 4 * 50 * 1000
    assert report["retained_free"]["bytes"] > 4 * 200 * 100


@pytest.mark.parametrize(
    "mode",
    [
        "mmapped",
        "mmapped-aligned",
        "aligned",
        "sbrk",
        "sbrk-top",
        "read-only",
        "no-access",
        "shared",
        "shared-file",
        "bins",
        "cached",
        "trimmed-large",
    ],
)
def test_shapes_of_heaps(build: Build, start: Start, leakline: Leakline, mode: str) -> None:
    program = start(build("shapes.c"), mode)
    report = leakline("scan", program.pid, "--json").json
    assert_unharmed(program)
    assert report["not_judged"] == []
    lost = report["summary"]
    # malloc leaves the address of a chunk on the stack, which is the last word of the block before: that one is possible only.
    assert lost["definite"]["blocks"] + lost["possible"]["blocks"] == 10
    assert lost["possible"]["blocks"] <= 1
    assert lost["indirect"]["blocks"] == 0


def test_a_pointer_in_a_register_only(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("registers.c", "-g", "-O2"))
    report = leakline("scan", program.pid, "--json").json
    assert_unharmed(program)
    assert report["summary"]["definite"]["blocks"] == 0
    assert report["summary"]["reachable"]["blocks"] >= 50


def test_a_program_that_loses_nothing(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("clean.c"))
    for _ in range(5):
        report = leakline("scan", program.pid, "--json").json
        assert report["findings"] == []
    assert_unharmed(program)


@pytest.mark.parametrize("flags", [("-O2", "-s"), ("-g", "-O2", "-no-pie")])
def test_stripped_and_fixed_programs(build: Build, start: Start, leakline: Leakline, flags: tuple[str, ...]) -> None:
    program = start(build("kinds.c", *flags), HOLD="1")
    summary = leakline("scan", program.pid, "--json").json["summary"]
    assert (summary["definite"]["blocks"], summary["indirect"]["blocks"]) == (20, 40)


def test_the_shape_finds_the_arena_that_the_debug_symbols_name(build: Build, start: Start) -> None:
    program = start(build("kinds.c"), HOLD="1")
    procfs = ProcFs()
    libc = find_libc(procfs, program.pid)
    with Elf.open(libc.path, "libc") as elf:
        bias, build_id = elf.load_bias(libc.vma.start, libc.vma.offset), elf.build_id
    assert bias is not None
    assert build_id is not None
    debug = Path(f"/usr/lib/debug/.build-id/{build_id[:2]}/{build_id[2:]}.debug")
    if not debug.exists():
        pytest.skip("libc6-dbg of this libc is not installed")
    with Elf.open(str(debug), "libc's debug file") as elf:
        symbol = elf.symbols().named("main_arena")
    assert symbol is not None
    with PageMap(procfs.root, program.pid) as pages, stopped(procfs, program.pid, 1.0):
        vmas = procfs.maps(program.pid)
        runs = pages.own_runs(vmas)
        buffer = buffer_for(sum(end - first for first, end in runs))
        copied = RemoteMemory(procfs.root, program.pid).copy(runs, buffer)
    layout = parse_version(Path(os.fsdecode(libc.path)).read_bytes()).arena
    found = find_main_arena(MemoryCopy(buffer, copied), layout, [v for v in vmas if v.path == libc.vma.path])
    assert found == symbol.address + bias


def test_memory_that_cannot_be_read_is_left_out_and_the_rest_copied(build: Build, start: Start) -> None:
    program = start(build("kinds.c"), HOLD="1")
    procfs = ProcFs()
    vmas = [vma for vma in procfs.maps(program.pid) if vma.path in ("[heap]", "[stack]")]
    (heap, stack) = vmas
    hole = (heap.end + (1 << 30), heap.end + (1 << 30) + 8192)
    runs = [(heap.start, heap.end), hole, (stack.end - 4096, stack.end)]
    buffer = buffer_for(sum(end - first for first, end in runs))
    copied = RemoteMemory(procfs.root, program.pid).copy(runs, buffer)
    assert copied == [(heap.start, heap.end), (stack.end - 4096, stack.end)]
    copy = MemoryCopy(buffer, copied)
    with open(f"/proc/{program.pid}/mem", "rb") as memory:
        memory.seek(stack.end - 4096)
        assert copy.read(stack.end - 4096, 4096) == memory.read(4096)


def test_pages_are_found_with_and_without_the_scan_of_new_kernels(build: Build, start: Start) -> None:
    program = start(build("arenas.c"))
    vmas = ProcFs().maps(program.pid)
    with PageMap(Path("/proc"), program.pid) as pages:
        by_scan = pages.own_runs(vmas)
        pages._scans = False
        by_entries = pages.own_runs(vmas)
    # The entries do not tell the zero page; apart from that they agree.
    assert by_scan
    covered = {page for first, end in by_entries for page in range(first, end, 4096)}
    assert {page for first, end in by_scan for page in range(first, end, 4096)} <= covered


def test_a_recognised_allocator_has_its_version(build: Build, start: Start) -> None:
    program = start(build("kinds.c"), HOLD="1")
    release = subprocess.run(["getconf", "GNU_LIBC_VERSION"], capture_output=True, text=True, check=True).stdout.split()[1]
    assert Scanner(ProcFs(), program.pid).scan().allocator == f"glibc {release}"


def test_text_for_people(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("kinds.c"), HOLD="1")
    result = leakline("scan", program.pid)
    assert "lost for good (definite), high confidence" in result.out
    assert "2,080 bytes in 20 blocks, with 8,000 bytes more in 40 blocks" in result.out
    assert "stood still" in result.out
    assert "\x1b" not in result.out
    assert "\x1b[" in leakline("scan", program.pid, "--color", "always").out
    assert leakline("scan", program.pid, "-q").err == ""


def test_a_report_in_a_file(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    import json

    program = start(build("kinds.c"), HOLD="1")
    path = tmp_path / "report.json"
    assert leakline("scan", program.pid, "-o", path).out == ""
    assert json.loads(path.read_text())["summary"]["definite"]["blocks"] == 20
    leakline("scan", program.pid, "-o", path, "--force", "--fail-on", "high", status=1)


def test_json_is_of_the_published_schema(build: Build, start: Start, leakline: Leakline) -> None:
    import json

    import jsonschema

    schema = json.loads((Path(__file__).parents[2] / "docs/schemas/findings-1.json").read_text())
    one, two = start(build("kinds.c"), HOLD="1"), start(build("clean.c"))
    jsonschema.validate(leakline("scan", one.pid, "--json").json, schema)
    several = leakline("scan", one.pid, two.pid, "--json").json
    jsonschema.validate(several, schema)
    assert [t["target"]["pid"] for t in several["targets"]] == [one.pid, two.pid]


def test_the_library(build: Build, start: Start) -> None:
    import leakline as library

    program = start(build("kinds.c"), HOLD="1")
    report = library.scan(program.pid)
    assert report.summary.definite is not None
    assert report.summary.definite.blocks == 20
    with pytest.raises(library.LeaklineError):
        library.scan(4_000_000)


def test_blocks_that_only_the_kernel_knows(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("kernel_held.c"))
    summary = leakline("scan", program.pid, "--json").json["summary"]
    assert (summary["definite"]["blocks"], summary["possible"]["blocks"]) == (5, 0)
    assert_unharmed(program)


@pytest.mark.parametrize("mode", ["", "live"])
def test_stacks_of_ended_threads_hold_nothing(build: Build, start: Start, leakline: Leakline, mode: str) -> None:
    program = start(build("ended_threads.c"), mode, HOLD="1")
    summary = leakline("scan", program.pid, "--json").json["summary"]
    # A thread that lives may by chance keep a word that looks like a pointer into one of them.
    assert summary["definite"]["blocks"] + summary["possible"]["blocks"] == 50
    assert summary["definite"]["blocks"] >= 49
    assert_unharmed(program)


def test_what_is_left_over_in_memory_in_use_holds_nothing(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("left_overs.c"), HOLD="1")
    summary = leakline("scan", program.pid, "--json").json["summary"]
    lost = {kind: (summary[kind]["blocks"], summary[kind]["bytes"]) for kind in ("definite", "indirect", "possible")}
    assert lost == {"definite": (1000 + 6 + 1, 1000 * 104 + 6 * 200 + 312), "indirect": (0, 0), "possible": (0, 0)}
    assert_unharmed(program)


def test_without_a_stop_nothing_is_more_than_possible(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("kinds.c"), HOLD="1")
    result = leakline("scan", program.pid, "--no-stop", "--json")
    summary = result.json["summary"]
    assert (summary["definite"]["blocks"], summary["indirect"]["blocks"], summary["possible"]["blocks"]) == (0, 0, 20 + 40 + 5)
    assert {finding["confidence"] for finding in result.json["findings"]} == {"low"}
    assert all("while the program ran on" in finding["evidence"][0]["text"] for finding in result.json["findings"])
    assert result.json["cost"]["target_stopped_ns"] > 0
    assert_unharmed(program)


@needs_root
def test_pointers_that_move_while_nothing_stops(tmp_path: Path, start: Start, leakline: Leakline) -> None:
    """200 blocks wander from table to table; what is lost is 40 blocks that nobody points to."""
    source = tmp_path / "wander.c"
    source.write_text(
        """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static void *volatile left[200], *volatile right[200];
static __attribute__((noinline)) void lose(void) { for (int i = 0; i < 40; i++) memset(malloc(500), 7, 500); }
static __attribute__((noinline)) void wipe(void) { volatile char space[65536]; memset((char *)space, 0, sizeof space); }
int main(void) {
    lose();
    for (int i = 0; i < 200; i++) left[i] = malloc(100);
    wipe();
    puts("READY"); fflush(stdout);
    for (;;) {
        for (int i = 0; i < 200; i++) { right[i] = left[i]; left[i] = 0; }
        for (int i = 0; i < 200; i++) { left[i] = right[i]; right[i] = 0; }
    }
}
"""
    )
    subprocess.run(["gcc", "-O1", "-w", "-o", tmp_path / "wander", source], check=True)
    program = start(tmp_path / "wander")
    for _ in range(5):
        summary = leakline("scan", program.pid, "--no-stop", "--confirm", "4", "--json").json["summary"]
        assert summary["definite"]["blocks"] == summary["indirect"]["blocks"] == 0
        assert 40 <= summary["possible"]["blocks"] < 80, "few are missed in every one of four looks"
    assert_unharmed(program)
