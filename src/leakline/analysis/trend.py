"""The judgement of a series: how probable sustained growth is, how fast it is, and what else would explain it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Self, get_args

import numpy as np
from numpy.typing import NDArray

from leakline.analysis.floors import PAGE, Floats, are_level, block_count, filled, floors_of, periods, quanta, trimmed_blocks
from leakline.analysis.growth import line_through
from leakline.analysis.shapes import DECLINING, FLAT, PRIOR, fit_shapes, likeliest_curve
from leakline.model.trend import Gate, Series, SeriesTrend, TrendCurve, Verdict

GROWING, LEAK, UNDECIDED = 0.5, 0.95, 0.2
_LEAST_FOR_VERDICT, _LEAST_FOR_LEAK, _LEAST_OF_EPOCH = 5, 30, 8
_LEAST_PAGES = 3
_LEAST_CYCLES = 3
_MOST_GRID = 20_000
_LONG_GAP = 100
_MOST_INCREMENTS = 8
_NORMAL_95 = 1.645
VERDICTS: dict[str, Verdict] = {
    FLAT: "STABLE",
    "one step": "STEP",
    "two steps": "STEP",
    "settling": "SETTLING",
    "settling and step": "SETTLING",
    "logarithm": "SETTLING",
    "ramp, then flat": "PLATEAU",
    "wave": "PERIODIC",
    "wave of two harmonics": "PERIODIC",
    DECLINING: "DECLINING",
}


class Settings(NamedTuple):
    """What the person asks for."""

    warm_up: float = 3600.0
    """Seconds after its start in which growth is no leak yet."""
    horizon: float = 86400.0
    """Seconds: a limit that is reached within them is a risk."""


class _Samples(NamedTuple):
    """A series as arrays."""

    times: Floats
    values: Floats
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, series: Series) -> Self:
        """Both are converted once: for short series that takes as long as to judge them."""
        times, values = np.array(series.times, float), np.array(series.values, float)
        return cls(times, values, np.isfinite(values) & np.isfinite(times))


class _Part(NamedTuple):
    """The samples of one epoch, on a grid of equal steps."""

    series: int
    values: Floats
    step: float
    """Seconds."""


class _Fit(NamedTuple):
    probability: float
    growth: float
    """Bytes per second."""
    deviation: float
    alternative: str
    floor: float
    """Bytes, at the end."""
    cycle: float
    """Seconds; 0 for none."""
    seconds: float
    samples: int


def judge(series: Sequence[Series], settings: Settings = Settings()) -> list[SeriesTrend]:  # noqa: B008  an immutable tuple
    """The judgement of each series; many of one length are judged together.

    Args:
        series: what was measured.
        settings: warm-up and horizon.

    """
    samples = [_Samples.of(one) for one in series]
    parts = [part for number, one in enumerate(series) for part in _parts(number, one, samples[number])]
    now = _fits(parts)
    # LEAK takes two looks at least a tenth of the samples apart.
    certain = {n for n, fits in now.items() if _joined(fits).probability >= LEAK}
    earlier = _fits([_shortened(part) for part in parts if part.series in certain])
    return [_judged(one, samples[n], now.get(n, []), earlier.get(n, []), settings) for n, one in enumerate(series)]


def curve_of(series: Series) -> TrendCurve | None:
    """Floors and the likeliest shape of the last run of a series' process; None where it is too short to have any."""
    samples = _Samples.of(series)
    parts = [part for part in _parts(0, series, samples) if np.isfinite(part.values).sum() >= 4]
    if not parts:
        return None
    part = parts[-1]
    values = part.values[None]
    cycles = periods(filled(values))
    floors = floors_of(values, cycles)[0]
    family, curve = likeliest_curve(floors, float(quanta(values, cycles)[0]))
    blocks, length = len(floors), len(part.values)
    trimmed = trimmed_blocks(block_count(length))
    width = part.step * length / (blocks + trimmed)
    end = float(samples.times[samples.known].max())
    times = end - part.step * (length - 1) + (np.arange(blocks) + trimmed + 0.5) * width
    return TrendCurve(tuple(times.tolist()), tuple(floors.tolist()), tuple(curve.tolist()), family)


