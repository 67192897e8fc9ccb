"""`maps` of a process with 5,000 mappings, against pmap -X."""

from __future__ import annotations

import statistics
import subprocess
import sys

from peers import OURS, START, rounds

RUNS = 15
MANY = """
import ctypes, mmap, time
libc, count = ctypes.CDLL(None, use_errno=True), 5000 - 120
memory = mmap.mmap(-1, count * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(count):
    memory[page * 4096] = 1
base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
for page in range(0, count, 2):
    assert libc.mprotect(ctypes.c_void_p(base + page * 4096), 4096, 1) == 0
print(1, flush=True)
time.sleep(600)
"""


def main() -> None:
    process = subprocess.Popen([sys.executable, "-c", MANY], stdout=subprocess.PIPE)
    try:
        if process.stdout is not None:
            process.stdout.readline()
        pid = str(process.pid)
        table = rounds([[*OURS, "maps", pid], START, ["pmap", "-X", pid], ["pmap", "-x", pid]], RUNS)
        for place, name in ((2, "pmap -X"), (3, "pmap -x")):
            net = statistics.median((row[0] - row[1]) / row[place] for row in table)
            gross = statistics.median(row[0] / row[place] for row in table)
            print(f"maps of 5,000 mappings: {net:.2f} x {name}, start-up apart; {gross:.2f} x with it")
    finally:
        process.kill()


main()
