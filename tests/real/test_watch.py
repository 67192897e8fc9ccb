"""`watch` on real programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import Leakline, Start, assert_unharmed

EXAMPLE = Path(__file__).parents[2] / "examples/leak-example.c"
CACHE = """
import collections, time
cache, number = collections.OrderedDict(), 0
for _ in range(3000):
    cache[number] = bytes(4000)
    number += 1
print("READY", flush=True)
while True:
    for _ in range(60):
        cache[number] = bytes(4000)
        number += 1
        cache.popitem(last=False)
    time.sleep(0.05)
"""
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
