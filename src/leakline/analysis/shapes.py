"""Which shape does a floor have? Bayesian model averaging over a small zoo of clean and leaking shapes.

Each shape is a linear model over x in (0, 1), with noise that follows itself (AR(1)), whitened after Prais and Winsten (1954), and
Zellner's g-prior (1986) with g = blocks, so that its marginal likelihood has a closed form (Liang et al., JASA 2008, eq. 5).
For a fixed number of blocks each shape is a projection: one product of matrices judges many series.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leakline.analysis.floors import Floats, Ints

PRIOR = 0.15
DECLINING = "declining"
FLAT = "flat"
_NOISE = ((0.0, 0.25), (0.4, 0.2), (0.7, 0.2), (0.9, 0.2), (0.98, 0.1), (0.998, 0.05))
_LEAKING = {
    "linear": 0.34,
    "hinge": 0.20,
    "two slopes": 0.08,
    "linear and step": 0.12,
    "linear and settling": 0.40,
    "linear and wave": 0.12,
}
_CLEAN = {
    FLAT: 0.30,
    "one step": 0.10,
    "two steps": 0.06,
    "settling": 0.14,
    "settling and step": 0.05,
    "ramp, then flat": 0.11,
    "logarithm": 0.06,
    "wave": 0.10,
    "wave of two harmonics": 0.05,
}
_CHUNK = 128  # what fits into a core's own cache


class _Shape(NamedTuple):
    family: str
    columns: list[Floats]
    end_slope: tuple[int, ...]
    """The columns whose coefficients add up to the slope at the end."""


class _Noise(NamedTuple):
    """What is the same for all series, for one strength of the noise."""

    log_weight: float
    whiten: Floats
    constant: Floats
    """Unit vector of the whitened constant."""
    basis: Floats
    """Orthonormal columns of all shapes, side by side."""
    slope: Floats
    """(blocks, shapes): the product with a series is its slope at the end."""
    slope_norm: Floats
    """Standard deviation of that slope, in units of the noise's."""


class _Zoo(NamedTuple):
    families: NDArray[np.str_]
    leaking: NDArray[np.bool_]
    parameters: Ints
    log_prior: Floats
    starts: Ints
    """Where each shape's columns begin in the basis, for those that have any."""
    with_columns: Ints
    noises: tuple[_Noise, ...]


class ShapeFits(NamedTuple):
    """The judgement of many floors."""

    probability: Floats
    """Of the leaking shapes whose slope at the end rises."""
    growth: Floats
    """Bytes in the time of the blocks, at the slope of the end; posterior mean of the leaking shapes."""
    growth_deviation: Floats
    alternative: NDArray[np.str_]
    """The most probable family without a leak."""


def fit_shapes(floors: Floats, quanta: Floats, prior: float = PRIOR) -> ShapeFits:
    """Judge floors.

    Args:
        floors: (series, blocks) in bytes.
        quanta: the step in which each series moves.
        prior: the probability of a leak before anything was seen.

    """
    count = len(floors)
    zoo = _zoo(floors.shape[1])
    fits = ShapeFits(np.empty(count), np.empty(count), np.empty(count), np.empty(count, dtype="<U24"))
    for first in range(0, count, _CHUNK):
        part = slice(first, first + _CHUNK)
        into = ShapeFits(fits.probability[part], fits.growth[part], fits.growth_deviation[part], fits.alternative[part])
        _fit(zoo, floors[part], quanta[part], prior, into)
    return fits


class _Weighed(NamedTuple):
    weights: Floats
    """(series, noises, shapes): posterior probabilities."""
    slopes: NDArray[np.floating[Any]]
    deviations: NDArray[np.floating[Any]]


