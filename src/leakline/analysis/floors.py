"""The floor of a series: what it never falls below, in a fixed number of blocks of equal time.

A heap that is collected, a service with load cycles and a cache that is flushed all swing; what a leak raises is the floor.
All functions take many series of one length at once: arrays of shape (series, samples).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PAGE = 4096.0
_QUANTILE = 0.25  # a pure minimum breaks on single dips
_LEAST_CYCLES = 3
_LEAST_SMOOTHED = 12
# A quantum q leaves a deviation of q / sqrt(12); the median of |second differences| of white noise is 0.6745 * sqrt(6) deviations.
_NOISE_TO_QUANTUM = 12**0.5 / (0.6745 * 6**0.5)


def block_count(samples: int) -> int:
    """Blocks for so many samples."""
    return 24 if samples >= 48 else 12 if samples >= 24 else samples


def trimmed_blocks(blocks: int) -> int:
    """Blocks at the start that are left out: starting up is no trend."""
    return 2 if blocks >= 20 else 1 if blocks >= 12 else 0


def filled(values: Floats) -> Floats:
    """Missing samples by the line between their neighbours."""
    missing = np.isnan(values)
    if not missing.any():
        return values
    result = values.copy()
    grid = np.arange(values.shape[1])
    for row in np.flatnonzero(missing.any(axis=1)):
        known = ~missing[row]
        result[row] = np.interp(grid, grid[known], values[row, known]) if known.any() else 0.0
    return result


def periods(values: Floats) -> Ints:
    """The main cycle of each series in samples, 0 for none: the highest peak of the autocorrelation behind its first crossing of 0.

    Args:
        values: without gaps; their straight trend is taken out first.

    """
    count, n = values.shape
    if n < 24:
        return np.zeros(count, np.int64)
    x = np.arange(n) - (n - 1) / 2
    flat = values - values.mean(axis=1, keepdims=True)
    flat = flat - np.outer(flat @ x / (x @ x), x)
    spectrum = np.fft.rfft(flat, 2 * n, axis=1)
    correlation = np.fft.irfft(spectrum * np.conj(spectrum), axis=1)[:, :n]
    power = correlation[:, :1]
    moving = power[:, 0] > 0
    correlation = correlation / np.where(power > 0, power, 1) * (n / np.maximum(n - np.arange(n), 1))
    reach = n // 3
    negative = correlation[:, :reach] < 0
    first = np.where(negative.any(axis=1), negative.argmax(axis=1), n)
    behind = np.arange(reach + 1)[None] >= first[:, None]
    peaks = np.where(behind, correlation[:, : reach + 1], -np.inf)
    lag = peaks.argmax(axis=1)
    height = peaks[np.arange(count), lag]
    return np.where(moving & (first < reach) & (lag > 2) & (height > 0.3), lag, 0).astype(np.int64)


def _rolling_minimum(values: Floats, width: int) -> Floats:
    """Of a window centred at each sample; at the ends, of what there is."""
    before, after = width // 2, width - width // 2 - 1
    padded = np.pad(values, (before, after), constant_values=np.inf)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, width).min(axis=-1))


def floors_of(values: Floats, cycles: Ints) -> Floats:
    """The floors of each series, shape (series, blocks).

    Args:
        values: bytes, NaN where a sample is missing; at least four are known of each.
        cycles: the main cycle of each in samples, 0 for none.

    """
    count, n = values.shape
    blocks = block_count(n)
    trim = trimmed_blocks(blocks)
    total = blocks + trim
    known = values
    masked = _masked(cycles, n)
    if masked.any():
        known = values.copy()
        whole = filled(values)
        for row in np.flatnonzero(masked):
            known[row] = _rolling_minimum(whole[row], int(cycles[row] * 1.15) + 1)
    edges = -(-np.arange(total + 1) * n // total)  # block j holds the samples i with i * total // n == j
    found = np.full((count, total), np.nan)
    gaps = np.isnan(known).any(axis=1)
    for block in range(total):
        part = known[:, edges[block] : edges[block + 1]]
        if part.shape[1]:
            found[~gaps, block] = np.quantile(part[~gaps], _QUANTILE, axis=1)
            for row in np.flatnonzero(gaps):
                there = part[row][~np.isnan(part[row])]
                if there.size:
                    found[row, block] = np.quantile(there, _QUANTILE)
    return smoothed(filled(found)[:, trim:])


def smoothed(floors: Floats) -> Floats:
    """Each by the median of itself and its neighbours, where there are enough of them: single dips."""
    if floors.shape[1] < _LEAST_SMOOTHED:
        return floors
    middle = np.median(np.stack([floors[:, :-2], floors[:, 1:-1], floors[:, 2:]]), axis=0)
    return np.concatenate([floors[:, :1], middle, floors[:, -1:]], axis=1)


def quanta(values: Floats, cycles: Ints) -> Floats:
    """The step below which each series' floor says nothing.

    A page, or the median jump where most samples equal the one before. Where the floor is taken over whole cycles it comes from a
    few lowest points, which wander by as much as the samples' noise: second differences show it, and a smooth cycle has none.
    """
    steps = np.abs(np.diff(values, axis=1))
    moved = steps > 0
    share = moved.sum(axis=1) / np.maximum(values.shape[1] - 1, 1)
    result = np.full(len(values), PAGE)
    for row in np.flatnonzero((share > 0) & (share < 0.5)):
        result[row] = max(PAGE, float(np.median(steps[row][moved[row]])))
    for row in np.flatnonzero(_masked(cycles, values.shape[1])):
        bends = np.abs(np.diff(values[row][~np.isnan(values[row])], 2))
        if bends.size:
            result[row] = max(result[row], _NOISE_TO_QUANTUM * float(np.median(bends)))
    return result


def are_level(floors: Floats, values: Floats, quanta: Floats) -> NDArray[np.bool_]:
    """Whether a floor wanders by no more than the noise from sample to sample lets it."""
    steps = np.abs(np.diff(values, axis=1))
    noise = np.array([np.median(row[~np.isnan(row)]) if (~np.isnan(row)).any() else 0.0 for row in steps]) * 1.4826 / 2**0.5
    return np.asarray(np.ptp(floors, axis=1) <= np.maximum(3 * quanta, 4 * noise))


def _masked(cycles: Ints, samples: int) -> NDArray[np.bool_]:
    return np.asarray((cycles > 0) & (samples / np.maximum(cycles, 1) >= _LEAST_CYCLES))
