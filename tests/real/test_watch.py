"""`watch` on real programs."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leakline.analysis.trend import Settings
from leakline.session.interruption import Interruption
from leakline.session.sampling import Choice, Sampler
from leakline.session.watching import Samples, Watch
from leakline.sources.machine import Machine
from leakline.sources.procfs import ProcFs
from tests.conftest import Build, Leakline, Start, assert_unharmed
from tests.programs import CACHE, EXAMPLE, LEAK

WAVE = """
import math, time
print("READY", flush=True)
began = time.monotonic()
while True:
    held = bytearray(b"x") * int((3 + math.sin(2 * math.pi * (time.monotonic() - began) / 2.5)) * (4 << 20))
    time.sleep(0.05)
"""


def test_the_classic_leak_is_growing_within_half_a_minute_and_the_others_are_not(
    start: Start, leakline: Leakline, tmp_path: Path
) -> None:
    program = tmp_path / "leak-example"
    includes = ["-include", "stdlib.h", "-include", "unistd.h"]
    subprocess.run(["cc", "-g", "-w", *includes, "-o", str(program), str(EXAMPLE)], check=True)
    leak, cache, wave = start(program, ready=False), start(sys.executable, "-c", CACHE), start(sys.executable, "-c", WAVE)
    time.sleep(2)
    result = leakline("watch", leak.pid, cache.pid, wave.pid, "-d", "29", "--json", "--fail-on", "low", status=1)
    reports = {report["target"]["pid"]: report for report in result.json["targets"]}
    (finding,) = reports[leak.pid]["findings"]
    assert (finding["kind"], finding["subject"], finding["confidence"]) == ("growing", {"type": "mapping", "name": "[heap]"}, "low")
    assert finding["rate_interval"][0] <= finding["rate_bytes_per_second"] <= finding["rate_interval"][1]
    assert 80_000 <= finding["rate_bytes_per_second"] <= 160_000, "12,296 bytes every 0.1 s"
    assert reports[cache.pid]["findings"] == reports[wave.pid]["findings"] == []
    assert reports[leak.pid]["cost"]["target_stopped_ns"] == 0
    assert f"next: leakline diagnose {leak.pid}" in result.err
    for one in (leak, cache, wave):
        assert_unharmed(one)


def test_a_service_that_is_started_anew_goes_on_in_its_series(leakline: Leakline, tmp_path: Path) -> None:
    name = f"loop{os.getpid()}"
    program = tmp_path / name
    program.symlink_to("/bin/sleep")
    script = f'while :; do "{program}" 1; done'
    loop = subprocess.Popen(["sh", "-c", script])
    try:
        time.sleep(0.3)
        result = leakline("watch", "--name", f"^{name[:15]}$", "-i", "100ms", "-d", "5", "--json")
        assert result.json["findings"] == [], "a restart is no growth"
    finally:
        loop.kill()
        loop.wait()


def test_it_ends_with_its_process_and_at_ctrl_c(start: Start, leakline: Leakline) -> None:
    short = subprocess.Popen(["sleep", "1.5"])
    begun = time.monotonic()
    result = leakline("watch", short.pid, "-i", "0.2")
    short.wait()
    assert time.monotonic() - begun < 30
    assert "no findings" in result.out.lower() or result.out
    program = start(sys.executable, "-c", CACHE)
    ours = subprocess.Popen(
        [sys.executable, "-m", "leakline", "watch", str(program.pid), "-i", "0.2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    time.sleep(4)
    ours.send_signal(signal.SIGINT)
    out, err = ours.communicate(timeout=30)
    assert (ours.returncode, b"Traceback" in err) == (0, False)
    assert out
    assert_unharmed(program)


def test_bad_targets(leakline: Leakline) -> None:
    assert "no process 4194303" in leakline("watch", 4194303, status=4).err
    assert leakline("watch", status=2).err
    assert leakline("watch", 2, status=None).status in (4, 5)
    assert leakline("watch", os.getpid(), "-i", "0.001", status=2).err


@pytest.mark.alone
def test_all_processes_are_watched_and_only_what_grows_is_said(start: Start, leakline: Leakline, tmp_path: Path) -> None:
    leak, steady = start(sys.executable, "-c", LEAK), start("sh", "-c", "echo READY; exec sleep 60")
    out = tmp_path / "said.json"
    tell = f"cat > {out}; echo told"
    result = leakline("watch", "all", "-i", "0.5", "-d", "20", "--grow-over", "1MiB/h", "--exec", tell, "--json")
    reports = result.json.get("targets", [result.json])
    assert leak.pid in [report["target"]["pid"] for report in reports]
    assert steady.pid not in [report["target"]["pid"] for report in reports]
    assert "told" in result.err, "the command's own output is no report"
    told = json.loads(out.read_text())
    assert told["findings"][0]["kind"] == "growing"
    assert " watched" in result.err
    assert f"sh ({steady.pid})" not in result.err
    slow = leakline("watch", leak.pid, "-i", "0.2", "-d", "6", "--grow-over", "1GiB/s", "--json")
    assert slow.json["findings"] == [], "slower than what was asked for"
    for one in (leak, steady):
        assert_unharmed(one)


def test_the_limit_of_the_process_itself(start: Start, leakline: Leakline) -> None:
    code = f"import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n{LEAK}"
    leak = start(sys.executable, "-c", code)
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    result = leakline("watch", leak.pid, "-i", "0.2", "-d", "12")
    assert "AT-RISK GROWING" in result.err
    assert re.search(r"The limit of (9\d\d|1,0[01]\d)\.\d MiB is reached in \d+ min", result.err), result.err


@pytest.mark.alone
def test_processes_of_a_control_group(start: Start, leakline: Leakline) -> None:
    leak = start(sys.executable, "-c", LEAK)
    group = ProcFs().memory_cgroup(leak.pid)
    result = leakline("watch", "--cgroup", group, "-i", "0.5", "-d", "10", "--json")
    reports = result.json.get("targets", [result.json])
    assert leak.pid in [report["target"]["pid"] for report in reports]
    assert "no such process" in leakline("watch", "--cgroup", "/no/such/group", "-d", "1", status=4).err


def test_what_has_changed_and_was_not_read_anew_is_no_sample(start: Start) -> None:
    program = start("sh", "-c", "echo READY; exec sleep 60")
    watch, sampler = Watch(Machine(), Interruption(), Settings()), Sampler(Machine(), Choice.of([program.pid]))
    look = sampler.tick()
    (sampled,) = look.processes
    seen: list[list[float]] = []
    for suspect in (False, True, True, False):
        sampled.suspect = suspect
        watch._take(look, float(len(seen)))
        standing = watch.standing(sampled.identity)
        assert standing is not None
        seen.append(list(standing.samples.times))
    sampler.close()
    assert seen == [[0.0], [0.0], [0.0], [0.0, 3.0]]


def test_samples_stay_in_a_bounded_space() -> None:
    samples = Samples()
    for number in range(10_000):
        samples.add(number, number * 2.0, number // 5000)
    assert 256 <= len(samples.times) <= 512
    steps = {b - a for a, b in zip(samples.times, samples.times[1:], strict=False)}
    assert steps == {32.0}
    assert samples.times[-1] > 9900
    assert all(value == 2 * when for when, value in zip(samples.times, samples.values, strict=True))
    assert set(samples.epochs) == {0, 1}


LARGE = """
import mmap, time
memory = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, (1 << 30) - (16 << 20), 4096):
    memory[at] = 1
print("READY", flush=True)
for at in range((1 << 30) - (16 << 20), 1 << 30, 4096):
    memory[at] = 1
    time.sleep(0.005)
"""


def test_a_small_process_does_not_wait_for_one_that_takes_long_to_be_read(build: Build, start: Start) -> None:
    large, small = start(sys.executable, "-c", LARGE), start(build("grows.c"), "malloc")
    sampler = Sampler(Machine(), Choice.of([large.pid, small.pid]), share=0.002)
    try:
        for _ in range(80):
            look = sampler.tick()
            time.sleep(0.05)
        reads = {one.identity.pid: one.reads for one in look.processes}
    finally:
        sampler.close()
    assert reads[large.pid] <= 3, "its page tables take 10 ms, or five seconds of such a budget"
    assert reads[small.pid] >= 2 * reads[large.pid]
