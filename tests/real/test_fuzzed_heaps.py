"""Damaged heaps of a real process, judged by a walker that was built with sanitizers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from leakline.session.imaging import Imager
from leakline.sources.procfs import ProcFs
from tests.conftest import Build, Program, Start
from tests.real.heap_fuzzer import Capture, Outcome

ROOT = Path(__file__).parents[2]
_SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1", "UBSAN_OPTIONS": "print_stacktrace=1"}


def captured(program: Program) -> Capture:
    image = Imager(ProcFs(), program.pid).take()
    return Capture(
        version=(image.version.major, image.version.minor),
        libc=image.libc,
        vmas=image.vmas,
        threads=image.threads,
        held=image.held,
        runs=image.copy.runs,
        data=b"".join(image.copy.read(start, end - start) for start, end in image.copy.runs),
    )


@pytest.fixture(scope="module")
def sanitised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The walker with sanitizers, and the runtime that a program without them needs for it."""
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip("this gcc has no libasan")
    library = tmp_path_factory.mktemp("sanitised") / "libleakline-heap.so"
    sources = sorted(map(str, (ROOT / "native/heap").glob("*.c")))
    flags = ("-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    subprocess.run(["gcc", *flags, *_SANITIZERS, *sources, "-o", str(library)], check=True)
    return library, runtime


@pytest.mark.parametrize("step", [101, pytest.param(7, marks=pytest.mark.slow)])
def test_damaged_heaps_neither_crash_nor_hang(
    build: Build, start: Start, sanitised: tuple[Path, str], tmp_path: Path, step: int
) -> None:
    library, runtime = sanitised
    capture, log = tmp_path / "capture", tmp_path / "log"
    log.touch()
    capture.write_bytes(msgspec.msgpack.encode(captured(start(build("every_heap.c")))))
    command = [sys.executable, "-m", "tests.real.heap_fuzzer", *map(str, (library, capture, log, step))]
    done = subprocess.run(
        command, capture_output=True, cwd=ROOT, env={**os.environ, **_OPTIONS, "LD_PRELOAD": runtime}, check=False
    )
    assert done.returncode == 0, f"{log.read_text().splitlines()[-1:]}: {done.stderr.decode()}"
    outcome = msgspec.json.decode(done.stdout, type=Outcome)
    assert outcome.images > 30_000 // step
    assert outcome.reported > outcome.images // 3
    assert outcome.unnoticed == ()
