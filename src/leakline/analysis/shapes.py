"""Which shape does a floor have? Bayesian model averaging over a small zoo of clean and leaking shapes.

Each shape is a linear model over x in (0, 1), with noise that follows itself (AR(1)), whitened after Prais and Winsten (1954), and
Zellner's g-prior (1986) with g = blocks, so that its marginal likelihood has a closed form (Liang et al., JASA 2008, eq. 5).
For a fixed number of blocks each shape is a projection: one product of matrices judges many series.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import groupby
from typing import NamedTuple

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
_CHUNK = 256  # what fits into a core's own cache


class _Shape(NamedTuple):
    family: str
    columns: list[Floats]
    end_slope: tuple[int, ...]
    """The columns whose coefficients add up to the slope at the end."""


class _Noise(NamedTuple):
    """What is the same for all series, for one strength of the noise."""

    log_weight: float
    whiten: Floats
    """(blocks, blocks): the product with a series is white, without its constant."""
    basis: Floats
    """(blocks, columns): the products with a series are its parts along orthonormal columns of the shapes: first the first columns
    of all, then the second ones, and so on."""
    slope: Floats
    """(blocks, leaking shapes): the product with a series is its slope at the end."""
    slope_norm: Floats
    """Standard deviation of that slope, in units of the noise's."""


class _Zoo(NamedTuple):
    """All shapes, those with the most columns first."""

    families: NDArray[np.str_]
    leaking: Ints
    """Places of the leaking ones."""
    parameters: Ints
    log_prior: Floats
    is_leaking: NDArray[np.bool_]
    deep: tuple[int, ...]
    """How many shapes have a first column, a second one, and so on."""
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
    weights: NDArray[np.float32]
    """(series, noises, shapes): posterior probabilities."""
    slopes: NDArray[np.float32]
    """(series, noises, leaking shapes)."""
    deviations: NDArray[np.float32]


def _weigh(zoo: _Zoo, floors: Floats, quanta: Floats, prior: float) -> _Weighed:
    count, blocks = floors.shape
    g = float(blocks)
    centred = floors - floors.mean(axis=1, keepdims=True)
    scale = np.maximum(np.abs(centred).max(axis=1, keepdims=True), quanta[:, None])
    centred /= scale  # so that single precision holds every square
    least = blocks * (quanta[:, None] / scale) ** 2 / 12  # what rounding to the quantum alone leaves
    shapes = len(zoo.families)
    log_odds = np.empty((count, len(zoo.noises), shapes), np.float32)  # sums of some hundred: exact to a ten-thousandth
    slopes = np.empty((count, len(zoo.noises), len(zoo.leaking)), np.float32)
    deviations = np.empty_like(slopes)
    freedom = np.maximum(blocks - 1 - zoo.parameters[zoo.leaking], 1)
    constant = zoo.log_prior - 0.5 * zoo.parameters * np.log1p(g) + np.where(zoo.is_leaking, np.log(prior), np.log1p(-prior))
    for at, noise in enumerate(zoo.noises):
        white = centred @ noise.whiten
        whole = (white * white).sum(axis=1, keepdims=True) + least
        parts = centred @ noise.basis
        parts *= parts
        rest = np.repeat(whole, shapes, axis=1)
        first = 0
        for columns in zoo.deep:
            rest[:, :columns] -= parts[:, first : first + columns]
            first += columns
        np.maximum(rest, least, out=rest)
        slopes[:, at] = centred @ noise.slope
        deviations[:, at] = np.sqrt(rest[:, zoo.leaking] / freedom) * noise.slope_norm
        rest *= g
        rest += whole
        log_odds[:, at] = np.log(rest.astype(np.float32))
        log_odds[:, at] *= -0.5 * (blocks - 1)
        log_odds[:, at] += (constant + noise.log_weight).astype(np.float32)
    log_odds -= log_odds.max(axis=(1, 2), keepdims=True)
    weights = np.exp(log_odds, out=log_odds)
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    unit = scale.astype(np.float32)[:, :, None]
    return _Weighed(weights, slopes * unit, deviations * unit)


def _fit(zoo: _Zoo, floors: Floats, quanta: Floats, prior: float, into: ShapeFits) -> None:
    weights, slopes, deviations = _weigh(zoo, floors, quanta, prior)
    leaking = weights[:, :, zoo.leaking]
    leak = np.where(slopes > 0, leaking, 0.0)
    mass = leak.sum(axis=(1, 2), dtype=float)
    into.probability[:] = np.minimum(mass, 1.0)
    mass = np.maximum(mass, 1e-30)
    into.growth[:] = (leak * slopes).sum(axis=(1, 2), dtype=float) / mass
    apart = slopes - into.growth[:, None, None]
    into.growth_deviation[:] = np.sqrt((leak * (deviations**2 + apart**2)).sum(axis=(1, 2), dtype=float) / mass)
    into.alternative[:] = _alternatives(zoo, weights, (leaking - leak).sum(axis=(1, 2)))


