"""The target must not notice: no error from an interrupted call, no lost signal, no stop that lasts, whatever happens to us."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leakline.errors import NotPossible
from leakline.sources.procfs import ProcFs
from leakline.sources.ptrace import stopped
from tests.conftest import Build, Leakline, Program, Start, assert_unharmed, status_of


@pytest.mark.parametrize("call", ["epoll_wait", "recv", "semtimedop", "sigtimedwait", "nanosleep", "poll"])
def test_no_call_returns_eintr(build: Build, start: Start, call: str) -> None:
    program = start(build("waits.c"), call)
    procfs = ProcFs()
    for _ in range(3):
        time.sleep(0.1)
        with stopped(procfs, program.pid, 1.0) as process:
            assert len(process.threads) == 1
    assert program.stdout is not None
    said = program.stdout.readline().strip()
    assert said in ("0 done", "-1 Resource temporarily unavailable"), said


def test_every_thread_stops_and_goes_on(build: Build, start: Start) -> None:
    program = start(build("arenas.c"))
    with stopped(ProcFs(), program.pid, 1.0) as process:
        assert len(process.threads) == 5
        assert all(status_of(t.tid)["State"][0] == "t" for t in process.threads)
        assert len({t.thread_pointer for t in process.threads}) == 5
    assert process.stopped_ns > 0
    assert_unharmed(program)


def test_a_stopped_target_stays_stopped(build: Build, start: Start, leakline: Leakline) -> None:
    """Job control is the user's: what was stopped by SIGSTOP is stopped afterwards, and goes on by SIGCONT."""
    program = start(build("loses.c"))
    assert_answers(program)  # by then it has allocated something
    program.send_signal(signal.SIGSTOP)
    while status_of(program.pid)["State"][0] != "T":
        time.sleep(0.01)
    assert leakline("scan", program.pid, "--json").json["summary"]["reachable"]["blocks"] > 0
    assert status_of(program.pid)["State"][0] == "T"
    program.send_signal(signal.SIGCONT)
    assert_answers(program)


def test_a_target_that_is_traced_already(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("clean.c"))
    code = "import ctypes,sys,time; ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), 0, 0); print('READY', flush=True)"
    code += "; time.sleep(60)"
    tracer = subprocess.Popen([sys.executable, "-c", code, str(program.pid)], stdout=subprocess.PIPE, text=True)
    try:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == "READY\n"
        result = leakline("scan", program.pid, status=5)
        assert f"already traced by {tracer.pid}" in result.err
    finally:
        tracer.kill()
        tracer.communicate()


def test_a_thread_that_does_not_stop_is_let_go(start: Start, tmp_path: Path) -> None:
    """The parent of a vfork waits inside the kernel, where no stop reaches it, until the child is gone."""
    source = tmp_path / "vfork.c"
    source.write_text(
        "#include <stdio.h>\n#include <unistd.h>\n"
        'int main(){puts("READY");fflush(stdout);if(!vfork()){sleep(2);_exit(0);}puts("after");fflush(stdout);for(;;)pause();}'
    )
    subprocess.run(["gcc", "-w", "-o", tmp_path / "vfork", source], check=True)
    program = start(tmp_path / "vfork")
    while ProcFs().stat(program.pid).state != "D":
        time.sleep(0.01)
    began = time.monotonic()
    with pytest.raises(NotPossible, match="does not stop"), stopped(ProcFs(), program.pid, 0.2):
        pass
    assert time.monotonic() - began < 6
    assert program.stdout is not None
    assert program.stdout.readline() == "after\n"
    assert_unharmed(program)


def test_signals_arrive_that_come_during_a_stop(tmp_path: Path, start: Start) -> None:
    source = tmp_path / "counts.c"
    source.write_text(
        "#include <signal.h>\n#include <stdio.h>\n#include <unistd.h>\nstatic volatile int n;static void on(int s){n++;}\n"
        'int main(){signal(SIGRTMIN,on);puts("READY");fflush(stdout);while(n<20)usleep(1000);printf("%d\\n",n);fflush(stdout);'
        "for(;;)pause();}"
    )
    subprocess.run(["gcc", "-w", "-o", tmp_path / "counts", source], check=True)
    program = start(tmp_path / "counts")
    procfs = ProcFs()
    for _ in range(20):
        with stopped(procfs, program.pid, 1.0):
            program.send_signal(signal.SIGRTMIN)
    assert program.stdout is not None
    assert program.stdout.readline() == "20\n"