def _weigh(zoo: _Zoo, floors: Floats, quanta: Floats, prior: float) -> _Weighed:
    count, blocks = floors.shape
    g = float(blocks)
    centred = floors - floors.mean(axis=1, keepdims=True)
    least = blocks * quanta**2 / 12  # what rounding to the quantum alone leaves
    shapes = len(zoo.families)
    log_odds = np.empty((count, len(zoo.noises), shapes), np.float32)  # sums of some hundred: exact to a ten-thousandth
    slopes = np.empty_like(log_odds)
    deviations = np.empty_like(log_odds)
    freedom = np.maximum(blocks - 1 - zoo.parameters, 1)
    for at, noise in enumerate(zoo.noises):
        white = centred @ noise.whiten
        white -= np.outer(white @ noise.constant, noise.constant)
        whole = (white * white).sum(axis=1) + least
        projected = white @ noise.basis
        explained = np.zeros((count, shapes))
        explained[:, zoo.with_columns] = np.add.reduceat(projected * projected, zoo.starts, axis=1)
        rest = np.maximum(whole[:, None] - explained, least[:, None])
        spread = ((g * rest + whole[:, None]) / ((1 + g) * whole[:, None])).astype(np.float32)
        log_odds[:, at] = noise.log_weight - 0.5 * zoo.parameters * np.log1p(g)
        log_odds[:, at] -= 0.5 * (blocks - 1) * (np.log(spread) + np.log(whole)[:, None])
        slopes[:, at] = centred @ noise.slope
        deviations[:, at] = np.sqrt(rest / freedom) * noise.slope_norm
    log_odds += zoo.log_prior + np.where(zoo.leaking, np.log(prior), np.log1p(-prior))
    weights = np.exp(log_odds - log_odds.max(axis=(1, 2), keepdims=True))
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    return _Weighed(weights, slopes, deviations)


def _fit(zoo: _Zoo, floors: Floats, quanta: Floats, prior: float, into: ShapeFits) -> None:
    weights, slopes, deviations = _weigh(zoo, floors, quanta, prior)
    rising = zoo.leaking & (slopes > 0)
    leak = np.where(rising, weights, 0.0)
    mass = leak.sum(axis=(1, 2))
    into.probability[:] = mass
    mass = np.maximum(mass, 1e-30)
    into.growth[:] = (leak * slopes).sum(axis=(1, 2)) / mass
    square = (leak * (deviations**2 + slopes**2)).sum(axis=(1, 2)) / mass
    into.growth_deviation[:] = np.sqrt(np.maximum(square - into.growth**2, 0))
    into.alternative[:] = _alternatives(zoo, weights, rising)


def likeliest_curve(floors: Floats, quantum: float, prior: float = PRIOR) -> tuple[str, Floats]:
    """The family of the most probable single shape, and that shape through the floors, by least squares.

    Args:
        floors: of one series, in bytes.
        quantum: the step in which it moves.
        prior: the probability of a leak before anything was seen.

    """
    blocks = len(floors)
    weights = _weigh(_zoo(blocks), floors[None], np.array([quantum]), prior).weights.sum(axis=1)[0]
    shape = [shape for shape in _shapes(blocks) if len(shape.columns) + 2 < blocks][int(weights.argmax())]
    columns = np.stack([np.ones(blocks), *shape.columns], axis=1)
    coefficients, *_ = np.linalg.lstsq(columns, floors, rcond=None)
    return shape.family, np.asarray(columns @ coefficients)


def _alternatives(zoo: _Zoo, weights: Floats, rising: NDArray[np.bool_]) -> NDArray[np.str_]:
    clean = [family for family in _CLEAN if (zoo.families == family).any()]
    masses = [weights[:, :, zoo.families == family].sum(axis=(1, 2)) for family in clean]
    masses.append(np.where(zoo.leaking & ~rising, weights, 0.0).sum(axis=(1, 2)))
    return np.asarray(np.array([*clean, DECLINING])[np.argmax(np.stack(masses, axis=1), axis=1)])


@cache
def _zoo(blocks: int) -> _Zoo:
    shapes = [shape for shape in _shapes(blocks) if len(shape.columns) + 2 < blocks]
    families = np.array([shape.family for shape in shapes])
    counts = Counter(families.tolist())
    sums = [sum(weight for family, weight in table.items() if counts[family]) for table in (_LEAKING, _CLEAN)]
    leaking = np.array([shape.family in _LEAKING for shape in shapes])
    prior = [
        (_LEAKING[shape.family] / sums[0] if shape.family in _LEAKING else _CLEAN[shape.family] / sums[1]) / counts[shape.family]
        for shape in shapes
    ]
    parameters = np.array([len(shape.columns) for shape in shapes])
    with_columns = np.flatnonzero(parameters)
    ends = np.cumsum(parameters)
    return _Zoo(
        families=families,
        leaking=leaking,
        parameters=parameters,
        log_prior=np.log(prior),
        starts=(ends - parameters)[with_columns],
        with_columns=with_columns,
        noises=tuple(_noise(blocks, shapes, phi, weight) for phi, weight in _NOISE),
    )


