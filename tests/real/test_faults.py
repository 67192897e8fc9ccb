from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TARGETS, UNPRIVILEGED, Build, Leakline, Program, Start, assert_unharmed, needs_root

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
    ("literal", 139, "segv", "forbidden", "write", "WRITE LITERAL", "string literals"),
    ("mutual", 139, "segv", "stack-overflow", "write", None, "call each other without end"),
    ("thread-overflow", 139, "segv", "stack-overflow", "write", None, "recurse calls itself without end"),
    ("huge-frame", 139, "segv", "stack-overflow", "write", "HUGE FRAME", "Large local arrays"),
    ("past-end", 139, "segv", "no-vma", "write", "PAST END", "right behind the end of the nearest mapping"),
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
    assert group["stack"][-1]["function"] in ("_start", "recurse", "even", "odd", "__GI___clone3", "clone3")


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
    assert leakline("faults", "4194303", status=4)
    assert leakline("faults", status=2)
