"""CPU of `leakline --help` over that of `python3 -c pass`: the bar is 100 ms."""

from __future__ import annotations

import statistics
import sys

from peers import cpu

RUNS = 15


def main() -> None:
    bare, ours = [], []
    for _ in range(RUNS):
        bare.append(cpu([sys.executable, "-c", "pass"]))
        ours.append(cpu([sys.executable, "-m", "leakline", "--help"]))
    more = statistics.median(ours) - statistics.median(bare)
    print(f"leakline --help: {more * 1000:.0f} ms of CPU more than python3 -c pass (bar: 100 ms)")


main()
