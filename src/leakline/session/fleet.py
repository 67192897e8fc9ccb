"""A fleet judged: floors of everything, samples of what may grow, services from series, releases from services."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from leakline.analysis.discovery import discoveries, joint_p_value, p_values
from leakline.analysis.fleet_floors import FloorFits, fit_floors, need_samples
from leakline.analysis.rollouts import judge_rollouts
from leakline.analysis.services import Service, join
from leakline.analysis.shapes import PRIOR
from leakline.analysis.trend import GROWING, LEAK, UNDECIDED, VERDICTS, Settings, judge
from leakline.errors import InvalidRequest, NotPossible
from leakline.model.fleet import FleetCoverage, FleetReport, FleetTrend
from leakline.model.trend import Series
from leakline.session.judging import SEVERITY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from leakline.analysis.floors import Floats
    from leakline.model.fleet_floors import FloorBatch, RawSeries, Window
    from leakline.model.trend import Gate, SeriesTrend, Verdict

_SAMPLES_READ, _SAMPLES_JUDGED = 2_000_000, 400_000
"""At once: as arrays, which are small, and as records, which are not."""
_NEAR = 0.8
_UNLIMITED = 1 << 62  # as control groups of version 1 say it
_NORMAL_95 = 1.645


class FleetSource(Protocol):
    """Who has the series, and makes the floors."""

    partial: list[str]
    """What is missing, and why."""

    @property
    def address(self) -> str:
        """Where it is, without secrets."""

    def series(self, window: Window) -> list[dict[str, str]]:
        """The labels of each series."""

    def floors(self, series: Sequence[Mapping[str, str]], window: Window) -> Iterator[FloorBatch]:
        """The floors of all blocks, in batches."""

    def points(self, labels: Mapping[str, str], window: Window) -> int:
        """How many samples a series has."""

    def samples(self, series: Sequence[Mapping[str, str]], window: Window, chosen: Sequence[int]) -> Iterator[RawSeries]:
        """The samples of some series."""

    def limits(self, window: Window) -> list[tuple[dict[str, str], float]]:
        """What services may reach, by labels that they share with theirs."""


class FleetOptions(NamedTuple):
    """What is asked."""

    metric: str
    """As it is shown."""
    release: tuple[str, ...]
    """Labels that name a release."""
    by: tuple[str, ...] | None = None
    """Labels that tell services apart; None for the rule of docs/commands/fleet.md."""
    settings: Settings = Settings()
    false_discovery_rate: float = 0.05


class _Judged(NamedTuple):
    """A service by its floors."""

    service: Service
    probability: float | None
    log_bayes_factor: float | None
    p_value: float
    longest: int
    """The series of its longest run."""
    limit: int | None


def judge_fleet(source: FleetSource, window: Window, options: FleetOptions, say: Callable[[str], None]) -> FleetReport:
    """Judge all services of a store.

    Args:
        source: the store.
        window: from when to when.
        options: what is asked.
        say: hears what is being done.

    Raises:
        InvalidRequest: there are no such series.
        NotPossible: the store has given nothing.

    """
    series = source.series(window)
    if not series:
        raise InvalidRequest(
            f"{source.address} has no series of {options.metric} in that time", hint="Check --metric, --match, --window and --end."
        )
    say(f"{len(series):,} series; their floors are being read")
    floors, fits = _read_floors(source, series, window)
    if not fits.blocks.any() and source.partial:
        raise NotPossible(f"{source.address} has given no floors: {source.partial[-1]}", hint="Fewer series (--match) may help.")
    services = join(series, floors, options.release, options.by)
    limits = _limits(source.limits(window), services, series)
    singly = p_values(fits.log_bayes_factor)
    judged = [_by_floors(service, fits, singly, limits.get(number)) for number, service in enumerate(services)]
    wanted = need_samples(floors, fits)
    suspects = [n for n, one in enumerate(judged) if _needs(one, wanted, floors)]
    say(f"{len(services):,} services; the samples of {len(suspects):,} are being read")
    by_samples = dict(_by_samples(source, series, window, judged, suspects, options.settings))
    known = [n for n, one in enumerate(judged) if one.probability is not None]
    found = set(
        np.array(known, int)[discoveries(np.array([judged[n].p_value for n in known]), options.false_discovery_rate)].tolist()
    )
    trends = [
        _trend(one, floors, fits, window, by_samples.get(n), options.settings, discovered=n in found)
        for n, one in enumerate(judged)
    ]
    trends.sort(
        key=lambda t: (SEVERITY.index(t.verdict), not t.discovered, not t.at_risk, -(t.rate_bytes_per_second or 0.0), t.name)
    )
    empty = int((~np.isfinite(floors)).all(axis=1).sum())
    return FleetReport(
        source=source.address,
        metric=options.metric,
        start=window.start,
        end=window.end,
        false_discovery_rate=options.false_discovery_rate,
        coverage=FleetCoverage(
            series=len(series), services=len(services), judged=len(known), missing=empty, partial=tuple(source.partial)
        ),
        services=tuple(trends),
        rollouts=tuple(judge_rollouts(services, fits, window, options.false_discovery_rate)),
    )


def _read_floors(source: FleetSource, series: Sequence[Mapping[str, str]], window: Window) -> tuple[Floats, FloorFits]:
    """Judged as they come: the store makes the next ones meanwhile."""
    floors = np.full((len(series), window.blocks), np.nan)
    fits = fit_floors(floors, window.width)
    for batch in source.floors(series, window):
        floors[batch.numbers] = batch.floors
        for whole, part in zip(fits, fit_floors(batch.floors, window.width), strict=True):
            whole[batch.numbers] = part
    return floors, fits


def _by_floors(service: Service, fits: FloorFits, singly: Floats, limit: int | None) -> _Judged:
    runs = service.runs
    longest = runs[0].number if len(runs) == 1 else max(runs, key=lambda run: (run.last - run.first, run.first)).number
    rows = [run.number for run in runs if fits.blocks[run.number]]
    if not rows:
        return _Judged(service, None, None, 1.0, longest, limit)
    if len(rows) == 1:
        (row,) = rows
        return _Judged(service, float(fits.probability[row]), float(fits.log_bayes_factor[row]), float(singly[row]), longest, limit)
    factors = fits.log_bayes_factor[rows].tolist()
    odds = min(max(sum(factors) + math.log(PRIOR / (1 - PRIOR)), -700.0), 700.0)
    return _Judged(service, 1 / (1 + math.exp(-odds)), sum(factors), joint_p_value(factors), longest, limit)


def _needs(one: _Judged, wanted: np.ndarray, floors: Floats) -> bool:
    """Whether its samples are read too: it may grow, hides something, or is near its limit and rises."""
    if one.probability is None:
        return False
    if one.probability >= UNDECIDED or any(wanted[run.number] for run in one.service.runs):
        return True
    row = floors[one.service.runs[-1].number]
    there = row[~np.isnan(row)]
    return one.limit is not None and bool(there[-1] >= _NEAR * one.limit and there[-1] > there[len(there) // 2])


def _by_samples(
    source: FleetSource,
    series: Sequence[Mapping[str, str]],
    window: Window,
    judged: Sequence[_Judged],
    suspects: Sequence[int],
    settings: Settings,
) -> Iterator[tuple[int, SeriesTrend]]:
    """Judged as `leakline trend` does, a part of them at a time."""
    if not suspects:
        return
    points = max(1, source.points(series[judged[suspects[0]].longest], window))
    for read in _parts(suspects, _SAMPLES_READ // points):
        chosen = [run.number for n in read for run in judged[n].service.runs]
        raw = {one.number: one for one in source.samples(series, window, chosen)}
        whole = [n for n in read if all(run.number in raw for run in judged[n].service.runs)]
        for part in _parts(whole, _SAMPLES_JUDGED // points):
            yield from zip(part, judge([_series(judged[n], raw, window) for n in part], settings), strict=True)


def _parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (numbers[first : first + max(1, size)] for first in range(0, len(numbers), max(1, size)))


def _series(one: _Judged, raw: Mapping[int, RawSeries], window: Window) -> Series:
    parts = [raw[run.number] for run in one.service.runs]
    times = np.concatenate([part.times for part in parts]) - window.start
    values = np.concatenate([part.values for part in parts])
    epochs = np.concatenate([np.full(len(part.times), number) for number, part in enumerate(parts)])
    return Series(
        name=one.service.name,
        times=tuple(times.tolist()),
        values=tuple(values.tolist()),
        epochs=tuple(epochs.tolist()) if len(parts) > 1 else None,
        limit=one.limit,
    )


def _trend(
    one: _Judged,
    floors: Floats,
    fits: FloorFits,
    window: Window,
    exact: SeriesTrend | None,
    settings: Settings,
    *,
    discovered: bool,
) -> FleetTrend:
    runs = one.service.runs
    rows = [floors[run.number, run.first : run.last + 1].tolist() for run in runs]
    shown: list[float | None] = [None] * window.blocks
    for run, row in zip(runs, rows, strict=True):
        shown[run.first : run.last + 1] = [None if value != value else value for value in row]  # NaN is not itself
    verdict = _by_floors_alone(one, fits, window, settings) if exact is None else exact
    return FleetTrend(
        name=one.service.name,
        labels=one.service.labels,
        group=one.service.group,
        release=runs[-1].release,
        epochs=len(runs),
        samples=None if exact is None else exact.samples,
        verdict=verdict.verdict,
        probability=verdict.probability,
        log_bayes_factor=one.log_bayes_factor,
        rate_bytes_per_second=verdict.rate_bytes_per_second,
        rate_interval=verdict.rate_interval,
        alternative=verdict.alternative,
        increase=round(sum(row[-1] - row[0] for row in rows)),
        limit=one.limit,
        limit_eta_seconds=None if exact is None else exact.limit_eta_seconds,
        at_risk=exact is not None and exact.at_risk,
        gates=verdict.gates,
        judged_by="floors" if exact is None else "samples",
        discovered=discovered and verdict.verdict in ("GROWING", "LEAK"),
        floors=tuple(shown),
    )


class _Verdict(NamedTuple):
    verdict: Verdict
    probability: float | None
    rate_bytes_per_second: float | None
    rate_interval: tuple[float, float] | None
    alternative: str | None
    gates: tuple[Gate, ...]


def _by_floors_alone(one: _Judged, fits: FloorFits, window: Window, settings: Settings) -> _Verdict:
    """What floors can say: LEAK takes two looks at samples."""
    if one.probability is None:
        return _Verdict("INSUFFICIENT", None, None, None, None, ("samples",))
    alternative = str(fits.alternative[one.longest])
    if one.probability < UNDECIDED:
        return _Verdict(VERDICTS[alternative], one.probability, None, None, alternative, ())
    rate, deviation = float(fits.growth[one.longest]), float(fits.deviation[one.longest])
    interval = (rate - _NORMAL_95 * deviation, rate + _NORMAL_95 * deviation)
    if one.probability < GROWING:
        return _Verdict("UNDECIDED", one.probability, rate, interval, alternative, ())
    seconds = float(fits.blocks[one.longest]) * window.width
    unmet: dict[Gate, bool] = {"confidence": one.probability < LEAK, "two looks": True, "warm-up": seconds < settings.warm_up}
    gates = tuple(gate for gate, is_unmet in unmet.items() if is_unmet)
    return _Verdict("GROWING", one.probability, rate, interval, alternative, gates)


def _limits(
    limits: Sequence[tuple[dict[str, str], float]], services: Sequence[Service], series: Sequence[Mapping[str, str]]
) -> dict[int, int]:
    """Of each service what its last run may reach: by the labels that both metrics have.

    Labels of which no value is the same, such as the job and the instance of two exporters, say nothing.
    """
    if not limits or not services:
        return {}
    ours = {pair for labels in series for pair in labels.items()}
    shared = sorted({name for labels, _ in limits for name, value in labels.items() if (name, value) in ours})
    if not shared:
        return {}
    table: dict[tuple[str, ...], float] = {}
    for labels, value in limits:
        key = tuple(labels.get(name, "") for name in shared)
        table[key] = min(value, table.get(key, value))
    found = {}
    for number, service in enumerate(services):
        mine = series[service.runs[-1].number]
        allowed = table.get(tuple(mine.get(name, "") for name in shared))
        if allowed is not None and allowed < _UNLIMITED:
            found[number] = int(allowed)
    return found
