"""What others' checkers found, read, joined, suppressed and compared: real logs of valgrind, gcc and clang."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Build, Leakline, Start

FIXTURES = Path(__file__).parents[1] / "fixtures"
TARGETS = Path(__file__).parents[1] / "targets"
Log = Callable[..., Path]
Family = dict[str, dict[str, Any]]


@pytest.fixture
def log(build: Build, tmp_path: Path) -> Log:
    """A log that somebody else made."""

    def make(how: str, source: str, *arguments: str, flags: tuple[str, ...] = ("-g", "-O0")) -> Path:
        path = tmp_path / f"{how}-{len(list(tmp_path.iterdir()))}.log"
        command: list[object]
        environment = dict(os.environ)
        if how in ("text", "xml"):
            form = ["--xml=yes", f"--xml-file={path}"] if how == "xml" else [f"--log-file={path}"]
            command = ["valgrind", "--leak-check=full", *form, build(source, *flags)]
        elif how == "preloaded":
            asked = subprocess.run(["gcc", "-print-file-name=liblsan.so"], capture_output=True, text=True, check=True)
            environment["LD_PRELOAD"] = asked.stdout.strip()
            command = [build(source, *flags)]
        else:
            compiler, sanitizer = how.split("-")
            chosen = {"gcc": "g++", "clang": "clang++"}[compiler] if source.endswith(".cpp") else compiler
            command = [build(source, *flags, f"-fsanitize={sanitizer}", compiler=chosen)]
        done = subprocess.run(
            [*map(str, command), *arguments], capture_output=True, env=environment, stdin=subprocess.DEVNULL, check=False
        )
        if how not in ("text", "xml"):
            path.write_bytes(done.stdout + done.stderr)
        return path

    return make


def found(report: Any) -> Iterator[Any]:
    for one in report.get("targets", [report]):
        yield from one["findings"]
        for child in one["children"]:
            yield from found(child)


def by_function(report: Any) -> Family:
    return {finding["location"]["function"].split("(")[0]: finding for finding in found(report) if finding["location"]}


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "how",
    [
        "text",
        "clang-leak",
        *(pytest.param(how, marks=SLOW) for how in ("xml", "preloaded", "gcc-address", "clang-address", "gcc-leak")),
    ],
)
def test_logs_of_c(log: Log, leakline: Leakline, how: str) -> None:
    report = leakline("report", log(how, "kinds.c"), "--json").json
    assert report["summary"]["definite"] == {"bytes": 2000, "blocks": 20}
    assert report["summary"]["indirect"] == ({"bytes": 8000, "blocks": 40} if how != "xml" else {"bytes": 0, "blocks": 0})
    finding = by_function(report)["lose_list"]
    assert (finding["bytes"], finding["blocks"], finding["confidence"]) == (2000, 20, "high")
    assert Path(finding["location"]["file"]).name == "kinds.c"
    assert finding["fingerprint"] == "8f07977e9d3263c6", "with every checker, build and release"


@SLOW
@pytest.mark.parametrize("where", ["main", "thread", "fork"])
def test_the_same_leak_has_the_same_fingerprint_with_every_checker(
    log: Log, build: Build, leakline: Leakline, tmp_path: Path, where: str
) -> None:
    agent = tmp_path / "agent.json"
    leakline("run", "-q", "-o", agent, "--", build("sites.cpp", "-g", "-O0"), where)
    logs = [log(how, "sites.cpp", where) for how in ("text", "gcc-address", "clang-address")]
    reports = [leakline("report", path, "--json").json for path in [agent, *logs]]
    prints = []
    for report in reports:
        assert sorted((f["bytes"], f["blocks"]) for f in found(report)) == [(6, 1), (48, 2), (120, 3)]
        prints.append({f["bytes"]: f["fingerprint"] for f in found(report)})
    assert prints == [prints[0]] * 4
    assert set(by_function(reports[-1])) == {"label", "shop::Basket::fill", "void shop::stock<long>"}


def test_another_build_has_the_same_fingerprints(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    shifted = tmp_path / "elsewhere" / "kinds.c"
    shifted.parent.mkdir()
    shifted.write_text("\n" * 30 + "static int more(int a) { return a * 3; }\n" + (TARGETS / "kinds.c").read_text())
    other = tmp_path / "other-name"
    subprocess.run(["gcc", "-g", "-O0", "-no-pie", "-w", "-o", other, shifted], check=True)
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    for program, path in ((build("kinds.c"), first), (other, second)):
        leakline("run", "-q", "-o", path, "--", program)
    done = leakline("diff", first, second, "--json", "--exit-code").json
    assert {change["change"] for change in done["changes"]} == {"same"}
    assert {Path(change["location"]["file"]).parent.name for change in done["changes"]} == {"elsewhere"}


def test_frames_that_a_sanitizer_could_not_name(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    program = build("kinds.c", "-g", "-O0", "-fsanitize=address", compiler="clang")
    path = tmp_path / "log"
    environment = {**os.environ, "ASAN_OPTIONS": "symbolize=0"}
    path.write_bytes(subprocess.run([program], env=environment, capture_output=True, check=False).stderr)
    assert b"lose_list" not in path.read_bytes()
    report = leakline("report", path, "--json").json
    assert by_function(report)["lose_list"]["location"]["line"] == 17
    assert report["target"]["command"] == program.name
    out = tmp_path / "report.json"
    leakline("run", "--engine", "asan", "-q", "-o", out, "--", program, env=environment)
    assert by_function(json.loads(out.read_text()))["lose_list"]["location"]["line"] == 17, "the user's options stay"
    moved = tmp_path / "rebuilt.log"
    moved.write_text(path.read_text().replace("BuildId: ", "BuildId: 00"))
    done = leakline("report", moved)
    assert "is not here any more" in done.err
    assert f"{program.name}+0x" in done.out


@SLOW
def test_logs_of_stripped_programs(log: Log, leakline: Leakline) -> None:
    stripped = ("-O0", "-s", "-no-pie")
    prints = set()
    for how in ("text", "xml", "preloaded"):
        report = leakline("report", log(how, "kinds.c", flags=stripped), "--json").json
        (finding,) = [f for f in found(report) if f["kind"] == "definite"]
        assert (finding["bytes"], finding["stack"][0]["function"]) == (2000, None)
        prints.add(finding["fingerprint"])
    assert len(prints) == 1, "by the address in the module's own terms"


def test_several_files_become_one_report_for_each_program(log: Log, leakline: Leakline, tmp_path: Path) -> None:
    valgrind, other, sanitizer = log("text", "kinds.c"), log("xml", "kinds.c"), log("gcc-leak", "ends.c", "fork")
    nothing = tmp_path / "nothing"
    nothing.write_text("all tests passed\n")
    kernel = FIXTURES / "6.12-x86/kmemleak"
    done = leakline("report", valgrind, other, sanitizer, kernel, nothing, tmp_path / "missing", "--json")
    program, *processes, machine = done.json["targets"]
    assert program["summary"]["definite"] == {"bytes": 4000, "blocks": 40}
    lost = next(f for f in program["findings"] if f["kind"] == "definite")
    assert (lost["blocks"], len(lost["evidence"])) == (40, 2)
    assert sorted(one["summary"]["definite"]["blocks"] for one in processes) == [3, 5], "the child has its parent's"
    assert machine["target"] is None
    assert machine["findings"][0]["location"]["function"] == "leak_one_kmalloc"
    whys = " ".join(gap["why"] for gap in machine["not_judged"])
    assert "nothing holds nothing that leakline reads" in whys
    assert "missing" in whys
    assert "not read: " in done.err
    text = leakline("report", valgrind, kernel, "-n", "1").out
    assert "this machine: the kernel loses what is allocated at leak_one_kmalloc+0x25" in text
    piped = subprocess.run(["cat", sanitizer], stdout=subprocess.PIPE, check=True).stdout.decode()
    assert "leaks at ends.c" in leakline("report", "-", input=piped).out


def test_what_is_no_report(leakline: Leakline, tmp_path: Path) -> None:
    for name, content in (
        ("empty", b""),
        ("text", b"hello\n"),
        ("json", b'{"schema": "leakline.ps/1"}'),
        ("xml", b"<valgrindoutput>"),
    ):
        (tmp_path / name).write_bytes(content)
        done = leakline("report", tmp_path / name, status=6)
        assert name in done.err
        assert "Traceback" not in done.err
    assert "none of the 2 files" in leakline("report", tmp_path / "empty", tmp_path / "text", status=6).err
    assert "cannot read" in leakline("report", tmp_path / "missing", status=2).err
    assert "goes with a recording" in leakline("report", tmp_path / "text", "--series", "a", status=2).err
    (tmp_path / "kmemleak").touch()
    assert "nothing in the kernel was seen to grow" in leakline("report", tmp_path / "kmemleak").out


@pytest.mark.parametrize("engine", [pytest.param("agent", marks=SLOW), pytest.param("valgrind", marks=SLOW), "lsan"])
def test_one_rule_for_all_engines(build: Build, leakline: Leakline, tmp_path: Path, engine: str) -> None:
    rules = tmp_path / "rules"
    rules.write_text(
        "{\n  the basket\n  Memcheck:Leak\n  fun:_Znam\n  fun:_ZN4shop6Basket4fillEi\n}\nleak:shop::stock\nleak:unheard of\n"
    )
    out = tmp_path / "report.json"
    options = ("--engine", engine, "--suppressions", rules, "-v", "-o", out, "-f", "--findings-exit", "9")
    done = leakline("run", *options, "--", build("sites.cpp", "-g", "-O0"), status=9)
    report = json.loads(out.read_text())
    assert report["summary"]["definite"] == {"bytes": 6, "blocks": 1}
    assert [(one["rule"], one["bytes"], one["blocks"]) for one in report["suppressed"]] == [
        ("the basket", 120, 3),
        ("leak:shop::stock", 48, 2),
    ]
    assert "of no use: the suppression leak:unheard of" in done.err
    assert "suppressed 168 bytes in 5 blocks" in done.err
    text = leakline("report", out, "--suppressions", rules).out
    assert "suppressed: 120 bytes in 3 blocks by the basket" in text


@SLOW
def test_rules_that_are_made_for_what_was_found(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    program = build("sites.cpp", "-g", "-O0")
    ours, valgrinds = tmp_path / "ours", tmp_path / "for-valgrind.supp"
    for path in (ours, valgrinds):
        leakline("run", "-q", "--gen-suppressions", path, "--findings-exit", "9", "--", program, status=9)
        leakline("run", "-q", "--suppressions", path, "--findings-exit", "9", "--", program)
    bare = ["valgrind", "--leak-check=full", "--error-exitcode=33", f"--suppressions={valgrinds}", str(program)]
    done = subprocess.run(bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "suppressed: 174 bytes in 6 blocks" in done.stderr
    assert "exists" in leakline("run", "--gen-suppressions", ours, "--", program, status=2).err


def test_a_running_program(build: Build, leakline: Leakline, start: Start, tmp_path: Path) -> None:
    pid, rules = start(build("kinds.c"), HOLD="1").pid, tmp_path / "rules"
    leakline("scan", pid, "--gen-suppressions", rules, "--fail-on", "low", status=1)
    done = leakline("scan", pid, "--suppressions", rules, "--fail-on", "low")
    assert "suppressed 3,640 bytes in 25 blocks" in done.err


@SLOW
def test_entries_that_are_no_leaks_are_handed_on_to_valgrind(leakline: Leakline, tmp_path: Path) -> None:
    source, program, rules, out = (tmp_path / name for name in ("bad.c", "bad", "rules", "out.json"))
    source.write_text("#include <stdlib.h>\nint main(void) { int *p = calloc(1, 4); free(p); return *p; }\n")
    subprocess.run(["gcc", "-g", "-w", "-o", program, source], check=True)
    rules.write_text("{\n  known\n  Memcheck:Addr4\n  fun:main\n}\n")
    leakline("run", "-q", "--engine", "valgrind", "--suppressions", rules, "-o", out, "--", program)
    assert json.loads(out.read_text())["not_judged"] == []


def test_only_what_is_new_since_a_baseline(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    program, base = build("ends.c"), tmp_path / "base.json"
    leakline("run", "-q", "-o", base, "--", program)
    options = ("--baseline", base, "--findings-exit", "9")
    done = leakline("run", *options, "--", program)
    assert "leakline: no findings; 1 known" in done.err
    assert "nothing but what is known" in done.err
    assert leakline("run", *options, "--", build("sites.cpp", "-g"), status=9).err.count("3 findings, new since the baseline") == 1
    grown = leakline("run", *options, "--", program, "fork", status=5)
    assert "1 of them grown" in grown.err, "the child has lost more from the same place"
    assert "grown since the baseline: ends.c" in grown.err


@SLOW
def test_differences(log: Log, leakline: Leakline, tmp_path: Path) -> None:
    before, after = log("text", "ends.c"), log("gcc-leak", "ends.c", "fork")
    same = leakline("diff", before, before, "--exit-code", "--all")
    assert "nothing has changed in 1 finding" in same.out
    done = leakline("diff", before, after, "--exit-code", status=1)
    assert "grown" in done.out
    assert "300 bytes in 3 blocks -> 800 bytes in 8 blocks" in done.out
    leakline("diff", before, after)
    changed = leakline("diff", before, log("text", "sites.cpp"), "--json").json
    assert sorted(change["change"] for change in changed["changes"]) == ["gone", "new", "new", "new"]
    rules = tmp_path / "rules"
    rules.write_text("leak:sites.cpp\n")
    less = leakline("diff", before, log("text", "sites.cpp"), "--suppressions", rules, "--json").json
    assert [change["change"] for change in less["changes"]] == ["gone"]
    assert leakline("diff", before, tmp_path / "missing", status=2).err.startswith("leakline: cannot read")
