"""The judgement of floors that a store has made: the detector of `trend`, without the samples.

What floors cannot tell (short cycles, restarts within a series, a second look) is left to the samples of the few series that
need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from leakline.analysis.floors import PAGE, Floats, filled, smoothed, trimmed_blocks
from leakline.analysis.shapes import PRIOR, fit_shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from leakline.analysis.floors import Ints

_LEAST_BLOCKS = 5
_LEAST_PROBABILITY = 0.2
_LEAST_DROP = 0.3
_RISE_OF_CYCLES, _RISE_OF_WANDERERS, _WANDERING = 0.2, 0.3, 0.12
_UNUSUAL = 6
_MOST_ODDS = 1e12


class FloorFits(NamedTuple):
    """The judgement of each series; NaN and "" where there are too few blocks."""

    probability: Floats
    """Of sustained growth."""
    log_bayes_factor: Floats
    """For sustained growth, without the prior."""
    growth: Floats
    """Bytes per second."""
    deviation: Floats
    alternative: NDArray[np.str_]
    blocks: Ints
    """How many were judged."""


def fit_floors(floors: Floats, width: float, prior: float = PRIOR) -> FloorFits:
    """Judge floors as they came.

    Args:
        floors: (series, blocks) in bytes, NaN for blocks without samples: before, between and after them.
        width: of a block, in seconds.
        prior: the probability of a leak before anything was seen.

    """
    count = len(floors)
    fits = FloorFits(
        probability=np.full(count, np.nan),
        log_bayes_factor=np.full(count, np.nan),
        growth=np.full(count, np.nan),
        deviation=np.full(count, np.nan),
        alternative=np.full(count, "", dtype="<U24"),
        blocks=np.zeros(count, np.int64),
    )
    known = ~np.isnan(floors)
    first = np.where(known.any(axis=1), known.argmax(axis=1), 0)
    length = np.where(known.any(axis=1), floors.shape[1] - known[:, ::-1].argmax(axis=1) - first, 0)
    for span in np.unique(length[length >= _LEAST_BLOCKS]).tolist():
        rows = np.flatnonzero(length == span)
        columns = first[rows][:, None] + np.arange(span)
        trim = trimmed_blocks(span)
        kept = filled(floors[rows[:, None], columns])[:, trim:]
        found = fit_shapes(smoothed(kept), _quanta(kept), prior)
        seconds = width * kept.shape[1]
        fits.probability[rows] = found.probability
        fits.log_bayes_factor[rows] = log_bayes_factor(found.probability, prior)
        fits.growth[rows] = found.growth / seconds
        fits.deviation[rows] = found.growth_deviation / seconds
        fits.alternative[rows] = found.alternative
        fits.blocks[rows] = kept.shape[1]
    return fits


def log_bayes_factor(probability: Floats, prior: float = PRIOR) -> Floats:
    """Of a probability that was made with this prior."""
    odds = probability / np.maximum(1 - probability, 1 / _MOST_ODDS)
    return np.asarray(np.log(np.clip(odds, 1 / _MOST_ODDS, _MOST_ODDS)) - np.log(prior / (1 - prior)))


def need_samples(floors: Floats, fits: FloorFits) -> NDArray[np.bool_]:
    """Of which series the samples may say more than the floors: what may grow, what wanders or cycles upwards, what falls at once.

    A cycle is masked in samples, not in floors; a fall may be a restart that no label shows. The rest is not read: of made series
    that `trend` calls growing by their samples, these rules leave out one in seventy.
    """
    whole = filled(floors)
    steps = np.diff(whole, axis=1)
    usual, span = np.median(np.abs(steps), axis=1), np.ptp(whole, axis=1)
    least = np.maximum(np.maximum(_LEAST_DROP * span, _UNUSUAL * usual), 4 * PAGE)
    falls = -steps.min(axis=1, initial=0.0) > least
    third = floors.shape[1] // 3
    rise = np.median(whole[:, -third:], axis=1) - np.median(whole[:, :third], axis=1)
    cycles = np.char.startswith(fits.alternative, "wave") & (rise > _RISE_OF_CYCLES * span)
    wanders = (usual > _WANDERING * span) & (rise > _RISE_OF_WANDERERS * span)
    return np.asarray((fits.probability >= _LEAST_PROBABILITY) | falls | cycles | wanders)


def _quanta(floors: Floats) -> Floats:
    """A page, or the median jump where most floors equal the one before."""
    steps = np.abs(np.diff(floors, axis=1))
    moved = steps > 0
    share = moved.mean(axis=1)
    result = np.full(len(floors), PAGE)
    for row in np.flatnonzero((share > 0) & (share < 0.5)):
        result[row] = max(PAGE, float(np.median(steps[row][moved[row]])))
    return result