def _parts(number: int, series: Series, samples: _Samples) -> list[_Part]:
    """The epochs of a series that have samples enough."""
    times, values, known = samples
    if known.sum() < _LEAST_FOR_VERDICT:
        return []
    if series.epochs is None:
        return [_gridded(number, times, np.where(known, values, np.nan))]
    epochs = np.asarray(series.epochs)
    least = min(_LEAST_OF_EPOCH, int(known.sum()))
    found = []
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        if (known & chosen).sum() >= max(least, 4):
            found.append(_gridded(number, times[chosen], np.where(known[chosen], values[chosen], np.nan)))
    return found


def _gridded(number: int, times: Floats, values: Floats) -> _Part:
    """Samples where they belong in time: what was missed is missing, not closer together."""
    samples = len(values)
    steps = np.diff(times)
    if samples > 1 and steps.min() > 0 and steps.max() <= 1.5 * steps.min():
        return _Part(number, values, float(times[-1] - times[0]) / (samples - 1))
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    steps = np.diff(times)
    steps = steps[steps > 0]
    if not steps.size:
        return _Part(number, values, 1.0)
    step = float(np.median(steps))
    if times[-1] - times[0] > _MOST_GRID * step:
        times, values = _densest(times, values, step)
        step = max(step, float(times[-1] - times[0]) / _MOST_GRID)
    places = np.rint((times - times[0]) / step).astype(int)
    grid = np.full(places[-1] + 1, np.nan)
    there = np.isfinite(values)
    grid[places[there]] = values[there]
    return _Part(number, grid, step)


def _densest(times: Floats, values: Floats, step: float) -> tuple[Floats, Floats]:
    """The samples between two gaps where most of them are: years of nothing are no part of a trend."""
    edges = [0, *(np.flatnonzero(np.diff(times) > _LONG_GAP * step) + 1).tolist(), len(times)]
    first, last = max(pairwise(edges), key=lambda part: part[1] - part[0])
    return times[first:last], values[first:last]


def _shortened(part: _Part) -> _Part:
    kept = len(part.values) - max(1, math.ceil(len(part.values) / 10))
    return part._replace(values=part.values[:kept])


def _fits(parts: Sequence[_Part]) -> dict[int, list[_Fit]]:
    """The fits of each series' epochs, by its number."""
    lengths: dict[int, list[_Part]] = defaultdict(list)
    for part in parts:
        if np.isfinite(part.values).sum() >= 4:
            lengths[len(part.values)].append(part)
    found: dict[int, list[_Fit]] = defaultdict(list)
    for length, alike in lengths.items():
        for first in range(0, len(alike), 2048):
            batch = alike[first : first + 2048]
            values = np.stack([part.values for part in batch])
            cycles = periods(filled(values))
            floors = floors_of(values, cycles)
            steps = quanta(values, cycles)
            fits = fit_shapes(floors, steps, PRIOR)
            level = are_level(floors, values, steps)
            blocks = block_count(length)
            kept = blocks / (blocks + trimmed_blocks(blocks))
            for row, part in enumerate(batch):
                seconds = part.step * length
                per_second = 1 / (seconds * kept)
                found[part.series].append(
                    _Fit(
                        float(fits.probability[row]),
                        float(fits.growth[row]) * per_second,
                        float(fits.growth_deviation[row]) * per_second,
                        FLAT if level[row] else str(fits.alternative[row]),
                        float(floors[row, -1]),
                        float(cycles[row]) * part.step,
                        seconds,
                        int(np.isfinite(part.values).sum()),
                    )
                )
    return found


def _joined(fits: Sequence[_Fit]) -> _Fit:
    """One fit of several epochs: their evidence adds up, the rate is that of the longest one that grows, if any does."""
    prior = math.log(PRIOR / (1 - PRIOR))
    odds = prior
    for fit in fits:
        p = min(max(fit.probability, 1e-12), 1 - 1e-12)
        odds += math.log(p / (1 - p)) - prior
    growing = [fit for fit in fits if fit.probability >= GROWING]
    longest = max(growing or fits, key=lambda fit: fit.seconds)
    return longest._replace(probability=1 / (1 + math.exp(-max(min(odds, 700), -700))))