def likeliest_curve(floors: Floats, quantum: float, prior: float = PRIOR) -> tuple[str, Floats]:
    """The family of the most probable single shape, and that shape through the floors, by least squares.

    Args:
        floors: of one series, in bytes.
        quantum: the step in which it moves.
        prior: the probability of a leak before anything was seen.

    """
    blocks = len(floors)
    weights = _weigh(_zoo(blocks), floors[None], np.array([quantum]), prior).weights.sum(axis=1)[0]
    shape = _ordered_shapes(blocks)[int(weights.argmax())]
    columns = np.stack([np.ones(blocks), *shape.columns], axis=1)
    coefficients, *_ = np.linalg.lstsq(columns, floors, rcond=None)
    return shape.family, np.asarray(columns @ coefficients)


def _alternatives(zoo: _Zoo, weights: NDArray[np.float32], declining: NDArray[np.float32]) -> NDArray[np.str_]:
    by_shape = weights.sum(axis=1)
    clean = [family for family in _CLEAN if (zoo.families == family).any()]
    masses = [by_shape[:, zoo.families == family].sum(axis=1) for family in clean]
    return np.asarray(np.array([*clean, DECLINING])[np.argmax(np.stack([*masses, declining], axis=1), axis=1)])


@cache
def _zoo(blocks: int) -> _Zoo:
    shapes = _ordered_shapes(blocks)
    families = np.array([shape.family for shape in shapes])
    counts = Counter(families.tolist())
    sums = [sum(weight for family, weight in table.items() if counts[family]) for table in (_LEAKING, _CLEAN)]
    is_leaking = np.array([shape.family in _LEAKING for shape in shapes])
    prior = [
        (_LEAKING[shape.family] / sums[0] if shape.family in _LEAKING else _CLEAN[shape.family] / sums[1]) / counts[shape.family]
        for shape in shapes
    ]
    parameters = np.array([len(shape.columns) for shape in shapes])
    return _Zoo(
        families=families,
        leaking=np.flatnonzero(is_leaking),
        parameters=parameters,
        log_prior=np.log(prior),
        is_leaking=is_leaking,
        deep=tuple(int((parameters > depth).sum()) for depth in range(int(parameters.max()))),
        noises=tuple(_noise(blocks, shapes, phi, weight) for phi, weight in _NOISE),
    )


def _noise(blocks: int, shapes: list[_Shape], phi: float, weight: float) -> _Noise:
    whiten = np.eye(blocks) - phi * np.eye(blocks, k=-1)
    whiten[0, 0] = np.sqrt(1 - phi * phi)
    constant = whiten @ np.ones(blocks)
    constant /= np.linalg.norm(constant)
    level = whiten.T @ (np.eye(blocks) - np.outer(constant, constant))
    depths: list[list[Floats]] = [[] for _ in range(max(len(shape.columns) for shape in shapes))]
    slopes, norms = [], []
    for count, alike in groupby(shapes, key=lambda shape: len(shape.columns)):
        if not count:
            continue
        group = list(alike)
        columns = whiten @ np.array([np.stack(shape.columns, axis=1) for shape in group])
        columns -= constant[:, None] * (constant @ columns)[:, None, :]
        basis, triangle = np.linalg.qr(columns)
        for depth in range(count):
            depths[depth].append(level @ basis[:, :, depth].T)
        ends = np.array([[float(column in shape.end_slope) for column in range(count)] for shape in group])
        rows = (ends[:, None, :] @ np.linalg.solve(triangle, basis.swapaxes(1, 2)))[:, 0]
        leaking = [place for place, shape in enumerate(group) if shape.family in _LEAKING]
        slopes.append(rows[leaking] @ whiten)
        norms.append(np.linalg.norm(rows[leaking], axis=1))
    return _Noise(
        log_weight=float(np.log(weight) + 0.5 * np.log(1 - phi * phi)),
        whiten=level,
        basis=np.concatenate([part for depth in depths for part in depth], axis=1),
        slope=np.concatenate(slopes).T,
        slope_norm=np.concatenate(norms),
    )


def _ordered_shapes(blocks: int) -> list[_Shape]:
    """Those that so many blocks can tell, the ones with the most columns first."""
    return sorted((shape for shape in _shapes(blocks) if len(shape.columns) + 2 < blocks), key=lambda shape: -len(shape.columns))


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
