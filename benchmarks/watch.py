"""`watch` and `record`: what they take of a core and of memory; and what a day of 200 processes takes on disk."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peers import OURS

from leakline.model.recording import CounterValue, ProcessAmounts, ProcessIdentity, RecordingStart, Tick
from leakline.store.writer import RecordingWriter

PROCESSES = 400
SLEEPER = "import json,sqlite3,ctypes,http.client,time;b=bytearray(1<<20);print(1,flush=True);time.sleep(900)"
FIRST_SECONDS, SECONDS = 60, 60
DAY, TICKS = 200, 8640


def measured(command: list[str]) -> tuple[float, float]:
    """Share of a core after the first minute, and the largest resident size in bytes."""
    process = subprocess.Popen([*command, "-d", str(FIRST_SECONDS + SECONDS + 10)], stdout=subprocess.DEVNULL)
    time.sleep(FIRST_SECONDS)
    before = cpu_of(process.pid)
    time.sleep(SECONDS)
    share = (cpu_of(process.pid) - before) / SECONDS
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    process.send_signal(signal.SIGINT)
    process.wait()
    return share, peak << 10


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def started(code: str, count: int) -> list[subprocess.Popen[bytes]]:
    load = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(count)]
    for process in load:
        if process.stdout is not None:
            process.stdout.readline()
    return load


def main() -> None:
    load = started(SLEEPER, PROCESSES)
    try:
        for what in ([str(load[0].pid)], ["all"]):
            share, peak = measured([*OURS, "watch", *what, "-q", "-i", "1"])
            print(f"watch {'PID' if what[0] != 'all' else f'all of {PROCESSES}+'} at 1 Hz: {share:.2%} of a core, {peak >> 20} MiB")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.leakline"
            share, peak = measured([*OURS, "record", "-q", "-i", "1", "-o", str(path)])
            print(f"record all of {PROCESSES}+ at 1 Hz: {share:.2%} of a core, {peak >> 20} MiB")
    finally:
        for process in load:
            process.kill()
            process.communicate()
    for changing in (DAY // 10, DAY):
        with tempfile.TemporaryDirectory() as folder:
            size = a_day(Path(folder) / "x.leakline", changing)
            print(f"a day of {DAY} processes every 10 s, {changing} of which change at every tick: {size / 1e6:.0f} MB")


def a_day(path: Path, changing: int) -> int:
    """Bytes of a recording with made amounts; all eight and the faults of a process that changes are new."""
    start = RecordingStart("boot", "host", "kernel", 10.0, 100, 16 << 30)
    random.seed(1)
    sizes = [random.randrange(1 << 20, 200 << 20) for _ in range(DAY)]
    who = [ProcessIdentity(1000 + n, n, 1, "user", "command", f"/usr/bin/command --number {n}", "/a/group") for n in range(DAY)]
    with RecordingWriter(path, start) as writer:
        for tick in range(TICKS):
            rows = []
            for n in range(DAY if tick == 0 else changing):
                sizes[n] = max(1 << 20, sizes[n] + random.randrange(-1 << 20, 1 << 20))
                uss = sizes[n]
                amounts = (uss, uss + 3000000, uss + 9000000, 0, uss, 9000000 + 4096 * (uss % 7), 0, uss >> 8)
                rows.append((who[n], ProcessAmounts(*amounts, 10 * tick + uss % 9, 3)))
            counters = [CounterValue("meminfo", f"Counter{n}", random.randrange(1 << 30) if n < 15 else n) for n in range(50)]
            writer.write(Tick(1e9 + 10 * tick, 10 * tick, len(rows), 0.0), rows, (), {"meminfo": counters})
    return path.stat().st_size


main()
