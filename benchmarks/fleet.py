"""`fleet --prometheus` end to end: a real Prometheus and a real VictoriaMetrics on loopback, 5,000 series of 300 samples."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fleet_series
import fleet_servers
import numpy as np

SERIES, RUNS, LEAKS = 5000, 5, 50
STEP_MS = 864_000
END_MS = 1_790_000_000_000
BARS = {"Prometheus": 5000, "VictoriaMetrics": 7000}
INSIDE = f"""
import os, resource, sys, time
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
import gc
gc.set_threshold(100_000)  # as leakline's own start does
from leakline.model.fleet_floors import Window
from leakline.session.fleet import FleetOptions, judge_fleet
from leakline.sources.prometheus.http import Access, Http
from leakline.sources.prometheus.store import PrometheusStore, Selection
begun = time.monotonic()
with Http(sys.argv[1], Access()) as http:
    store = PrometheusStore(http, Selection({fleet_servers.METRIC!r}))
    report = judge_fleet(store, Window.until({END_MS / 1000}, 3 * 86400.0), FleetOptions("m", ("version",)), lambda text: None)
print(time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, sum(one.discovered for one in report.services))
"""


def made() -> fleet_servers.Filled:
    rng = np.random.default_rng(3)
    values = fleet_series.clean(rng, SERIES)
    values[rng.permutation(SERIES)[:LEAKS]] = fleet_series.leaking(rng, LEAKS)
    labels = [{"job": f"job{n % 50}", "instance": f"h{n // 50}:9100", "version": "1.1" if n % 2 else "1.0"} for n in range(SERIES)]
    times = [END_MS - STEP_MS * (fleet_series.SAMPLES - place) for place in range(fleet_series.SAMPLES)]
    return fleet_servers.Filled(labels, [times] * SERIES, values.tolist())


def measure(name: str, url: str) -> None:
    rates, whole, memory = [], [], 0
    for _ in range(RUNS):
        done = subprocess.run([sys.executable, "-c", INSIDE, url], capture_output=True, text=True, check=True)
        seconds, peak, found = done.stdout.split()
        rates.append(SERIES / float(seconds))
        memory = max(memory, int(peak))
        begun = time.monotonic()
        command = [sys.executable, "-m", "leakline", "fleet", "--prometheus", url, "--metric", "process"]
        subprocess.run([*command, "--end", str(END_MS // 1000), "-q"], stdout=subprocess.DEVNULL, check=True)
        whole.append(SERIES / (time.monotonic() - begun))
    print(
        f"{name}: {statistics.median(rates):,.0f} series/s from the first request to the report, best {max(rates):,.0f}"
        f" (bar: {BARS[name]:,}); {statistics.median(whole):,.0f} with Python's start and the text; {memory / 1024:.0f} MiB"
        " (bar: 300);"
        f" {found} of {LEAKS} leaks are discoveries"
    )


def main() -> None:
    if fleet_servers.missing():
        sys.exit(f"not installed: {', '.join(fleet_servers.missing())}")
    filled = made()
    with tempfile.TemporaryDirectory() as folder:
        with fleet_servers.victoria_metrics(Path(folder), filled) as url:
            measure("VictoriaMetrics", url)
        with fleet_servers.prometheus(Path(folder), filled) as url:
            measure("Prometheus", url)


if __name__ == "__main__":
    main()
