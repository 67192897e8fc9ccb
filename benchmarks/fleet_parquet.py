"""`fleet --parquet` end to end: 10,000, 100,000 and 300,000 series of 300 samples, in files of 10,000."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import duckdb
import fleet_series
import numpy as np

SIZES, IN_A_FILE = (10_000, 100_000, 300_000), 10_000
BEGAN, STEP = 1_790_000_000.0, 864.0
BAR = 10_000
INSIDE = f"""
import gc, os, resource, sys, time
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
gc.set_threshold(100_000)  # as leakline's own start does
from leakline.model.fleet_floors import Window
from leakline.session.fleet import FleetOptions, judge_fleet
from leakline.store.parquet import ParquetStore
begun = time.monotonic()
with ParquetStore(sys.argv[1]) as store:
    window = Window.until({BEGAN + STEP * fleet_series.SAMPLES}, {STEP * fleet_series.SAMPLES})
    report = judge_fleet(store, window, FleetOptions("bytes", ("version",)), lambda text: None)
print(report.coverage.judged, time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write(folder: Path, number: int) -> None:
    times = BEGAN + STEP * np.arange(fleet_series.SAMPLES)
    values = fleet_series.clean(np.random.default_rng(number), IN_A_FILE)
    columns = {
        "n": np.repeat(np.arange(IN_A_FILE), fleet_series.SAMPLES),
        "time": np.tile(times, IN_A_FILE),
        "bytes": values.ravel(),
    }
    with duckdb.connect() as connection:
        connection.register("made", columns)
        connection.execute(
            f"COPY (SELECT 'h{number}-' || n // 100 AS host, 'job' || n % 100 AS service, '1.0' AS version, time, bytes FROM made)"
            f" TO '{folder / f'{number:03d}.parquet'}' (FORMAT parquet, COMPRESSION zstd)"
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        written = 0
        for size in SIZES:
            while written * IN_A_FILE < size:
                write(Path(name), written)
                written += 1
            command = [sys.executable, "-c", INSIDE, f"{name}/*.parquet"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            judged, seconds, memory = done.stdout.split()
            rate = int(judged) / float(seconds)
            print(f"{int(judged):,} series: {rate:,.0f} a second (bar: {BAR:,}), {int(memory) / 1024:,.0f} MiB")


if __name__ == "__main__":
    main()
