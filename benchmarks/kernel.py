#!/usr/bin/env python3
"""What watching the kernel costs, how still an idle machine's `unexplained` is, and what tracepoints cost a storm of pipes.

usage: benchmarks/kernel.py [SECONDS]    (root; a minute and a half by default)
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from leakline.session.kernel_sampling import KernelSampler
from leakline.sources.kernel_things import take_census
from leakline.sources.machine import Machine

LEAKLINE = Path(__file__).parents[1] / ".venv/bin/leakline"
STORM = Path(__file__).parents[1] / "tests/targets/pipe_storm.c"


def sampling(seconds: float) -> None:
    sampler, rest = KernelSampler(Machine()), []
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        rest.append(sampler.look().values["unexplained"])
        time.sleep(1 - (time.monotonic() - began) % 1)
    each = sampler.cpu_seconds / len(rest)
    print(f"one sampling pass: {each * 1e3:.1f} ms of CPU, {each:.2%} of a core at 1 Hz ({len(sampler.slabs)} slab caches)")
    deciles = statistics.quantiles(rest, n=10)
    moved = abs(statistics.median(rest[-10:]) - statistics.median(rest[:10]))
    spread = (deciles[-1] - deciles[0]) / 1024
    print(f"unexplained over {seconds:.0f} s: moved by {moved / 1024:.0f} KiB, 80 % of the looks within {spread:.0f} KiB")
    before = time.process_time()
    census = take_census(Machine())
    print(f"counting what everybody has: {(time.process_time() - before) * 1e3:.0f} ms of CPU ({len(census)} kinds)")


def storm() -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/pipe_storm"
        subprocess.run(["gcc", "-O2", "-o", program, str(STORM)], check=True)
        bare, traced = [], []
        running = subprocess.Popen([program], stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None
        running.stdout.readline()
        for _ in range(3):
            bare += [float(running.stdout.readline()) for _ in range(4)]
            command = [LEAKLINE, "kernel", "--locate", "--source", "tracepoints", "--counter", "slab:kmalloc-cg-1k", "-d", "6s"]
            tracing = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            assert tracing.stderr is not None
            tracing.stderr.readline()  # it says when it begins
            running.stdout.readline()
            traced += [float(running.stdout.readline()) for _ in range(4)]
            tracing.communicate()
            running.stdout.readline()
        running.kill()
        running.wait()
    a, b = statistics.median(bare), statistics.median(traced)
    print(f"a pipe made and closed: {a:.2f} us of CPU, {b:.2f} us while its size is traced: {b / a:.1f} x")


sampling(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
storm()
