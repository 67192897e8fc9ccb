"""`ps` and `ps --by mapping` over 400 processes, against a C program that only reads the same files, and against peers."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import processes
from peers import OURS, START, rounds

RUNS = 11
PSUTIL = """
import psutil
for process in psutil.process_iter():
    try:
        process.memory_full_info()
    except psutil.Error:
        pass
"""
PSUTIL_COLUMNS = """
import psutil
shown = ["pid", "ppid", "username", "name", "cmdline", "num_threads", "create_time", "memory_full_info"]
for process in psutil.process_iter(shown):
    pass
"""
# Of the peer's CPU: what ours may take, start-up apart.
BARS = {
    "the floor": 1.6,
    "smem": 1 / 8,
    "ps_mem": 1 / 1.7,
    "psutil memory_full_info": 1 / 1.7,
    "psutil, what ps shows": 1 / 1.7,
    "procps ps -o pss,uss,rss": 1.1,
}
BARS_BY_MAPPING = {"the floor": 2.3, "smem -m": 1 / 2.5}


def compare(what: list[str], floor: list[str], all_files: list[str], peers: dict[str, list[str]], bars: dict[str, float]) -> None:
    """Ours without its start-up against the floor, and against each peer, taken in the same rounds."""
    names = ["the floor", *peers]
    table = rounds([[*OURS, *what], START, all_files, floor, *peers.values()], RUNS)
    print(f"{' '.join(what)}; the floor reads {' '.join(floor[1:])} in C")
    for place, name in enumerate(names, 3):
        net = statistics.median((ours - start) / row[place] for row in table for ours, start in [row[:2]])
        gross = statistics.median(row[0] / row[place] for row in table)
        bare = statistics.median(row[2] / row[place] for row in table)
        print(
            f"  {net:.3f} x {name} start-up apart (bar: {bars[name]:.3f}), {gross:.2f} x with it;"
            f" to read {', '.join(all_files[1:])} in C and do nothing with them takes {bare:.3f} x"
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        floor = str(Path(name) / "read_all")
        subprocess.run(["cc", "-O2", "-o", floor, str(Path(__file__).parent / "read_all.c")], check=True)
        peers = {"procps ps -o pss,uss,rss": ["ps", "-eo", "pid,pss,uss,rss"]}
        if shutil.which("smem"):
            peers["smem"] = ["smem"]
        ps_mem = Path(sys.executable).with_name("ps_mem")
        if ps_mem.exists():
            peers["ps_mem"] = [sys.executable, str(ps_mem)]
        if find_spec("psutil"):
            peers["psutil memory_full_info"] = [sys.executable, "-c", PSUTIL]
            peers["psutil, what ps shows"] = [sys.executable, "-c", PSUTIL_COLUMNS]
        by_mapping = {"smem -m": ["smem", "-m"]} if shutil.which("smem") else {}
        for title, kinds in (("a mix", processes.mix()), ("400 Python programs", processes.alike(400))):
            with processes.running(kinds):
                print(f"{title}:")
                rollup = [floor, "smaps_rollup"]
                compare(["ps", "--json"], rollup, [*rollup, "stat", "cmdline"], peers, BARS)
                smaps = [floor, "smaps"]
                compare(["ps", "--by", "mapping", "--json"], smaps, smaps, by_mapping, BARS_BY_MAPPING)


main()
