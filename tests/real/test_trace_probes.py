"""Recording by BPF: every kind of probe, every allocator, exact stacks."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from leakline.session.interruption import Interruption
from leakline.session.process_allocator import find_allocator
from leakline.session.symbolising import with_stacks
from leakline.sources.bpf import EVERYTHING, HeapRecorder, RecordingOptions
from leakline.sources.libbpf import UPROBE_MULTI, UPROBE_SESSION
from leakline.sources.procfs import ProcFs
from tests.conftest import Build, Leakline, Start, assert_unharmed

pytestmark = pytest.mark.usefixtures("needs_bpf")

ALLOCATORS = ["libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libmimalloc.so.2"]


def recorded_stacks(
    pid: int, seconds: float, options: RecordingOptions = EVERYTHING, way: int | None = None
) -> Counter[tuple[Any, ...]]:
    """How many live blocks each chain of functions allocated."""
    procfs = ProcFs()
    allocator = find_allocator(procfs, pid)
    recorder = HeapRecorder() if way is None else HeapRecorder((way,))
    try:
        recorder.attach(pid, allocator.path, allocator.functions, allocator.code, options)
        Interruption().wait(seconds)
        trace = recorder.read()
    finally:
        recorder.close()
    assert trace.lost == trace.stacks_lost == 0
    allocations, frames = with_stacks(procfs, pid, trace.allocations, print)
    found: Counter[tuple[Any, ...]] = Counter()
    for a in allocations:
        found[tuple(f.function for address in a.stack[: a.exact] for f in frames[address])] += 1
    return found


@pytest.mark.parametrize("flags", [("-g", "-O0"), ("-g", "-O2", "-fomit-frame-pointer"), ("-g", "-O1", "-s")], ids=" ".join)
def test_stacks_are_whole_without_frame_pointers(build: Build, start: Start, flags: tuple[str, ...]) -> None:
    program = start(build("deep.c", *flags))
    found = recorded_stacks(program.pid, 0.5)
    assert_unharmed(program)
    if "-s" in flags:
        assert {len(stack) for stack in found} >= {7, 11, 15}  # leaf, small x 6 or 10, main, two of libc, _start
        return
    for depth in (6, 10):
        (stack,) = [s for s in found if s.count("small") == depth and s[0] == "leaf" and "large" not in s]
        assert stack[-1] == "_start"
        assert "main" in stack
    (stack,) = [s for s in found if "large" in s]
    assert stack.index("large") == stack.count("small") + 1
    assert "main" in stack
    assert any(s[:2] == ("leaf", "by_qsort") and "main" in s for s in found), "through libc's qsort"
    (stack,) = {s for s in found if "realigned" in s}
    assert stack[:4] == ("leaf", "realigned", "above", "main"), "a frame whose CFA is an expression"
    (stack,) = {s for s in found if "handler" in s}
    assert stack[:2] == ("leaf", "handler")
    assert "main" in stack, "through a signal's frame"


@pytest.mark.parametrize("way", [UPROBE_SESSION, UPROBE_MULTI, 0], ids=["session", "multi", "classic"])
def test_every_kind_of_probe_sees_the_same(build: Build, start: Start, way: int) -> None:
    program = start(build("deep.c"))
    found = recorded_stacks(program.pid, 0.4, way=way)
    assert_unharmed(program)
    counts: Counter[str] = Counter()
    for stack, blocks in found.items():
        counts[next(kind for kind in ("by_qsort", "realigned", "handler", "large", "small") if kind in stack)] += blocks
    # Each round makes two, one, and two or three; the first and the last may be cut.
    assert abs(counts["small"] - 2 * counts["large"]) <= 4
    assert counts["by_qsort"] >= 2 * counts["large"] - 4
    assert abs(counts["handler"] - counts["realigned"]) <= 2
    assert counts["large"] > 20


@pytest.mark.parametrize("stacks", ["caller", "frame-pointers"])
def test_less_of_a_stack_costs_less(build: Build, start: Start, stacks: Any) -> None:
    program = start(build("deep.c", "-g", "-O0"))
    found = recorded_stacks(program.pid, 0.3, RecordingOptions(stacks=stacks))
    assert {stack[0] for stack in found} == {"leaf"}
    if stacks == "caller":
        assert {len(stack) for stack in found} == {1}


def test_samples_are_as_many_as_asked_for(build: Build, start: Start) -> None:
    program = start(build("deep.c"))
    procfs, allocator = ProcFs(), find_allocator(ProcFs(), program.pid)
    every, sampled = HeapRecorder(), HeapRecorder()
    try:
        every.attach(program.pid, allocator.path, allocator.functions, allocator.code, EVERYTHING)
        sampled.attach(program.pid, allocator.path, allocator.functions, allocator.code, RecordingOptions(sampled_bytes=960))
        Interruption().wait(2)
        few, all_of_them = sampled.read(), every.read()
    finally:
        sampled.close()
        every.close()
    assert procfs.maps(program.pid)
    assert not few.sees_frees
    # 48 bytes each: one in twenty.
    assert 0.5 < few.seen * 20 / all_of_them.seen < 2


@pytest.mark.parametrize("library", ALLOCATORS)
def test_a_preloaded_allocator(build: Build, start: Start, leakline: Leakline, library: str) -> None:
    found = sorted(Path("/usr/lib").glob(f"*/{library}*"))
    assert found, f"{library} is not installed"
    program = start(build("loses.c"), LD_PRELOAD=str(found[0]))
    result = leakline("trace", program.pid, "--via", "bpf", "-d", "3", "--json")
    assert_unharmed(program)
    report = result.json
    assert report["summary"]["definite"] is None, "nothing proves a loss there"
    assert "whether blocks are lost" in [n["name"] for n in report["not_judged"]]
    finding = report["findings"][0]
    assert (finding["kind"], finding["location"]["function"], finding["location_is"]) == ("growing", "lose", "recorded")
    assert library.split(".")[0] in result.err


@pytest.mark.parametrize(("compiler", "flags"), [(None, ("-g", "-static")), ("musl-gcc", ("-g",))], ids=["static glibc", "musl"])
def test_a_program_without_glibc_beside_it(
    build: Build, start: Start, leakline: Leakline, compiler: str | None, flags: tuple[str, ...]
) -> None:
    program = start(build("loses.c", *flags, compiler=compiler))
    report = leakline("trace", program.pid, "--via", "bpf", "-d", "3", "--json").json
    assert_unharmed(program)
    finding = report["findings"][0]
    assert (finding["kind"], finding["location"]["function"]) == ("growing", "lose")


def test_a_program_in_a_mount_namespace_of_its_own(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    """Its libc has the path of ours and is another file, as in a container."""
    root = tmp_path / "root"
    libc = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so.6" in line)
    program = build("loses.c", "-g", "-O0")
    for path in (libc, "/lib64/ld-linux-x86-64.so.2", str(program)):
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(path).read_bytes())
        target.chmod(0o755)
    started = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--root={root}", str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"LD_LIBRARY_PATH": os.path.dirname(libc)},
    )
    try:
        assert started.stdout is not None
        assert started.stdout.readline() == "READY\n"
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        report = leakline("trace", children[0], "--via", "bpf", "-d", "2", "--json").json
    finally:
        started.kill()
        started.communicate()
    finding = report["findings"][0]
    assert (finding["kind"], finding["location"]["function"], finding["location_is"]) == ("definite", "lose", "recorded")


def test_only_what_lived_long_enough(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("loses.c"))
    whole = leakline("trace", program.pid, "--via", "bpf", "-d", "2", "--json").json["findings"][0]
    old = leakline("trace", program.pid, "--via", "bpf", "-d", "2", "--min-age", "1s", "--json").json["findings"][0]
    seen = [next(e["values"]["blocks"] for e in f["evidence"] if e["method"] == "trace") for f in (whole, old)]
    assert 0.3 < seen[1] / seen[0] < 0.7
