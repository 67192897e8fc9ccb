"""Many samples as few points that leave out no peak and no dip: of each stretch of time the least and the most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from leakline.model.recording import Extremes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


def extremes_of(times: Floats, values: Floats, epochs: Ints, stretches: int) -> Extremes:
    """A series in so many stretches of equal time; as it is where it has no more samples than that.

    Args:
        times: seconds, rising.
        values: NaN where a sample is missing.
        epochs: a number that changes where another process took the place.
        stretches: at least 1.

    """
    known = np.isfinite(values)
    if not known.any():
        return Extremes((), (), ())
    if len(times) <= stretches:
        starts = np.arange(len(times))
        lows = highs = values
        middles, parts = times, epochs
    else:
        width = max(float(times[-1] - times[0]) / stretches, 1e-9)
        numbers = np.minimum((times - times[0]) / width, stretches - 1).astype(np.int64)
        starts = np.flatnonzero((np.diff(numbers, prepend=-1) != 0) | (np.diff(epochs, prepend=-1) != 0))
        lows = _each(np.minimum, np.where(known, values, np.inf), starts)
        highs = _each(np.maximum, np.where(known, values, -np.inf), starts)
        ends = np.append(starts[1:], len(times)) - 1
        middles, parts = (times[starts] + times[ends]) / 2, epochs[starts]
    changes = np.flatnonzero(np.diff(parts)) + 1
    gaps = (middles[changes - 1] + middles[changes]) / 2
    middles = np.insert(middles, changes, gaps)
    lows, highs = np.insert(lows, changes, np.nan), np.insert(highs, changes, np.nan)
    return Extremes(tuple(middles.tolist()), tuple(lows.tolist()), tuple(highs.tolist()))


def telling_places(times: Floats, values: Floats, stretches: int) -> Ints:
    """Where each of so many stretches of time has its least and its most; all places where there are no more than that.

    Args:
        times: seconds, rising.
        values: NaN where nothing is known: never chosen.
        stretches: at least 1.

    """
    known = np.flatnonzero(np.isfinite(values))
    if len(known) <= 2 * stretches:
        return known
    width = max(float(times[known[-1]] - times[known[0]]) / stretches, 1e-9)
    numbers = np.minimum((times[known] - times[known[0]]) / width, stretches - 1).astype(np.int64)
    order = np.lexsort((values[known], numbers))
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    ends = np.append(starts[1:], len(order)) - 1
    return np.unique(np.concatenate([known[order[starts]], known[order[ends]], known[[0, -1]]]))


def _each(pick: np.ufunc, values: Floats, starts: Ints) -> Floats:
    found = pick.reduceat(values, starts)
    return np.where(np.isfinite(found), found, np.nan)
