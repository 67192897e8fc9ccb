"""`ps` and `ps --by mapping` over 400 processes, against a C program that only reads the same files, and against peers."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from peers import OURS, START, rounds

PROCESSES, RUNS = 400, 9
SLEEPER = "import json,sqlite3,ctypes,http.client,time;b=bytearray(1<<20);print(1,flush=True);time.sleep(600)"
PSUTIL = """
import psutil
for process in psutil.process_iter():
    try:
        process.memory_full_info()
    except psutil.Error:
        pass
"""


def compare(what: list[str], floor: list[str], peers: dict[str, list[str]]) -> None:
    """Ours without its start-up against the floor, and against each peer, taken in the same rounds."""
    table = rounds([floor, [*OURS, *what], START, *peers.values()], RUNS)
    net = statistics.median((ours - start) / bare for bare, ours, start, *_ in table)
    gross = statistics.median(ours / bare for bare, ours, *_ in table)
    print(f"{' '.join(what)}: {net:.2f} x the floor ({' '.join(floor[1:])} in C), start-up apart; {gross:.2f} x with it")
    for place, name in enumerate(peers, 3):
        of_net = statistics.median((row[1] - row[2]) / row[place] for row in table)
        of_gross = statistics.median(row[1] / row[place] for row in table)
        print(f"  {of_net:.2f} x {name}, start-up apart; {of_gross:.2f} x with it")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        floor = str(Path(name) / "read_all")
        subprocess.run(["cc", "-O2", "-o", floor, str(Path(__file__).parent / "read_all.c")], check=True)
        load = [subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE) for _ in range(PROCESSES)]
        try:
            for process in load:
                if process.stdout is not None:
                    process.stdout.readline()
            peers = {"procps ps -o pss,uss,rss": ["ps", "-eo", "pid,pss,uss,rss"]}
            if shutil.which("smem"):
                peers["smem"] = ["smem"]
            ps_mem = Path(sys.executable).with_name("ps_mem")
            if ps_mem.exists():
                peers["ps_mem"] = [sys.executable, str(ps_mem)]
            if find_spec("psutil"):
                peers["psutil memory_full_info"] = [sys.executable, "-c", PSUTIL]
            compare(["ps", "--json"], [floor, "smaps_rollup"], peers)
            by_mapping = {"smem -m": ["smem", "-m"]} if shutil.which("smem") else {}
            compare(["ps", "--by", "mapping", "--json"], [floor, "smaps"], by_mapping)
        finally:
            for process in load:
                process.kill()
                process.communicate()


main()