def assert_answers(program: Program) -> None:
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write("are you there\n")
    program.stdin.flush()
    assert program.stdout.readline() == "are you there\n"
    assert_unharmed(program)


def text_of_malloc(pid: int) -> bytes:
    """The code of libc's malloc and free as the process has it: a breakpoint left behind would show."""
    from leakline.session.process_libc import find_functions, find_libc
    from leakline.sources.remote_memory import RemoteMemory

    functions = find_functions(find_libc(ProcFs(), pid), ["malloc", "calloc", "realloc", "free", "posix_memalign"])
    memory = RemoteMemory(Path("/proc"), pid)
    return b"".join(memory.read(f.address, 32) for f in functions.values())


def kill_at_random_moments(program: Program, arguments: list[str], moments: int, longest: float) -> None:
    before = text_of_malloc(program.pid)
    chance = random.Random(7)
    for _ in range(moments):
        ours = subprocess.Popen(
            [sys.executable, "-m", "leakline", *arguments, str(program.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(chance.uniform(0.05, longest))
        ours.kill()
        ours.wait()
        assert_answers(program)
        # The kernel takes the probes of a killed process out when it closes its descriptors, some moments later.
        until = time.monotonic() + 10
        while text_of_malloc(program.pid) != before and time.monotonic() < until:
            time.sleep(0.01)
        assert text_of_malloc(program.pid) == before


@pytest.mark.parametrize(
    ("arguments", "longest"),
    [
        (["scan", "--confirm", "20"], 1.5),
        (["trace", "--via", "bpf", "-d", "1"], 1.5),
        (["trace", "--via", "breakpoint", "-d", "1"], 1.5),
    ],
    ids=["scan", "bpf", "breakpoint"],
)
def test_a_few_sudden_ends_of_ours(build: Build, start: Start, arguments: list[str], longest: float) -> None:
    kill_at_random_moments(start(build("loses.c")), arguments, 3, longest)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "longest"),
    [
        (["scan", "--confirm", "20"], 1.5),
        (["trace", "--via", "bpf", "-d", "1"], 2.0),
        (["trace", "--via", "breakpoint", "-d", "1"], 2.0),
        (["diagnose"], 4.0),
    ],
    ids=["scan", "bpf", "breakpoint", "diagnose"],
)
def test_fifty_sudden_ends_of_ours(build: Build, start: Start, arguments: list[str], longest: float) -> None:
    kill_at_random_moments(start(build("loses.c")), arguments, 50, longest)


@pytest.mark.slow
def test_many_scans_of_a_busy_program(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("loses.c"))
    for _ in range(10):
        report = leakline("scan", program.pid, "--confirm", "10", "--json").json
        assert all(f["bytes"] % 5008 == 5000 * f["blocks"] % 5008 for f in report["findings"] if f["kind"] == "definite")
    assert_answers(program)


def test_ctrl_c_ends_the_waiting_and_prints_what_there_is(build: Build, start: Start) -> None:
    program = start(build("loses.c"))
    time.sleep(0.3)
    ours = subprocess.Popen(
        [sys.executable, "-m", "leakline", "trace", str(program.pid), "-d", "60", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ours.stderr is not None
    assert "recording" in ours.stderr.readline()
    time.sleep(1)
    ours.send_signal(signal.SIGINT)
    out, err = ours.communicate(timeout=30)
    assert ours.returncode == 0, err
    assert '"findings"' in out
    assert_answers(program)


def test_a_recording_where_children_are_reaped_by_themselves(build: Build, start: Start, needs_bpf: None) -> None:
    program = start(build("loses.c"))
    before = text_of_malloc(program.pid)
    ours = subprocess.run(
        ["env", "--ignore-signal=CHLD", sys.executable, "-m", "leakline", "trace", "-d", "1", "--via", "bpf", str(program.pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ours.returncode == 0, ours.stderr
    assert text_of_malloc(program.pid) == before
    assert_answers(program)


def test_nobody_reads_our_output(build: Build, start: Start) -> None:
    program = start(build("kinds.c"), HOLD="1")
    reader, writer = os.pipe()
    os.close(reader)
    ours = subprocess.run(
        [sys.executable, "-m", "leakline", "scan", str(program.pid)], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert ours.returncode == 0
    assert "Traceback" not in ours.stderr
    assert "BrokenPipe" not in ours.stderr
