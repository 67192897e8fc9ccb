from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import leakline as library
from leakline.errors import PermissionNeeded
from leakline.session.fault_launching import FaultLaunch
from leakline.session.faulting import FaultSettings, FaultWatch
from leakline.sources.fault_events import FaultEvents
from leakline.sources.procfs import ProcFs
from tests.conftest import TARGETS, UNPRIVILEGED, Build, Leakline, Program, Start, assert_unharmed, needs_root, status_of

PAGES = 512


def line_of(marker: str, source: str = "faulting.c") -> int:
    lines = (TARGETS / source).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if f"/* {marker} */" in line)


def watched(program: Program, *options: str, unprivileged: bool = False) -> tuple[Any, tuple[int, int]]:
    """What `faults` says of a target while it does its work, and what the kernel counted for it meanwhile."""
    command = [*(UNPRIVILEGED if unprivileged else []), sys.executable, "-m", "leakline", "faults", str(program.pid)]
    with subprocess.Popen([*command, "-i", "50ms", "--json", *options], stdout=-1, stderr=-1, text=True) as watcher:
        assert watcher.stdout is not None
        assert watcher.stderr is not None
        assert program.stdin is not None
        assert program.stdout is not None
        assert " faults a second" in watcher.stderr.readline(), "it watches from here on"
        program.stdin.write("\n")
        program.stdin.flush()
        word, minor, major = program.stdout.readline().split()
        assert word == "DONE"
        watcher.send_signal(signal.SIGINT)
        report = json.loads(watcher.stdout.read())
        assert watcher.wait() == 0
    assert_unharmed(program)
    return report, (int(minor), int(major))


def largest(report: Any) -> Any:
    return max(report["faults"], key=lambda group: group["count"])


# How the target is told, and: kind, cause, access, who, mapping, line.
WAYS = [
    ("first-touch", ("minor", "first-touch", "write", "program", "anon", "WRITES")),
    ("zero-page", ("minor", "zero-page", "read", "program", "anon", "READS")),
    ("zero-then-write", ("minor", "copy-on-write", "write", "program", "anon", "WRITES")),
    ("private-file-write", ("minor", "copy-on-write", "write", "program", "file", "WRITES")),
    ("shared-memory", ("minor", "first-touch", "write", "program", "shmem", "WRITES")),
    ("fork-parent", ("minor", "copy-on-write", "write", "program", "anon", "WRITES")),
    ("file", ("major", "read-from-disk", "read", "program", "file", "READS")),
    ("userfaultfd", ("minor", "userfaultfd", "read", "program", "anon", "READS")),
]


