"""The main job: a running program that leakline did not start, to the line that leaks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import TARGETS, UNPRIVILEGED, Build, Leakline, Start, assert_unharmed, needs_root
from tests.programs import EXAMPLE


@pytest.fixture(scope="session")
def classic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("classic") / "leak-example"
    headers = ["-include", "stdlib.h", "-include", "unistd.h"]
    subprocess.run(["gcc", "-g", "-O0", "-w", *headers, "-o", program, EXAMPLE], check=True)
    return program


def check_classic(report: dict[str, object]) -> None:
    (top,) = [f for f in report["findings"] if f["kind"] == "definite"]  # type: ignore[attr-defined]
    assert (Path(top["location"]["file"]).name, top["location"]["line"], top["location"]["function"]) == (
        "leak-example.c",
        6,
        "main",
    )
    assert (top["location_is"], top["confidence"]) == ("recorded", "high")
    assert top["blocks"] >= 10
    assert top["bytes"] == 12296 * top["blocks"]
    low, high = top["rate_interval"]
    assert low < 12296 * 10 < high, "ten blocks a second"
    assert {e["method"] for e in top["evidence"]} >= {"scan", "trace"}


def test_the_classic(classic: Path, start: Start, leakline: Leakline, needs_bpf: None) -> None:
    named = Path(shutil.copy2(classic, classic.with_name("leak-classic")))
    program = start(named, ready=False)
    time.sleep(1)
    result = leakline("diagnose", program.pid, "--json")
    assert_unharmed(program)
    check_classic(result.json)
    for rung in ("system:", f"process {program.pid}:", "mapping [heap]", "scan (glibc", "recording by BPF"):
        assert rung in result.err
    assert "GROWING: " in result.err
    assert "For LEAK it takes at least 30 samples" in result.err
    text = leakline("diagnose", "--name", "leak-classic", "--fail-on", "medium", status=1).out
    assert text.splitlines()[0] == f"leak-classic (pid {program.pid}): leaks at leak-example.c:6"


def test_the_classic_without_any_privilege(classic: Path, start: Start, unprivileged_leakline: Leakline) -> None:
    program = start(*([*UNPRIVILEGED, str(classic)] if UNPRIVILEGED else [classic]), ready=False)
    time.sleep(1)
    result = unprivileged_leakline("diagnose", program.pid, "--json")
    assert_unharmed(program)
    assert "hardware breakpoints" in result.err
    found = [f for f in result.json["findings"] if f["kind"] == "definite"]
    if "no way to record" in result.err:
        assert "perf_event_paranoid" in result.err, "it says which privilege would help"
        assert found[0]["location"] is None
    else:
        check_classic(result.json)


def test_growth_without_loss_is_a_finding_of_its_own(start: Start, leakline: Leakline) -> None:
    code = "import time\nprint('READY', flush=True)\nheld=[]\nwhile True:\n held.append(bytes(30000)); time.sleep(0.05)"
    program = start(sys.executable, "-c", code)
    time.sleep(1)
    result = leakline("diagnose", program.pid, "--json", "--fail-on", "low", status=1)
    (finding,) = [found for found in result.json["findings"] if found["kind"] == "growing"]
    assert (finding["confidence"], finding["subject"]["type"]) in (("low", "mapping"), ("low", "heap"))
    functions = [frame["function"] for frame in finding["stack"]]
    assert not functions or any("bytes" in (function or "").lower() for function in functions)
    assert 300_000 < finding["rate_bytes_per_second"] < 900_000
    assert_unharmed(program)


def test_a_program_that_does_not_leak(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("clean.c"))
    began = time.monotonic()
    result = leakline("diagnose", program.pid)
    assert time.monotonic() - began < 20
    assert f"(pid {program.pid}): no leak found" in result.out.splitlines()[0]
    assert leakline("diagnose", program.pid, "--json", "--fail-on", "low").json["findings"] == []
    assert_unharmed(program)


def test_several_targets(classic: Path, build: Build, start: Start, leakline: Leakline) -> None:
    leaky, clean = start(classic, ready=False), start(build("clean.c"))
    time.sleep(1)
    result = leakline("diagnose", clean.pid, leaky.pid, 4_000_000, "--json")
    targets = {t["target"]["pid"]: t for t in result.json["targets"]}
    assert [f["kind"] for f in targets[leaky.pid]["findings"]].count("definite") == 1
    assert targets[clean.pid]["findings"] == []
    assert "skipped: there is no process 4000000" in result.err


def test_growth_that_the_scan_cannot_see_into_is_named(tmp_path: Path, start: Start, leakline: Leakline) -> None:
    source = tmp_path / "maps.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n#include <sys/mman.h>\n"
        'int main(){free(malloc(9));puts("READY");fflush(stdout);'
        "for(;;){char*p=mmap(0,65536,3,MAP_PRIVATE|MAP_ANONYMOUS,-1,0);for(int i=0;i<65536;i+=4096)p[i]=1;usleep(100000);}}"
    )
    subprocess.run(["gcc", "-o", tmp_path / "maps", source], check=True)
    program = start(tmp_path / "maps")
    report = leakline("diagnose", program.pid, "--json").json
    (gap,) = report["not_judged"]
    assert "it grew by" in gap["why"]
    assert gap["bytes"] >= 64 * 1024
    (finding,) = report["findings"]
    assert (finding["kind"], finding["subject"], finding["confidence"]) == ("growing", {"type": "mapping", "name": "[anon]"}, "low")


def test_python_objects_are_named_as_not_judged(start: Start, leakline: Leakline) -> None:
    code = "import time; held=[str(i)*9 for i in range(60000)]; print('READY', flush=True); time.sleep(60)"
    program = start(sys.executable, "-c", code)
    report = leakline("scan", program.pid, "--json").json
    (gap,) = report["not_judged"]
    assert "Python" in gap["name"]
    assert 0.1 < gap["share"] < 1
    assert_unharmed(program)


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "leakline", "diagnose", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_program_that_leakline_starts(tmp_path: Path) -> None:
    source = tmp_path / "leaks.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n"
        "static void lose(void){char*volatile p=malloc(5000);*p=1;p=0;}\n"
        'int main(){puts("out");fprintf(stderr,"err\\n");for(int i=0;i<600;i++){lose();usleep(20000);}return 7;}\n'
    )
    subprocess.run(["gcc", "-g", "-O0", "-o", tmp_path / "leaks", source], check=True)
    report = tmp_path / "report.json"
    done = launch("-q", "-o", str(report), "--", str(tmp_path / "leaks"))
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n"), "its own status and streams"
    top = json.loads(report.read_text())["findings"][0]
    assert (top["kind"], top["location"]["line"]) == ("definite", 4)


def test_a_started_program_that_ends_at_once() -> None:
    done = launch("--", "sh", "-c", "echo hello; exit 3")
    assert (done.returncode, done.stdout) == (3, "hello\n")
    assert "ended before" in done.stderr
    assert launch("--", "sh", "-c", "kill -TERM $$").returncode == 128 + 15


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    missing = launch("--", str(tmp_path / "missing"))
    assert missing.returncode == 127
    assert missing.stderr.startswith("leakline: cannot start")
    (tmp_path / "text").write_text("x")
    assert launch("--", str(tmp_path / "text")).returncode == 126


@needs_root
@pytest.mark.slow
@pytest.mark.alone
def test_the_kernel_side_of_the_ladder_without_a_process(start: Start, leakline: Leakline, tmp_path: Path) -> None:
    maker = start(sys.executable, str(TARGETS / "kernel_things.py"), "tcp", "400", str(tmp_path))
    assert maker.stdin is not None
    maker.stdin.write("go\n")
    maker.stdin.flush()
    result = leakline("diagnose", "--budget", "30s", "--json")
    reports = result.json.get("targets", [result.json])
    (kernel,) = [report for report in reports if report["target"] is None]
    counter = next(f for f in kernel["findings"] if f["kind"] == "growing" and f["subject"]["name"] == "slab:TCP")
    assert any(e["method"] == "owner" and e["values"]["pid"] == maker.pid for e in counter["evidence"])
    assert "kernel: slab:TCP" in result.err
    functions = {frame["function"] for finding in kernel["findings"] for frame in finding["stack"]}
    assert "inet_create" in functions or any(gap["name"] == "the allocating line" for gap in kernel["not_judged"])
