"""CPU of `leakline --help` over that of `python3 -c pass`: the bar is 100 ms."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

RUNS = 15


def cpu(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    bare, ours = [], []
    for _ in range(RUNS):
        bare.append(cpu([sys.executable, "-c", "pass"]))
        ours.append(cpu([sys.executable, "-m", "leakline", "--help"]))
    more = statistics.median(ours) - statistics.median(bare)
    print(f"leakline --help: {more * 1000:.0f} ms of CPU more than python3 -c pass (bar: 100 ms)")


main()