@pytest.mark.parametrize("unprivileged", [pytest.param(False, marks=needs_root), pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("how", "expected"), WAYS, ids=[how for how, _ in WAYS])
def test_each_way_to_a_page_is_told(
    build: Build, start: Start, tmp_path: Path, how: str, expected: tuple[str, ...], unprivileged: bool
) -> None:
    program = started(build, start, how, tmp_path, unprivileged=unprivileged)
    report, (minor, major) = watched(program, unprivileged=unprivileged)
    group = largest(report)
    kind, cause, access, by, mapping, marker = expected
    if how == "userfaultfd":
        kind = group["kind"]  # the kernel counts them as minor or major, by its version
    assert (group["kind"], group["cause"], group["by"], group["vma"]["kind"]) == (kind, cause, by, mapping)
    assert group["access"] == access
    assert group["location"]["line"] == line_of(marker)
    assert [frame["function"] for frame in group["stack"]][:2] == [marker.lower(), "main"]
    assert group["count"] + report["lost"] >= PAGES
    assert group["count"] <= PAGES
    counts = report["counts"]
    assert minor <= counts["minor"] <= minor + 40, "the kernel's own count, and a few before and behind"
    assert major <= counts["major"] <= major + 40


def started(build: Build, start: Start, how: str, folder: Path, *, unprivileged: bool = False) -> Program:
    arguments = []
    if "file" in how:
        data = Path("/var/tmp") / f"leakline-{os.getpid()}-{folder.name}"
        data.write_bytes(os.urandom(PAGES * 4096))
        file = os.open(data, os.O_RDWR)
        os.fsync(file)
        if how == "file":
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
        arguments = [str(data)]
    command = [*(UNPRIVILEGED if unprivileged else []), str(build("faulting.c")), how, *arguments]
    program = start(*command, ready=False)
    assert program.stdout is not None
    word = program.stdout.readline().strip()
    if "file" in how:
        data.unlink()
    if word == "REFUSED":
        pytest.skip("userfaultfd is not allowed here")
    assert word == "READY"
    return program


def test_a_child_is_followed_and_counted_apart(build: Build, start: Start, tmp_path: Path) -> None:
    report, (minor, _) = watched(started(build, start, "fork-child", tmp_path))
    group = largest(report)
    assert (group["cause"], group["count"]) == ("copy-on-write", PAGES)
    assert report["counts"]["minor"] <= minor + 40, "of the target alone"
    assert report["seen"]["minor"] > PAGES
    assert max(p["minor"] for p in report["processes"] if p["pid"] != report["target"]["pid"]) >= PAGES


@needs_root
def test_what_the_kernel_touches_for_the_program_is_seen_as_root(build: Build, start: Start, tmp_path: Path) -> None:
    report, _ = watched(started(build, start, "kernel-copy", tmp_path))
    group = largest(report)
    assert (group["by"], group["cause"], group["access"], group["count"]) == ("kernel", "first-touch", "write", PAGES)
    assert group["location"]["line"] == line_of("COPY")


@pytest.mark.parametrize("how", ["kernel-copy", pytest.param("populate", marks=pytest.mark.slow)])
def test_what_cannot_be_seen_is_said(build: Build, start: Start, tmp_path: Path, how: str) -> None:
    report, _ = watched(started(build, start, how, tmp_path, unprivileged=True), unprivileged=True)
    missing = [gap for gap in report["not_seen"] if gap["count"]]
    assert len(missing) == 1
    assert PAGES - 5 <= missing[0]["count"] <= PAGES + 5
    assert "read(2)" in missing[0]["why"]


@pytest.mark.slow
def test_huge_pages_are_told(build: Build, start: Start, tmp_path: Path) -> None:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[never]" in enabled.read_text():
        pytest.skip("transparent huge pages are off")
    report, _ = watched(started(build, start, "huge", tmp_path))
    group = next(g for g in report["faults"] if g["location"] and g["location"]["line"] == line_of("MEMSET") and g["huge"])
    assert group["count"] == group["huge"] <= 4
    assert group["bytes"] == group["huge"] * 2 << 20


def test_threads_are_told_apart(build: Build, start: Start, tmp_path: Path) -> None:
    report, _ = watched(started(build, start, "threads", tmp_path), "--by", "thread")
    by_tid: dict[int, int] = {}
    for group in report["faults"]:
        by_tid[group["tid"]] = by_tid.get(group["tid"], 0) + group["count"]
    assert sorted(by_tid.values())[-4:] == pytest.approx([PAGES] * 4, abs=20)


@pytest.mark.slow
def test_only_every_nth_fault_stands_for_n(build: Build, start: Start, tmp_path: Path) -> None:
    report, (minor, _) = watched(started(build, start, "first-touch", tmp_path), "--every", "8", "--by", "cause")
    assert report["every"] == 8
    assert sum(group["count"] for group in report["faults"]) == pytest.approx(minor, abs=24)


def test_a_program_that_is_started_keeps_its_streams_and_status(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    out = tmp_path / "faults.json"
    done = leakline("faults", "-q", "-o", out, "--", "sh", "-c", "cat; echo err >&2; exit 9", status=9, input="hello")
    assert done.out == "hello"
    assert done.err == "err\n"
    report = json.loads(out.read_text())
    assert report["status"] == 9
    assert len(report["processes"]) >= 2, "the shell, and cat"
    assert leakline("faults", "-q", "--", build("crashes.c"), "term", status=143).status == 143
    assert "cannot start" in leakline("faults", "--", tmp_path / "nothing", status=127).err
    assert "cannot start" in leakline("faults", "--", tmp_path, status=126).err


# How: signal's exit status, kind, cause, access, line's marker, and words of the explanation.
CRASHES: list[tuple[str, int, str, str, str | None, str | None, str]] = [
    (
        "null-member",
        139,
        "segv",
        "no-vma",
        "read",
        "NULL MEMBER",
        "`someone` is NULL: home.city[3] lies 15 bytes into struct person",
    ),
    ("null-next", 139, "segv", "no-vma", "read", "NULL NEXT", "`first->next` is NULL: id lies 0 bytes into struct person"),
    ("null-call", 139, "segv", "no-vma", "exec", "NULL CALL", "A function pointer that is NULL was called"),
    ("literal", 139, "segv", "forbidden", "write", "WRITE LITERAL", 'string literals stand there, here "a literal"'),
    ("mutual", 139, "segv", "stack-overflow", "write", None, "call each other without end"),
    ("thread-overflow", 139, "segv", "stack-overflow", "write", None, "recurse calls itself without end"),
    ("huge-frame", 139, "segv", "stack-overflow", "write", "HUGE FRAME", "Large local arrays"),
    ("past-end", 139, "segv", "no-vma", "write", "PAST END", "right behind the end of the nearest mapping"),
    ("protected", 139, "segv", "forbidden", "write", "PROTECTED", "or made so by mprotect"),
    ("smash", 139, "segv", "not-an-address", "exec", "SMASH", "return address on the stack was overwritten"),
    ("guard", 139, "segv", "forbidden", "read", "GUARD", "may not be touched at all"),
    ("not-an-address", 139, "segv", "not-an-address", "read", "NOT AN ADDRESS", "no address at all"),
    ("beyond-file", 135, "sigbus", "end-of-file", "read", "BEYOND FILE", "3,199 bytes beyond the end"),
    ("freed", 139, "segv", "no-vma", "write", "FREED", "a use after munmap"),
    ("sent", 139, "segv", "sent", None, None, "sent by itself"),
    ("child", 0, "segv", "no-vma", "read", "NULL MEMBER", "`someone` is NULL"),
    ("handler-returns", 139, "segv", "no-vma", "read", "NULL MEMBER", "ran; then the program ended by it"),
    ("handler-raises", 139, "segv", "no-vma", "read", "NULL MEMBER", "ran; then the program ended by it"),
]


QUICK = ("null-member", "mutual", "not-an-address", "beyond-file", "handler-returns")


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case[0], marks=() if case[0] in QUICK else pytest.mark.slow) for case in CRASHES]
)
def test_a_fatal_fault_is_explained(build: Build, leakline: Leakline, tmp_path: Path, case: tuple[Any, ...]) -> None:
    how, status, kind, cause, access, marker, words = case
    out = tmp_path / "faults.json"
    leakline("faults", "-q", "-o", out, "--", build("crashes.c"), how, status=status)
    report = json.loads(out.read_text())
    (group,) = [g for g in report["faults"] if g["crash"]]
    assert (group["kind"], group["cause"], group["access"]) == (kind, cause, access)
    assert group["crash"]["fatal"]
    assert words in group["explanation"]
    if marker is not None:
        assert group["location"]["line"] == line_of(marker, "crashes.c")
    assert how == "smash" or group["stack"][-1]["function"] in ("_start", "recurse", "even", "odd", "__GI___clone3", "clone3")


