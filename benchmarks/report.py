"""The HTML report of an hour of 200 processes, sampled each second: how long it takes to make, its size, and how soon it is open.

`benchmarks/report.py [FILE]` keeps the page in FILE. Chromium is driven by Playwright, which the extra `dev` has.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from leakline.model.recording import CounterValue, ProcessAmounts, ProcessIdentity, RecordingStart, Tick
from leakline.session.html_page import gather, html_report
from leakline.store.writer import RecordingWriter

PROCESSES, TICKS, LOADS = 200, 3600, 5
MIB = 1 << 20
MAPPED = 8
"""Processes whose mappings are recorded too, each 10 s."""


def shape(number: int, rng: np.random.Generator) -> np.ndarray:
    """What one process holds, in bytes: a few leak, some fill a cache, some breathe, most wander; each has short peaks."""
    x = np.arange(TICKS)
    held = rng.uniform(4, 400) * MIB + rng.normal(0, 2, TICKS).cumsum() * 4096
    if number % 50 == 0:
        held += x * rng.uniform(2, 40) * 1024
    elif number % 10 == 1:
        held += rng.uniform(5, 80) * MIB * (1 - np.exp(-x / rng.uniform(100, 900)))
    elif number % 10 == 2:
        held += rng.uniform(1, 20) * MIB * np.sin(x / rng.uniform(20, 300))
    held[rng.integers(0, TICKS, 6)] += rng.uniform(1, 30) * MIB
    return np.maximum(held, MIB).astype(np.int64) // 4096 * 4096


def record(path: Path) -> None:
    """Write the recording as `leakline record --maps every=10s --kernel` does."""
    rng = np.random.default_rng(11)
    who = [ProcessIdentity(1000 + n, 5, 1, "user", f"service-{n}", f"/usr/bin/service-{n}", "/") for n in range(PROCESSES)]
    held = [shape(n, rng) for n in range(PROCESSES)]
    start = RecordingStart(boot_id="boot", host="host", kernel="6.12", interval=1.0, ticks_per_second=100, memory=64 << 30)
    with RecordingWriter(path, start) as writer:
        for at in range(TICKS):
            fresh = []
            for identity, values in zip(who, held, strict=True):
                if at == 0 or values[at] != values[at - 1]:
                    uss = int(values[at])
                    fresh.append((identity, ProcessAmounts(uss, uss + MIB, uss + 9 * MIB, 0, uss, 0, 0, 65536, at, 0)))
            anonymous = int(sum(values[at] for values in held))
            meminfo = {"MemTotal": 64 << 30, "MemFree": (50 << 30) - anonymous, "MemAvailable": (60 << 30) - anonymous}
            meminfo |= {"AnonPages": anonymous, "Cached": 12 << 30, "Buffers": 1 << 28, "Shmem": 1 << 27, "SwapCached": 0}
            meminfo |= {"SReclaimable": 1 << 29, "SUnreclaim": (1 << 29) + at * 4096, "PageTables": 1 << 27, "SwapFree": 0}
            counters = {"meminfo": [CounterValue("meminfo", name, value) for name, value in meminfo.items()]}
            if at % 10 == 0:
                caches = [(f"cache-{n}", (n + 1) * MIB + (at * 512 if n == 3 else 0)) for n in range(120)]
                counters["slab"] = [CounterValue("slab", name, value) for name, value in caches]
                counters["mapping"] = [
                    CounterValue("mapping", name, int(held[n * 25][at] * share) >> 10 << 10, who[n * 25])
                    for n in range(MAPPED)
                    for name, share in (("[heap]", 0.7), ("[anon]", 0.2), ("/usr/lib/libc.so.6", 0.05), ("[stack]", 0.05))
                ]
            writer.write(Tick(1.7e9 + at, 1000.0 + at, len(fresh), 1.0), fresh, (), counters)


def load_times(page: Path) -> list[float]:
    """Seconds until the page is open: its script has run, and what is on the screen is drawn."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        where = shutil.which("chromium")
        browser = playwright.chromium.launch(
            executable_path=where, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        for _ in range(LOADS):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            begun = time.perf_counter()
            tab.goto(page.as_uri(), wait_until="load")
            tab.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            found.append(time.perf_counter() - begun)
            assert tab.locator("html[data-ready]").count() == 1
            tab.close()
        browser.close()
    return found


def main(keep: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recording, page = Path(folder, "hour.leakline"), Path(keep or f"{folder}/hour.html")
        record(recording)
        begun, spent = time.perf_counter(), time.process_time()
        page.write_bytes(html_report(gather([recording], print)))
        seconds, cpu = time.perf_counter() - begun, time.process_time() - spent
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = page.stat().st_size
        print(
            f"recording: {recording.stat().st_size / MIB:.1f} MiB; made in {seconds:.1f} s ({cpu:.1f} s of CPU), "
            f"{memory:.0f} MiB at most"
        )
        times = load_times(page)
        print(f"page: {size / MIB:.2f} MiB; open after {median(times):.2f} s (median of {LOADS}), {min(times):.2f} s at best")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
