"""`diagnose` on programs of several languages, and on leaks of programs that Debian ships."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TARGETS, Leakline, Start, assert_unharmed

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("needs_bpf")]
SOURCES = TARGETS / "languages"


def line_of(source: str, marker: str) -> int:
    lines = (SOURCES / source).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if marker in line)


def first_finding(leakline: Leakline, *target: object) -> Any:
    report = leakline("diagnose", "--json", *target).json
    return report["findings"][0]


def go() -> str:
    found = shutil.which("go") or next(iter(sorted(map(str, Path("/usr/lib").glob("go-*/bin/go")))), None)
    assert found is not None, "golang-go is not installed"
    return found


@pytest.mark.parametrize("flags", [("-O0",), ("-O2", "-fomit-frame-pointer")], ids=" ".join)
def test_an_exception_that_passes_the_place_that_frees(
    tmp_path: Path, start: Start, leakline: Leakline, flags: tuple[str, ...]
) -> None:
    subprocess.run(["g++", "-g", *flags, "-o", tmp_path / "server", SOURCES / "server.cpp"], check=True)
    program = start(tmp_path / "server")
    finding = first_finding(leakline, program.pid)
    assert_unharmed(program)
    assert (finding["kind"], finding["confidence"]) == ("definite", "high")
    assert finding["location"]["line"] == line_of("server.cpp", "// lost when parse() throws")


def test_rust_through_c(tmp_path: Path, start: Start, leakline: Leakline) -> None:
    subprocess.run(["rustc", "-g", "-O", "-o", tmp_path / "through_c", SOURCES / "through_c.rs"], check=True)
    program = start(tmp_path / "through_c")
    finding = first_finding(leakline, program.pid)
    assert_unharmed(program)
    assert (finding["kind"], finding["confidence"]) == ("definite", "high")
    assert (Path(finding["location"]["file"]).name, finding["location"]["line"]) == (
        "through_c.rs",
        line_of("through_c.rs", "// lost"),
    )


def test_go_through_c(tmp_path: Path, start: Start, leakline: Leakline) -> None:
    """cgo calls C on a stack of its own: the caller is the stub that cgo made."""
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "GOFLAGS": "-mod=mod",
        "GO111MODULE": "off",
        "GOCACHE": str(tmp_path / "cache"),
    }
    subprocess.run([go(), "build", "-o", tmp_path / "through_c", SOURCES / "through_c.go"], check=True, env=environment)
    program = start(tmp_path / "through_c")
    finding = first_finding(leakline, program.pid)
    assert_unharmed(program)
    assert finding["kind"] == "definite"
    functions = [frame["function"] or "" for frame in finding["stack"]]
    assert any("_Cfunc__CMalloc" in function or "_cgo_" in function for function in functions), functions


def test_a_module_of_cpython(tmp_path: Path, start: Start, leakline: Leakline) -> None:
    include = sysconfig.get_paths()["include"]
    assert (Path(include) / "Python.h").exists(), "no Python.h"
    flags = ["-g", "-O2", "-shared", "-fPIC", f"-I{include}"]
    subprocess.run(["gcc", *flags, "-o", tmp_path / "extension.so", SOURCES / "extension.c"], check=True)
    code = "import extension, time\nprint('READY', flush=True)\nwhile True:\n extension.render(); time.sleep(0.005)"
    program = start(sys.executable, "-c", code, PYTHONPATH=str(tmp_path))
    finding = first_finding(leakline, program.pid)
    assert_unharmed(program)
    assert finding["kind"] == "definite"
    assert (finding["location"]["function"], finding["location"]["line"]) == ("render", line_of("extension.c", "/* lost */"))


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_jq_loses_what_ltrimstr_was_given(leakline: Leakline) -> None:
    """jq 1.6's ltrimstr() does not free an argument that is no string; Debian's is stripped, so there are functions and offsets."""
    if not subprocess.run(["jq", "--version"], capture_output=True, text=True, check=False).stdout.startswith("jq-1.6"):
        pytest.skip("another jq may have mended it")
    query = 'range(1e12) | select(. % 500 == 0) | tostring | ltrimstr({a: ("zzz" + .)}) | empty'
    program = subprocess.Popen(["jq", "-n", query], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        finding = first_finding(leakline, program.pid)
    finally:
        program.kill()
        program.wait()
    assert finding["kind"] == "definite"
    assert finding["stack"][0]["module"].startswith("libjq")
    assert finding["stack"][0]["build_id"]


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_tmux_loses_what_it_quotes(leakline: Leakline, tmp_path: Path) -> None:
    """tmux 3.3a loses the text before it was quoted, each time that `#{q:}` is expanded."""
    if not subprocess.run(["tmux", "-V"], capture_output=True, text=True, check=False).stdout.startswith("tmux 3.3a"):
        pytest.skip("another tmux may have mended it")
    tmux = ["tmux", "-S", str(tmp_path / "socket"), "-f", "/dev/null"]
    subprocess.run([*tmux, "new-session", "-d", "-x", "80", "-y", "24", "sleep 300"], check=True)
    try:
        pid = int(subprocess.run([*tmux, "display-message", "-p", "#{pid}"], capture_output=True, text=True, check=True).stdout)
        script = "while :; do " + " ".join(tmux) + " display-message -p '#{q:pane_title}' >/dev/null 2>&1; sleep 0.05; done"
        busy = subprocess.Popen(["sh", "-c", script])
        try:
            time.sleep(1)
            report = leakline("diagnose", "--json", pid).json
        finally:
            busy.kill()
            busy.wait()
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
    finding = report["findings"][0]
    assert (finding["kind"], finding["confidence"]) == ("definite", "high")
    assert finding["stack"][0]["module"].startswith("tmux")
    assert finding["blocks"] >= 20
