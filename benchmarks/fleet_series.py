"""Made fleets: memory of services that do not leak, and of some that do, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from leakline.model.fleet import FleetReport
from leakline.model.fleet_floors import FloorBatch, RawSeries, Window
from leakline.session.fleet import FleetOptions, judge_fleet

Floats = NDArray[np.float64]
SAMPLES, BLOCKS = 300, 26
WINDOW = Window.until(1_800_000_000.0, 3 * 86400.0)
STEP = WINDOW.length_ms / 1000 / SAMPLES
_BATCH = 5000
MIB = float(1 << 20)
_X = np.linspace(0, 1, SAMPLES)


def _column(rng: np.random.Generator, count: int, low: float, high: float) -> Floats:
    return rng.uniform(low, high, (count, 1))


def _noise(rng: np.random.Generator, count: int, phi: Floats) -> Floats:
    """Of deviation 1, each following itself (AR(1))."""
    steps = rng.standard_normal((count, SAMPLES)) * np.sqrt(1 - phi * phi)
    steps[:, 0] = rng.standard_normal(count)
    for at in range(1, SAMPLES):
        steps[:, at] += phi[:, 0] * steps[:, at - 1]
    return steps


def _settled(rng: np.random.Generator, count: int) -> Floats:
    return np.asarray(_column(rng, count, 3, 80) * (1 - np.exp(-_X / _column(rng, count, 0.03, 0.25))))


def _filled(rng: np.random.Generator, count: int) -> Floats:
    return np.asarray(_column(rng, count, 3, 80) * np.minimum(_X / _column(rng, count, 0.2, 0.65), 1))


def _expiring(rng: np.random.Generator, count: int) -> Floats:
    return np.asarray(_column(rng, count, 3, 60) * (1 - (1 + _X / _column(rng, count, 0.02, 0.15)) ** -2))


def _fragmenting(rng: np.random.Generator, count: int) -> Floats:
    scale = _column(rng, count, 0.005, 0.04)
    return np.asarray(_column(rng, count, 2, 20) * np.log1p(_X / scale) / np.log1p(1 / scale))


def _collected(rng: np.random.Generator, count: int) -> Floats:
    return np.asarray(_column(rng, count, 5, 60) * ((_X * _column(rng, count, 4, 60) + rng.uniform(size=(count, 1))) % 1))


def _daily(rng: np.random.Generator, count: int) -> Floats:
    cycles, phase = _column(rng, count, 1.5, 12), rng.uniform(size=(count, 1))
    wave = np.sin(2 * np.pi * (cycles * _X + phase)) + 0.3 * np.sin(4 * np.pi * (cycles * _X + rng.uniform(size=(count, 1))))
    return np.asarray(_column(rng, count, 2, 20) * wave)


def _stepped(rng: np.random.Generator, count: int) -> Floats:
    found = np.zeros((count, SAMPLES))
    for _ in range(3):
        found += (rng.uniform(size=(count, 1)) < 0.6) * _column(rng, count, -10, 25) * (_column(rng, count, 0.1, 0.9) <= _X)
    return found


def _wandering(rng: np.random.Generator, count: int) -> Floats:
    return np.asarray(np.cumsum(rng.standard_normal((count, SAMPLES)), axis=1) * _column(rng, count, 0.02, 0.3))


def _declining(rng: np.random.Generator, count: int) -> Floats:
    return np.asarray(-_column(rng, count, 2, 20) * _X)


def _level(_rng: np.random.Generator, count: int) -> Floats:
    return np.zeros((count, SAMPLES))


_CLEAN: tuple[tuple[Callable[[np.random.Generator, int], Floats], float], ...] = (
    (_level, 0.30),
    (_settled, 0.10),
    (_filled, 0.08),
    (_expiring, 0.08),
    (_fragmenting, 0.06),
    (_collected, 0.14),
    (_daily, 0.10),
    (_stepped, 0.08),
    (_wandering, 0.03),
    (_declining, 0.03),
)


def clean(rng: np.random.Generator, count: int) -> Floats:
    """Memory of services that do not leak, shape (count, samples), in bytes."""
    shares = np.array([share for _, share in _CLEAN])
    kinds = rng.choice(len(_CLEAN), size=count, p=shares / shares.sum())
    values = np.empty((count, SAMPLES))
    for kind, (make, _) in enumerate(_CLEAN):
        rows = np.flatnonzero(kinds == kind)
        values[rows] = make(rng, len(rows))
    phi = rng.choice([0.0, 0.5, 0.8, 0.95], size=(count, 1))
    values += _noise(rng, count, phi) * 10 ** _column(rng, count, -1.3, 0.5)
    return _pages(values + 10 ** _column(rng, count, 1.5, 3.3))


def leaking(rng: np.random.Generator, count: int) -> Floats:
    """The same with growth that does not end, of 5 to 60 MiB in all."""
    return _pages(clean(rng, count) + _column(rng, count, 5, 60) * MIB * _X, unit=1.0)


def floors_of(values: Floats) -> Floats:
    """What a quarter of each block's samples do not exceed."""
    edges = -(-np.arange(BLOCKS + 1) * values.shape[1] // BLOCKS)
    return np.stack([np.quantile(values[:, first:last], 0.25, axis=1) for first, last in pairwise(edges)], axis=1)


def _pages(values: Floats, unit: float = MIB) -> Floats:
    return np.maximum(np.round(values * unit / 4096), 64) * 4096


class Made:
    """A store whose series are in memory."""

    address = "made"

    def __init__(self, values: Floats, labels: list[dict[str, str]]) -> None:
        self._values, self._labels = values, labels
        self.partial: list[str] = []

    def series(self, _window: Window) -> list[dict[str, str]]:
        """The labels of each."""
        return self._labels

    def floors(self, _series: Sequence[Mapping[str, str]], _window: Window) -> Iterator[FloorBatch]:
        """Of all blocks."""
        for first in range(0, len(self._values), _BATCH):
            part = self._values[first : first + _BATCH]
            yield FloorBatch(np.arange(first, first + len(part)), floors_of(part))

    def points(self, _labels: Mapping[str, str], _window: Window) -> int:
        """Samples of each."""
        return SAMPLES

    def samples(self, _series: Sequence[Mapping[str, str]], window: Window, chosen: Sequence[int]) -> Iterator[RawSeries]:
        """Of some."""
        times: Floats = np.linspace(window.start, window.start + STEP * (SAMPLES - 1), SAMPLES)
        return (RawSeries(number, times, self._values[number]) for number in chosen)

    def limits(self, _window: Window) -> list[tuple[dict[str, str], float]]:
        """None."""
        return []


def judged(values: Floats, labels: list[dict[str, str]]) -> FleetReport:
    return judge_fleet(Made(values, labels), WINDOW, FleetOptions("made", ("version",)), lambda _text: None)