@pytest.mark.parametrize(("how", "status"), [("handled", 7), pytest.param("handler-exits", 42, marks=pytest.mark.slow)])
def test_a_fault_that_the_program_handles_itself_is_not_fatal(
    build: Build, leakline: Leakline, tmp_path: Path, how: str, status: int
) -> None:
    out = tmp_path / "faults.json"
    leakline("faults", "-q", "-o", out, "--findings-exit", "99", "--", build("crashes.c"), how, status=status)
    (group,) = [g for g in json.loads(out.read_text())["faults"] if g["crash"]]
    assert group["crash"]["handled"]
    assert not group["crash"]["fatal"]
    assert "did not end by it" in group["explanation"]


@pytest.mark.slow
def test_the_recursion_is_counted(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    out = tmp_path / "faults.json"
    leakline("faults", "-q", "-o", out, "--findings-exit", "99", "--", build("crashes.c"), "mutual", status=99)
    crash = json.loads(out.read_text())["faults"][0]["crash"]
    again = crash["repetition"]
    assert set(again["functions"]) == {"even", "odd"}
    # 8 MiB of stack over the frames of both.
    assert crash["stack_limit"] == 8 << 20
    assert 10_000 < again["times"] < again["depth"] / 2 <= 60_000


def test_without_privilege_a_crash_is_explained_too(build: Build, unprivileged_leakline: Leakline, tmp_path: Path) -> None:
    out = tmp_path / "faults.json"
    unprivileged_leakline("faults", "-q", "-o", out, "--", build("crashes.c"), "null-member", status=139)
    group = json.loads(out.read_text())["faults"][0]
    assert (group["cause"], group["crash"]["field"]["member"]) == ("no-vma", "home.city[3]")


def test_a_core_dump_is_explained(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if "/" in pattern or pattern.startswith("|"):
        pytest.skip(f"core dumps go elsewhere: {pattern}")
    subprocess.run(["sh", "-c", f"ulimit -c unlimited; {build('crashes.c')} null-member"], cwd=tmp_path, check=False)
    (core,) = tmp_path.glob("core*")
    report = leakline("faults", "--core", core, "--json").json
    assert library.explain_core(core).faults[0].explanation == report["faults"][0]["explanation"]
    (group,) = report["faults"]
    assert (group["cause"], group["access"], group["location"]["line"]) == ("no-vma", "read", line_of("NULL MEMBER", "crashes.c"))
    assert group["crash"]["field"] == {"pointer": "someone", "type": "struct person", "member": "home.city[3]", "offset": 15}
    assert report["counts"] == {"minor": None, "major": None}


def test_what_is_no_core_dump_of_a_fault_is_refused(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    program = started(build, start, "first-touch", tmp_path)
    text = tmp_path / "text"
    text.write_text("no core")
    assert "is no core file" in leakline("faults", "--core", text, status=6).err
    saved = tmp_path / "saved"
    leakline("scan", program.pid, "--save", saved)
    assert "does not tell which signal" in leakline("faults", "--core", saved, status=5).err


def test_a_stack_goes_on_behind_a_signal_handler(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    out = tmp_path / "faults.json"
    leakline("faults", "-q", "-o", out, "--", build("crashes.c"), "in-handler", status=139)
    stack = json.loads(out.read_text())["faults"][0]["stack"]
    named = [(frame["function"], frame["line"]) for frame in stack if frame["file"] and frame["file"].endswith("crashes.c")]
    assert named[:2] == [("city_of", line_of("NULL MEMBER", "crashes.c")), ("crash_too", line_of("IN HANDLER", "crashes.c"))]
    assert named[2][0] == "crash"
    assert abs(named[2][1] - line_of("INTERRUPTED", "crashes.c")) <= 1
    assert named[3][0] == "main"


def test_a_static_program_has_stacks_too(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    out = tmp_path / "faults.json"
    leakline("faults", "-q", "-o", out, "--", build("crashes.c", "-g", "-O1", "-static"), "null-call", status=139)
    group = json.loads(out.read_text())["faults"][0]
    assert group["location"]["line"] == line_of("NULL CALL", "crashes.c")
    assert "main" in [frame["function"] for frame in group["stack"]]


def test_the_target_survives_our_death(build: Build, start: Start, tmp_path: Path) -> None:
    """Killed at the worst moment, leakline leaves the program that it follows running."""
    ready = tmp_path / "ready"
    code = f"import pathlib, time; pathlib.Path({str(ready)!r}).write_text('x'); time.sleep(60)"
    command = [sys.executable, "-m", "leakline", "faults", "-q", "--", sys.executable, "-c", code]
    with subprocess.Popen(command) as watcher:
        while not ready.exists():
            assert watcher.poll() is None
            time.sleep(0.01)
        (child,) = Path(f"/proc/{watcher.pid}/task/{watcher.pid}/children").read_text().split()
        assert status_of(int(child))["TracerPid"] == str(watcher.pid)
        watcher.kill()
    try:
        status = status_of(int(child))
        assert status["TracerPid"] == "0"
        assert status["State"][0] in "RS"
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_program_can_be_stopped_and_woken(leakline: Leakline) -> None:
    script = "sh -c 'kill -STOP $$; echo woken' & sleep 0.3; kill -CONT $!; wait $!"
    assert leakline("faults", "-q", "--", "sh", "-c", script, timeout=20).out == "woken\n"


def test_where_events_are_refused_the_counters_are_read(
    build: Build, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # kernel.perf_event_paranoid is the whole machine's: the kernel's refusal is feigned.
    def refuse(*_: object) -> int:
        raise PermissionNeeded("not allowed", hint="sudo sysctl kernel.perf_event_paranoid=2")

    monkeypatch.setattr(FaultEvents, "_open", refuse)
    program = started(build, start, "first-touch", tmp_path)
    watch = FaultWatch(ProcFs(), program.pid, FaultSettings())
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write("\n")
    program.stdin.flush()
    program.stdout.readline()
    report = watch.report()
    assert report.counts.minor is not None
    assert PAGES <= report.counts.minor <= PAGES + 40
    assert report.faults == ()
    assert "perf_event_paranoid" in report.not_seen[0].why
    said: list[str] = []
    outcome = FaultLaunch(ProcFs(), FaultSettings(), said.append).run([str(build("crashes.c")), "null-member"])
    assert outcome.status == 139
    assert outcome.report is not None
    assert outcome.report.faults[0].cause == "no-vma"
    assert "only the kernel's counters" in said[0]


REUSES = """
import mmap, os, subprocess, sys, threading
def work():
    for _ in range(30):
        room = mmap.mmap(-1, 40960, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(10):
            room[page * 4096] = 1
        room.close()
print("READY", flush=True)
sys.stdin.readline()
for round in range(20):
    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    subprocess.run(["true"], close_fds=False)
print("DONE 0 0", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
@pytest.mark.parametrize("unprivileged", [pytest.param(False, marks=needs_root), True])
def test_addresses_that_threads_use_one_after_the_other_are_touched_first_each_time(start: Start, unprivileged: bool) -> None:
    program = start(*(UNPRIVILEGED if unprivileged else []), sys.executable, "-c", REUSES)
    report, _ = watched(program, "--by", "cause", unprivileged=unprivileged)
    counts: Counter[str] = Counter()
    for group in report["faults"]:
        counts[group["cause"]] += group["count"]
    assert counts["first-touch"] + report["lost"] > 20_000
    assert counts["spurious"] < 500
    assert counts["copy-on-write"] < 3000


@pytest.mark.slow
@needs_root
def test_perf_sees_the_same_sites(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed")
    command = [str(build("faulting.c")), "fork-parent"]
    recorded = tmp_path / "perf.data"
    record = [perf, "record", "-q", "-e", "page-faults", "-c", "1", "-o", str(recorded), "--", *command]
    subprocess.run(record, input="\n\n", text=True, check=True, capture_output=True)
    script = [perf, "script", "-i", str(recorded), "-F", "ip,sym"]
    names = subprocess.run(script, text=True, check=True, capture_output=True).stdout.split("\n")
    theirs = Counter(words[1] for name in names if len(words := name.split()) > 1)
    out = tmp_path / "faults.json"
    leakline("faults", "-q", "-o", out, "--", *command, input="\n\n")
    ours: Counter[str] = Counter()
    report = json.loads(out.read_text())
    for group in report["faults"]:
        if group["stack"]:
            ours[group["stack"][0]["function"]] += group["count"]
    # perf counts a fault that is tried again twice.
    assert 2 * PAGES + PAGES <= ours["writes"] <= theirs["writes"] <= ours["writes"] * 1.02
    assert sum(theirs.values()) == pytest.approx(report["seen"]["minor"] + report["seen"]["major"], rel=0.1)


@pytest.mark.slow
@needs_root
@pytest.mark.skipif("LEAKLINE_CHANGE_MACHINE" not in os.environ, reason="LEAKLINE_CHANGE_MACHINE=1: adds swap for a moment")
@pytest.mark.alone
def test_pages_come_back_from_swap(build: Build, start: Start, tmp_path: Path) -> None:
    file = Path("/var/tmp") / f"leakline-swap-{os.getpid()}"
    try:
        with file.open("wb") as stream:
            stream.write(bytes(64 << 20))
        file.chmod(0o600)
        subprocess.run(["mkswap", "-q", str(file)], check=True)
        subprocess.run(["swapon", str(file)], check=True)
        try:
            report, (minor, major) = watched(started(build, start, "swap", tmp_path))
        finally:
            subprocess.run(["swapoff", str(file)], check=True)
    finally:
        file.unlink(missing_ok=True)
    groups = [g for g in report["faults"] if g["cause"] == "swap-in"]
    # The kernel reads several pages at once: those that it read ahead come by minor faults.
    assert sum(g["count"] for g in groups) == pytest.approx(PAGES, abs=10)
    assert {g["kind"] for g in groups} <= {"major", "minor"}
    assert report["counts"]["major"] == pytest.approx(major, abs=10)
    assert report["counts"]["minor"] == pytest.approx(minor, abs=40)


def test_text_and_picture(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    picture = tmp_path / "faults.svg"
    text = leakline("faults", "--sites", "--", build("crashes.c"), "status", status=5).err
    assert "major page faults in" in text
    assert "copy-on-write" in text
    leakline("faults", "-q", "-o", picture, "--", "true")
    assert "Page faults over time" in picture.read_text()
    assert leakline("faults", "-o", picture, "--", "true", status=2).err.endswith(
        "Choose another file, or replace it with --force.\n"
    )


def test_wrong_requests(leakline: Leakline, tmp_path: Path) -> None:
    assert leakline("faults", "--json", "--", "true", status=2)
    assert leakline("faults", str(os.getpid()), "--", "true", status=2)
    assert leakline("faults", "--sites", "--by", "vma", str(os.getpid()), status=2)
    assert leakline("faults", "-d", "1", "--", "true", status=2)
    assert leakline("faults", "4194303", status=4)
    assert leakline("faults", status=2)
