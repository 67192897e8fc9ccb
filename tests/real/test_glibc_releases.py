"""Scans of programs that run on the glibc of other releases, each started by its own loader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from leakline.errors import NotSupported
from leakline.session.scanning import Scanner
from leakline.sources.procfs import ProcFs
from tests.conftest import Build, Leakline, Program, Start, assert_unharmed

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parents[2] / "build/glibcs"
RELEASES = {"bullseye": "2.31", "bookworm": "2.36", "trixie": "2.41", "forky": ""}
Run = Callable[..., Program]
TUNABLES = ["", "glibc.malloc.tcache_count=0", "glibc.malloc.tcache_max=1048576", "glibc.malloc.arena_max=1"]


@pytest.fixture(params=RELEASES)
def run(request: pytest.FixtureRequest, build: Build, start: Start) -> Run:
    """Compile a target for the glibc of a release, and start it there."""
    root = FOLDER / request.param
    libraries = root / "lib/x86_64-linux-gnu"
    if not root.is_dir():
        pytest.skip(f"the glibc of Debian {request.param} is not there: `make glibcs` fetches it")

    def run_target(source: str, *arguments: str, **environment: str) -> Program:
        # -B: gcc would look for crt1.o and libc where its own libraries lie.
        flags = f"--sysroot={root}", f"-B{libraries}", "-static-libgcc", "-g", "-O0"
        loader = libraries / "ld-linux-x86-64.so.2"
        program = start(loader, "--library-path", str(libraries), str(build(source, *flags)), *arguments, **environment)
        try:
            allocator = Scanner(ProcFs(), program.pid).scan().allocator
        except NotSupported as error:
            if RELEASES[request.param]:
                raise
            pytest.skip(f"Debian {request.param}, which is not released yet: {error.message}")
        assert allocator.startswith(f"glibc {RELEASES[request.param]}")
        return program

    return run_target


@pytest.mark.parametrize("tunables", TUNABLES)
def test_every_shape_of_heap(run: Run, leakline: Leakline, tunables: str) -> None:
    program = run("releases.c", GLIBC_TUNABLES=tunables)
    report = leakline("scan", program.pid, "--json").json
    assert_unharmed(program)
    assert report["not_judged"] == []
    lost = {kind: report["summary"][kind]["blocks"] for kind in ("definite", "indirect", "possible")}
    assert lost == {"definite": 102, "indirect": 102, "possible": 0}


@pytest.mark.parametrize("mode", ["", "live"])
def test_stacks_of_ended_threads_hold_nothing(run: Run, leakline: Leakline, mode: str) -> None:
    program = run("ended_threads.c", mode, HOLD="1")
    report = leakline("scan", program.pid, "--json").json
    assert_unharmed(program)
    assert report["not_judged"] == []
    # A thread that lives may by chance keep a word that looks like a pointer into one of them.
    assert report["summary"]["definite"]["blocks"] + report["summary"]["possible"]["blocks"] == 50
    assert report["summary"]["definite"]["blocks"] >= 49


def test_without_a_stop(run: Run, leakline: Leakline) -> None:
    program = run("releases.c")
    report = leakline("scan", program.pid, "--no-stop", "--json").json
    assert_unharmed(program)
    assert report["summary"]["possible"]["blocks"] == 204
