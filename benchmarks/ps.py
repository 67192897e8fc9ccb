"""`ps` and `ps --by mapping` over 400 processes, against a C program that only reads the same files, and against peers."""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROCESSES, RUNS = 400, 9
SLEEPER = "import json,sqlite3,ctypes,http.client,time;b=bytearray(1<<20);print(1,flush=True);time.sleep(600)"
PEERS = (["smem"], ["smem", "-m"], ["ps", "-eo", "pid,pss,uss,rss"])


def cpu(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    ours = [sys.executable, "-m", "leakline"]
    with tempfile.TemporaryDirectory() as name:
        floor = str(Path(name) / "read_all")
        subprocess.run(["cc", "-O2", "-o", floor, str(Path(__file__).parent / "read_all.c")], check=True)
        load = [subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE) for _ in range(PROCESSES)]
        try:
            for process in load:
                if process.stdout is not None:
                    process.stdout.readline()
            for file, what in (("smaps_rollup", ["ps", "--json"]), ("smaps", ["ps", "--by", "mapping", "--json"])):
                rounds = [[cpu([floor, file]), cpu([*ours, *what]), cpu([*ours, "--version"])] for _ in range(RUNS)]
                net = statistics.median((all_of_it - start) / bare for bare, all_of_it, start in rounds)
                gross = statistics.median(all_of_it / bare for bare, all_of_it, _ in rounds)
                print(f"{' '.join(what)}: {net:.2f} x reading every {file} in C, start-up apart; {gross:.2f} x with it")
            bare = statistics.median(cpu([floor, "smaps_rollup"]) for _ in range(3))
            for peer in PEERS:
                if shutil.which(peer[0]):
                    ratio = statistics.median(cpu(peer) for _ in range(3)) / bare
                    print(f"{' '.join(peer)}: {ratio:.2f} x reading every smaps_rollup")
        finally:
            for process in load:
                process.kill()
                process.communicate()


main()
