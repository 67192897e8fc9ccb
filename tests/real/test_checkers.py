"""Programs under valgrind, AddressSanitizer and LeakSanitizer, in our own words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Build, Leakline


def report_of(leakline: Leakline, path: Path, engine: str, *command: object, status: int = 0, **options: Any) -> Any:
    leakline("run", "--engine", engine, "-o", path, "-f", "--json", "--", *command, status=status, **options)
    return json.loads(path.read_text())


@pytest.mark.parametrize("engine", ["valgrind", "lsan", "asan"])
def test_every_kind(build: Build, leakline: Leakline, tmp_path: Path, engine: str) -> None:
    flags = ("-g", "-O0", "-fsanitize=address") if engine == "asan" else ("-g", "-O0")
    report = report_of(leakline, tmp_path / "report.json", engine, build("kinds.c", *flags))
    summary = report["summary"]
    assert summary["definite"] == {"bytes": 2000, "blocks": 20}
    assert summary["indirect"] == {"bytes": 8000, "blocks": 40}
    assert summary["possible"] == ({"bytes": 1500, "blocks": 5} if engine == "valgrind" else None)
    finding = report["findings"][0]
    assert (finding["location"]["function"], Path(finding["location"]["file"]).name) == ("lose_list", "kinds.c")
    assert finding["confidence"] == "high"
    assert report["bytes_are"] == "requested"


@pytest.mark.parametrize("engine", ["valgrind", "lsan"])
def test_nothing_lost_and_the_programs_own_status(build: Build, leakline: Leakline, tmp_path: Path, engine: str) -> None:
    clean = report_of(leakline, tmp_path / "report.json", engine, "/bin/bash", "-c", "exit 7", status=7)
    assert clean["summary"]["definite"] == {"bytes": 0, "blocks": 0}
    leaking = report_of(leakline, tmp_path / "report.json", engine, build("ends.c"), "abort", status=128 + signal.SIGABRT)
    assert leaking["target"]["command"].startswith("ends")


def test_children_of_valgrind(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    report = report_of(leakline, tmp_path / "report.json", "valgrind", build("ends.c"), "fork", status=5)
    (child,) = report["children"]
    assert (report["summary"]["definite"]["blocks"], child["summary"]["definite"]["blocks"]) == (3, 5)


def test_options_of_the_user_stay(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    suppressions = tmp_path / "suppressions"
    suppressions.write_text("leak:lose_list\n")
    environment = {**os.environ, "LSAN_OPTIONS": f"suppressions={suppressions}:print_suppressions=0"}
    report = report_of(leakline, tmp_path / "report.json", "lsan", build("kinds.c"), env=environment)
    assert report["summary"]["definite"] == {"bytes": 0, "blocks": 0}
    valgrind = tmp_path / "valgrind.supp"
    valgrind.write_text("{\n   ours\n   Memcheck:Leak\n   fun:malloc\n   fun:lose_list\n}\n")
    path = tmp_path / "report.json"
    options = ("--engine", "valgrind", "--valgrind-option", f"--suppressions={valgrind}", "-o", path, "-f", "--json")
    leakline("run", *options, "--", build("kinds.c"))
    assert json.loads(path.read_text())["summary"]["definite"]["blocks"] == 0
    assert "goes with" in leakline("run", "--valgrind-option", "-v", "--", "/bin/true", status=2).err


def test_what_cannot_be_checked(build: Build, leakline: Leakline) -> None:
    done = leakline("run", "--engine", "asan", "--", build("kinds.c"), status=5)
    assert "-fsanitize=address" in done.err
    assert done.out == "", "it was not started"
    assert "cannot start" in leakline("run", "--engine", "lsan", "--", "/nonexistent", status=127).err
    for engine in ("lsan", "valgrind"):
        refused = leakline("run", "--engine", engine, "--", build("kinds.c", "-g", "-fsanitize=address"), status=5)
        assert "--engine asan" in refused.err
    assert "statically linked" in leakline("run", "--engine", "lsan", "--", build("kinds.c", "-static"), status=5).err


def test_errors_that_are_no_leaks_are_counted(tmp_path: Path, leakline: Leakline) -> None:
    source = tmp_path / "bad.c"
    source.write_text("#include <stdlib.h>\nint main(void) { int *p = calloc(1, 4); free(p); return *p; }\n")
    subprocess.run(["gcc", "-g", "-w", "-o", tmp_path / "bad", source], check=True)
    report = report_of(leakline, tmp_path / "report.json", "valgrind", tmp_path / "bad")
    assert "an error that is no leak" in report["not_judged"][0]["why"]


def compiled(tmp_path: Path, text: str, *flags: str, compiler: str = "gcc") -> Path:
    source, program = tmp_path / "program.c", tmp_path / f"program-{compiler}{''.join(flags)}"
    source.write_text(text)
    subprocess.run([compiler, "-g", "-w", *flags, "-o", program, source], check=True)
    return program


def test_a_program_that_no_check_was_made_of(leakline: Leakline, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    program = compiled(tmp_path, "#include <stdlib.h>\n#include <unistd.h>\nint main(void) { malloc(7); _exit(4); }\n")
    report = report_of(leakline, path, "lsan", program, status=4)
    assert report["summary"]["definite"] is None, "nothing was looked for, so nothing is known"
    assert "no leak check was made" in report["not_judged"][0]["why"]


def test_a_crash_that_the_preloaded_checker_makes_is_said(leakline: Leakline, tmp_path: Path) -> None:
    source = "#include <signal.h>\n#include <stdlib.h>\nint main(void) { signal(SIGUSR1, SIG_IGN); malloc(7); return 3; }\n"
    program = compiled(tmp_path, source)
    if subprocess.run([program], env={**os.environ, "LD_PRELOAD": lsan()}, check=False).returncode != -signal.SIGSEGV:
        pytest.skip("this gcc's LeakSanitizer does not crash")
    report = report_of(leakline, tmp_path / "report.json", "lsan", program, status=128 + signal.SIGSEGV)
    assert "signal()" in report["not_judged"][0]["why"]
    assert "--engine agent or valgrind" in report["not_judged"][0]["why"]
    built = report_of(leakline, tmp_path / "report.json", "lsan", compiled(tmp_path, source, "-fsanitize=leak"), status=3)
    assert built["summary"]["definite"]["blocks"] == 1


def lsan() -> str:
    return subprocess.run(["gcc", "-print-file-name=liblsan.so"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(("options", "status"), [("", 1), ("exitcode=42", 42), ("halt_on_error=0", 4)])
def test_a_program_that_addresssanitizer_ends(leakline: Leakline, tmp_path: Path, options: str, status: int) -> None:
    lines = ("char *p = malloc(9);", "void *volatile q = malloc(7);", "q = 0;", "free(p);", "volatile char c = p[1];", "return 4;")
    program = compiled(
        tmp_path,
        f"#include <stdlib.h>\nint main(void) {{ {' '.join(lines)} }}\n",
        "-fsanitize=address",
        "-fsanitize-recover=address",
    )
    environment = {**os.environ, "ASAN_OPTIONS": options}
    report = report_of(leakline, tmp_path / "report.json", "asan", program, status=status, env=environment)
    whys = " ".join(gap["why"] for gap in report["not_judged"])
    assert "AddressSanitizer" in whys or "LeakSanitizer reports an error" in whys
    if status == 4:
        assert report["summary"]["definite"] == {"bytes": 7, "blocks": 1}
    else:
        assert "before leaks were looked for" in whys
        assert report["summary"]["definite"] is None


MIDWAY = """\
#include <sanitizer/lsan_interface.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
__attribute__((noinline)) static void lose(int blocks) { while (blocks--) memset(malloc(50), 1, 50); }
__attribute__((noinline)) static void wipe(void) { volatile char stack[16384]; memset((char *)stack, 0, sizeof stack); }
int main(int count, char **arguments)
{
	lose(3), wipe();
	if (!strcmp(arguments[1], "go on"))
		__lsan_do_recoverable_leak_check();
	else
		__lsan_do_leak_check();
	lose(4), wipe();
	if (!fork())
		return lose(2), wipe(), 9;
	wait(NULL);
	return 6;
}
"""


@pytest.mark.parametrize(("engine", "compiler"), [("lsan", "gcc"), ("asan", "clang")])
def test_checks_on_demand_and_children(leakline: Leakline, tmp_path: Path, engine: str, compiler: str) -> None:
    flag = "-fsanitize=address" if engine == "asan" else "-fsanitize=leak"
    program, path = compiled(tmp_path, MIDWAY, flag, compiler=compiler), tmp_path / "report.json"
    report = report_of(leakline, path, engine, program, "go on", status=6)
    assert report["summary"]["definite"] == {"bytes": 350, "blocks": 7}, "of its last check"
    (child,) = report["children"]
    assert child["summary"]["definite"] == {"bytes": 450, "blocks": 9}
    once = report_of(leakline, path, engine, program, "end", status=6)
    assert once["summary"]["definite"] == {"bytes": 150, "blocks": 3}, "there is no second check after that one"


def test_exit_codes_of_checkers_are_no_matter(build: Build, leakline: Leakline, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "VALGRIND_OPTS": "--error-exitcode=99",
        "LSAN_OPTIONS": "exitcode=98",
        "ASAN_OPTIONS": "exitcode=97",
    }
    for engine, flags in (("valgrind", ()), ("lsan", ()), ("asan", ("-g", "-fsanitize=address"))):
        report = report_of(leakline, tmp_path / "report.json", engine, build("ends.c", *flags), "fork", status=5, env=environment)
        assert report["summary"]["definite"]["blocks"] == 3
        assert [child["summary"]["definite"]["blocks"] for child in report["children"]] == [5]
