"""`maps` of a process with 5,000 mappings, against pmap -X."""

from __future__ import annotations

import statistics

import processes
from peers import OURS, START, rounds

RUNS = 15
BAR = 0.5


def main() -> None:
    with processes.running(((1, processes.MANY_MAPPINGS),)) as (process,):
        pid = str(process.pid)
        table = rounds([[*OURS, "maps", pid], START, ["pmap", "-X", pid], ["pmap", "-x", pid], ["cat", f"/proc/{pid}/smaps"]], RUNS)
        for place, name, bar in ((2, "pmap -X", f" (bar: {BAR})"), (3, "pmap -x", "")):
            net = statistics.median((row[0] - row[1]) / row[place] for row in table)
            gross = statistics.median(row[0] / row[place] for row in table)
            bare = statistics.median(row[4] / row[place] for row in table)
            print(f"maps of 5,000 mappings: {net:.2f} x {name} start-up apart{bar}, {gross:.2f} x with it;", end=" ")
            print(f"cat of its smaps takes {bare:.2f} x")


main()
