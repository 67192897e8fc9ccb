"""Made fleets: false alarms among 100,000 services that do not leak, and a release that leaks on 1 % of 2,000 hosts.

With --calibrate: how often services without a leak reach a Bayes factor, the table of leakline.analysis.discovery.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import fleet_series
import numpy as np
from numpy.typing import NDArray

from leakline.analysis.fleet_floors import fit_floors

FLEET, HOSTS, BATCH = 100_000, 2000, 5000
SHARES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5)
PRESENT = (26, 19, 13, 9, 6)


def clean_part(seed: int) -> tuple[int, int, int]:
    values = fleet_series.clean(np.random.default_rng(seed), 2 * BATCH)
    report = fleet_series.judged(values, [{"host": f"h{n}"} for n in range(len(values))])
    verdicts = [one.verdict for one in report.services]
    return verdicts.count("LEAK"), verdicts.count("GROWING"), sum(one.discovered for one in report.services)


def release(seed: int, share: float) -> tuple[bool, bool, float]:
    """Whether the leaking release is found, whether the one before it is called so too, and the share that was found."""
    rng = np.random.default_rng(seed)
    values = fleet_series.clean(rng, 2 * HOSTS)
    leaks = HOSTS + rng.permutation(HOSTS)[: round(share * HOSTS)]
    values[leaks] = fleet_series.leaking(rng, len(leaks))
    labels = [{"job": "shop", "host": f"{'ab'[n // HOSTS]}{n % HOSTS}", "version": f"1.{n // HOSTS}"} for n in range(2 * HOSTS)]
    found = {one.release: one for one in fleet_series.judged(values, labels).rollouts}
    return found["1.1"].discovered, found["1.0"].discovered, found["1.1"].leaking_share


def calibrate_part(seed: int) -> list[NDArray[np.float64]]:
    floors = fleet_series.floors_of(fleet_series.clean(np.random.default_rng(10_000 + seed), BATCH))
    found = []
    for present in PRESENT:
        part = floors.copy()
        part[:, : 26 - present] = np.nan
        found.append(fit_floors(part, 1.0).log_bayes_factor)
    return found


def main() -> None:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        if sys.argv[1:] == ["--calibrate"]:
            parts = list(pool.map(calibrate_part, range(100)))
            columns = [np.quantile(np.concatenate(one), 1 - np.array(SHARES)) for one in zip(*parts, strict=True)]
            print("share of clean services; log Bayes factor that it reaches, by blocks present; the most")
            for row, share in enumerate(SHARES):
                values = [float(column[row]) for column in columns]
                print(f"{share:<8g}" + "".join(f"{value:8.3f}" for value in values) + f"{max(values):10.3f}")
            return
        begun = time.monotonic()
        parts = list(pool.map(clean_part, range(FLEET // (2 * BATCH))))
        leaks, growing, discovered = (sum(column) for column in zip(*parts, strict=True))
        print(
            f"{FLEET:,} services that do not leak: {leaks} LEAK (bar: 50), {growing} GROWING, {discovered} discovered in"
            f" {len(parts)} fleets of {2 * BATCH:,}, in {time.monotonic() - begun:.0f} s"
        )
        for share in (0.01, 0.0):
            results = list(pool.map(release, range(20), [share] * 20))
            found, before, shares = zip(*results, strict=True)
            print(
                f"a release that leaks on {share:.0%} of {HOSTS:,} hosts: found in {sum(found)} of 20 fleets, the release before it"
                f" in {sum(before)}; share {min(shares):.2%} to {max(shares):.2%}"
            )


if __name__ == "__main__":
    main()
