"""The detector: how many series it judges in a second on one core, and how often it is right on recorded and made series."""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np

from leakline.analysis.trend import Settings, judge
from leakline.model.trend import Series
from leakline.sources.series_files import Columns, parse_series

COUNT, SAMPLES = 6000, 300
MIB = float(1 << 20)


def made(leaks: bool, rng: np.random.Generator) -> np.ndarray:
    """One series of a shape that the detector's zoo does not hold: growth by jumps on a daily wave, or a cache with expiry."""
    x = np.linspace(0, 1, SAMPLES)
    noise = rng.standard_normal(SAMPLES) * rng.uniform(0.05, 0.5)
    base = rng.uniform(20, 500)
    if leaks:
        jumps = np.cumsum(rng.exponential(1, SAMPLES) * (rng.uniform(size=SAMPLES) < 0.2))
        values = (
            base + rng.uniform(5, 40) * jumps / jumps[-1] + rng.uniform(0, 2) * np.sin(2 * np.pi * (5 * x + rng.uniform())) + noise
        )
    else:
        filling = 1 - (1 + x / rng.uniform(0.02, 0.15)) ** -2
        swing = rng.uniform(0, 3) * np.abs(((x * rng.uniform(4, 30)) % 1) - 0.5)
        values = base + rng.uniform(2, 60) * filling + swing + noise
    return np.round(values * 256) / 256 * MIB


def main(folder: str | None) -> None:
    rng = np.random.default_rng(7)
    truth = [bool(number % 2) for number in range(COUNT)]
    times = tuple(float(second) for second in range(SAMPLES))
    series = [Series(name=str(n), times=times, values=tuple(made(leaks, rng).tolist())) for n, leaks in enumerate(truth)]
    judge(series[:8])
    begun = time.process_time()
    trends = judge(series, Settings(warm_up=0))
    took = time.process_time() - begun
    print(f"{COUNT / took:,.0f} series of {SAMPLES} samples in a second of one core")
    says = [trend.verdict in ("GROWING", "LEAK") for trend in trends]
    right = sum(s and t for s, t in zip(says, truth, strict=True))
    false = sum(s and not t for s, t in zip(says, truth, strict=True))
    print(
        f"made series: recall {right / sum(truth):.3f}, {1000 * false / (COUNT - sum(truth)):.1f} false alarms in 1,000 clean ones"
    )
    if folder is not None:
        score(Path(folder))


def score(folder: Path) -> None:
    """Recorded series with a labels.csv (file, label: leak or clean)."""
    found = missed = false = clean = 0
    with (folder / "labels.csv").open() as labels:
        for row in csv.DictReader(labels):
            if row["label"] not in ("leak", "clean"):
                continue
            columns = Columns("t_s", "uss_kb", None, None, 1024)
            (trend,) = judge(parse_series((folder / row["file"]).read_bytes(), row["file"], columns), Settings(warm_up=0))
            says = trend.verdict in ("GROWING", "LEAK")
            found += says and row["label"] == "leak"
            missed += not says and row["label"] == "leak"
            false += says and row["label"] == "clean"
            clean += row["label"] == "clean"
    print(f"{folder.name}: found {found} of {found + missed} leaks, {false} false alarms on {clean} clean series")


main(sys.argv[1] if len(sys.argv) > 1 else None)
