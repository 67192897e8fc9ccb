"""What the tests share: compiled targets, running programs, the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes says nothing on a busy machine.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

TARGETS = Path(__file__).parent / "targets"
Program = subprocess.Popen[str]
Build = Callable[..., Path]
Start = Callable[..., Program]


class Result:
    """A finished command."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Leakline = Callable[..., Result]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compile a target; the same one only once."""
    folder = tmp_path_factory.mktemp("targets")
    for path in (folder, *folder.parents):  # other users run them too
        if path.stat().st_uid != os.geteuid() or path.stat().st_mode & 0o1000:
            break
        path.chmod(0o755)
    built: dict[tuple[str, ...], Path] = {}

    def compile_target(source: str, *flags: str, compiler: str | None = None) -> Path:
        key = (source, compiler or "", *flags)
        if key not in built:
            chosen = compiler or ("g++" if source.endswith(".cpp") else "gcc")
            if shutil.which(chosen) is None:
                pytest.skip(f"{chosen} is not installed")
            out = folder / f"{Path(source).stem}-{len(built)}"
            options = flags or ("-g", "-O0")
            subprocess.run([chosen, *options, "-w", "-pthread", "-o", str(out), str(TARGETS / source)], check=True)
            built[key] = out
        return built[key]

    return compile_target


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program and wait for its READY line; it is killed at the end."""
    programs: list[Program] = []

    def run(program: Path | str, *arguments: str, ready: bool = True, **environment: str) -> Program:
        started = subprocess.Popen(
            [str(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        programs.append(started)
        if ready:
            assert started.stdout is not None
            assert started.stdout.readline().strip() == "READY"
        return started

    yield run
    for program in programs:
        program.kill()
        program.communicate()


@pytest.fixture(scope="session")
def leakline() -> Leakline:
    """Run leakline as a command."""

    def run(*arguments: object, status: int | None = 0, timeout: float = 120, **options: Any) -> Result:
        command = [sys.executable, "-m", "leakline", *map(str, arguments)]
        result = Result(
            subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, check=False, errors="surrogateescape", **options
            )
        )
        assert status is None or result.status == status, result.err
        return result

    return run


def status_of(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def assert_unharmed(program: Program) -> None:
    """It runs, and nobody traces or stops it."""
    assert program.poll() is None
    for thread in Path(f"/proc/{program.pid}/task").iterdir():
        status = status_of(int(thread.name))
        assert status["State"][0] in "RSD", status["State"]
        assert status["TracerPid"] == "0"


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="session")
def needs_bpf() -> None:
    """Skip where BPF may not be used."""
    from leakline.errors import LeaklineError
    from leakline.sources.bpf import HeapRecorder

    try:
        HeapRecorder().close()
    except LeaklineError as error:
        pytest.skip(f"BPF: {error.message}")


# uid 0 without any capability is an ordinary user to the kernel, and can still read an interpreter that only root may.
UNPRIVILEGED = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--ambient-caps", "-all"] if os.geteuid() == 0 else []


@pytest.fixture(scope="session")
def unprivileged_leakline() -> Leakline:
    """Run leakline without any capability."""

    def run(*arguments: object, status: int | None = 0, timeout: float = 120) -> Result:
        command = [*UNPRIVILEGED, sys.executable, "-m", "leakline", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        assert status is None or done.returncode == status, done.stderr
        return Result(done)

    return run