def _judged(series: Series, samples: _Samples, fits: Sequence[_Fit], earlier: Sequence[_Fit], settings: Settings) -> SeriesTrend:
    times, values = samples.times[samples.known], samples.values[samples.known]
    if len(times) < _LEAST_FOR_VERDICT or not fits:
        return _insufficient(series, list(zip(times.tolist(), values.tolist(), strict=True)))
    fit = _joined(fits)
    duration = float(times[-1] - times[0])
    gates: tuple[Gate, ...] = ()
    if fit.probability < UNDECIDED:
        verdict = VERDICTS[fit.alternative]
    elif fit.probability < GROWING:
        verdict = "UNDECIDED"
    else:
        gates = _gates(series, fit, earlier, len(times), settings)
        verdict = "GROWING" if gates else "LEAK"
    interval = (fit.growth - _NORMAL_95 * fit.deviation, fit.growth + _NORMAL_95 * fit.deviation)
    grows = fit.probability >= UNDECIDED
    eta = soon = None
    if series.limit is not None:
        rate, bounds = (fit.growth, interval) if grows else _recent(times, values)
        eta, soon = _until(series.limit, float(values[-1]), rate, bounds)
    return SeriesTrend(
        name=series.name,
        samples=len(times),
        duration_seconds=duration,
        increase=_increase(series, samples),
        increments=(),
        verdict=verdict,
        probability=fit.probability,
        rate_bytes_per_second=fit.growth if grows else None,
        rate_interval=interval if grows else None,
        alternative=fit.alternative,
        at_risk=soon is not None and soon <= settings.horizon,
        limit=series.limit,
        limit_eta_seconds=eta,
        gates=gates,
    )


def _increase(series: Series, samples: _Samples) -> int:
    """Last sample less the first; of several epochs, their sum."""
    values = samples.values[samples.known]
    if series.epochs is None:
        return round(float(values[-1] - values[0]))
    epochs = np.asarray(series.epochs)[samples.known]
    return round(sum(float(values[epochs == epoch][-1] - values[epochs == epoch][0]) for epoch in np.unique(epochs)))


def _gates(series: Series, fit: _Fit, earlier: Sequence[_Fit], samples: int, settings: Settings) -> tuple[Gate, ...]:
    # Of the longest run of its process: who is started anew warms up anew.
    age = fit.seconds if series.age is None else max(fit.seconds, series.age)
    unmet: dict[Gate, bool] = {
        "samples": min(samples, fit.samples) < _LEAST_FOR_LEAK,
        "growth": fit.growth * fit.seconds <= _LEAST_PAGES * PAGE,
        "confidence": fit.probability < LEAK,
        "two looks": fit.probability >= LEAK and (not earlier or _joined(earlier).probability < LEAK),
        "warm-up": age < settings.warm_up,
        "cycles": fit.cycle > 0 and fit.seconds < _LEAST_CYCLES * fit.cycle,
        "reclaimable": series.reclaimable,
    }
    return tuple(gate for gate in get_args(Gate) if unmet[gate])


def _recent(times: Floats, values: Floats) -> tuple[float, tuple[float, float]]:
    """The slope of the last third: what still fills may reach a limit too."""
    last = slice(-max(len(times) // 3, _LEAST_FOR_VERDICT), None)
    line = line_through(list(zip(times[last].tolist(), values[last].tolist(), strict=True)))
    return (0.0, (0.0, 0.0)) if line is None else line


def _until(limit: int, held: float, rate: float, interval: tuple[float, float]) -> tuple[float | None, float | None]:
    """Seconds until the limit is reached: at the rate, and at the upper end of its interval; None where it may not rise at all."""
    room = max(0.0, limit - held)
    if not room:
        return 0.0, 0.0
    if interval[0] <= 0 or rate <= 0:
        return None, None
    return room / rate, room / interval[1]


def _insufficient(series: Series, known: Sequence[tuple[float, float]]) -> SeriesTrend:
    line = line_through(known)
    values = [value for _, value in known]
    return SeriesTrend(
        name=series.name,
        samples=len(known),
        duration_seconds=known[-1][0] - known[0][0] if known else 0.0,
        increase=round(values[-1] - values[0]) if known else None,
        increments=tuple(round(b - a) for a, b in pairwise(values)) if len(values) <= _MOST_INCREMENTS else (),
        verdict="INSUFFICIENT",
        probability=None,
        rate_bytes_per_second=None if line is None else line[0],
        rate_interval=None if line is None else line[1],
        alternative=None,
        at_risk=False,
        limit=series.limit,
        limit_eta_seconds=None,
        gates=("samples",),
    )