def _noise(blocks: int, shapes: list[_Shape], phi: float, weight: float) -> _Noise:
    whiten = np.eye(blocks) - phi * np.eye(blocks, k=-1)
    whiten[0, 0] = np.sqrt(1 - phi * phi)
    constant = whiten @ np.ones(blocks)
    constant /= np.linalg.norm(constant)
    bases, slope, norm = [], np.zeros((blocks, len(shapes))), np.zeros(len(shapes))
    for number, shape in enumerate(shapes):
        if not shape.columns:
            continue
        columns = whiten @ np.stack(shape.columns, axis=1)
        columns -= np.outer(constant, constant @ columns)
        basis, triangle = np.linalg.qr(columns)
        bases.append(basis)
        if shape.end_slope:
            row = np.linalg.solve(triangle, basis.T)[list(shape.end_slope)].sum(axis=0)
            slope[:, number] = whiten.T @ row
            norm[number] = np.linalg.norm(row)
    return _Noise(
        log_weight=float(np.log(weight) + 0.5 * np.log(1 - phi * phi)),
        whiten=whiten.T,
        constant=constant,
        basis=np.concatenate(bases, axis=1),
        slope=slope,
        slope_norm=norm,
    )


def _shapes(blocks: int) -> list[_Shape]:
    x = (np.arange(blocks) + 0.5) / blocks
    cuts = np.arange(1, blocks) / blocks
    sparse = 2 if blocks > 16 else 1

    def step(at: float) -> Floats:
        return (x >= at).astype(float)

    def settling(scale: float) -> Floats:
        return np.asarray(1 - np.exp(-x / scale))

    def wave(cycles: float) -> list[Floats]:
        return [np.sin(2 * np.pi * cycles * x), np.cos(2 * np.pi * cycles * x)]

    shapes = [_Shape(FLAT, [], ())]
    shapes += [_Shape("one step", [step(k)], ()) for k in cuts]
    if blocks >= 12:
        pairs = [(i, j) for i in range(1, blocks - 1, sparse) for j in range(i + 2, blocks, sparse)]
        shapes += [_Shape("two steps", [step(i / blocks), step(j / blocks)], ()) for i, j in pairs]
        shapes += [_Shape("settling and step", [settling(t), step(k)], ()) for t in (0.03, 0.07, 0.14) for k in cuts[::sparse]]
    shapes += [_Shape("settling", [settling(t)], ()) for t in (0.02, 0.04, 0.07, 0.1, 0.14, 0.19, 0.25, 0.32)]
    shapes += [_Shape("ramp, then flat", [np.minimum(x / k, 1)], ()) for k in cuts if 0.12 <= k <= 0.85]
    shapes += [_Shape("logarithm", [np.log1p(x / t)], ()) for t in (0.004, 0.012, 0.03, 0.08)]
    for cycles in (0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 5, 6, 8):
        if cycles <= blocks / 3:
            shapes.append(_Shape("wave", wave(cycles), ()))
        if 1 <= cycles <= blocks / 6:
            shapes.append(_Shape("wave of two harmonics", [*wave(cycles), *wave(2 * cycles)], ()))
    shapes.append(_Shape("linear", [x], (0,)))
    shapes += [_Shape("hinge", [np.maximum(x - k, 0)], (0,)) for k in cuts if 0.15 <= k <= 0.75]
    if blocks >= 8:
        bends = [k for k in cuts if 0.2 <= k <= 0.75][::sparse]
        shapes += [_Shape("two slopes", [x, np.maximum(x - k, 0)], (0, 1)) for k in bends]
        shapes += [_Shape("linear and step", [x, step(k)], (0,)) for k in cuts[::sparse]]
        shapes += [_Shape("linear and settling", [x, settling(t)], (0,)) for t in (0.03, 0.06, 0.1, 0.15)]
        waves = [cycles for cycles in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if cycles <= blocks / 3]
        shapes += [_Shape("linear and wave", [x, *wave(cycles)], (0,)) for cycles in waves]
    return shapes
