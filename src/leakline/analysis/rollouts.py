"""Which release began to leak: the evidence of all instances of a service, pooled by release."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from leakline.analysis.discovery import e_discoveries, p_values, pool
from leakline.analysis.shapes import PRIOR
from leakline.analysis.trend import GROWING, LEAK
from leakline.model.fleet import RolloutTrend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.analysis.fleet_floors import FloorFits
    from leakline.analysis.services import Service
    from leakline.model.fleet_floors import Window


class _Release(NamedTuple):
    group: str
    release: str
    first: int
    """The block in which it was first seen."""
    rows: list[int]


def judge_rollouts(services: Sequence[Service], fits: FloorFits, window: Window, rate: float) -> list[RolloutTrend]:
    """Each release of each group that has one, the surest first.

    Args:
        services: with their runs.
        fits: of each series.
        window: of the blocks.
        rate: of false discoveries.

    """
    releases = _releases(services)
    pooled = []
    for one in releases:
        factors = fits.log_bayes_factor[one.rows]
        judged = np.flatnonzero(~np.isnan(factors))
        pooled.append((judged, pool(p_values(factors[judged])) if len(judged) else None))
    known = [number for number, (_, found) in enumerate(pooled) if found is not None]
    chosen = np.zeros(len(releases), bool)
    chosen[known] = e_discoveries(np.array([found.log_evidence for _, found in pooled if found is not None]), rate)
    before = _predecessors(releases)
    trends = []
    for number in known:
        one, (judged, found) = releases[number], pooled[number]
        assert found is not None  # noqa: S101  of those that are known
        rows = np.array(one.rows)[judged]
        growing = rows[fits.probability[rows] >= LEAK]
        growing = growing if len(growing) else rows[fits.probability[rows] >= GROWING]
        previous = before.get(number)
        was = None if previous is None else pooled[previous][1]
        trends.append(
            RolloutTrend(
                group=one.group,
                release=one.release,
                previous=None if previous is None else releases[previous].release,
                since=None if one.first == 0 else window.start + one.first * window.width,
                instances=len(one.rows),
                judged=len(judged),
                log_bayes_factor=found.log_evidence,
                probability=_probability(found.log_evidence),
                leaking_share=found.share,
                rate_bytes_per_second=float(np.median(fits.growth[growing])) if len(growing) else None,
                begins=bool(chosen[number]) and was is not None and _probability(was.log_evidence) < GROWING,
                discovered=bool(chosen[number]),
            )
        )
    return sorted(trends, key=lambda trend: (not trend.discovered, -trend.log_bayes_factor, trend.group, trend.release))


def _releases(services: Sequence[Service]) -> list[_Release]:
    found: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for service in services:
        for run in service.runs:
            if run.release is not None:
                found[service.group, run.release].append((run.first, run.number))
    return [
        _Release(group, release, min(first for first, _ in runs), [number for _, number in runs])
        for (group, release), runs in found.items()
    ]


def _predecessors(releases: Sequence[_Release]) -> dict[int, int]:
    """Of each release the one that was first seen last before it, in its group."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(releases):
        groups[one.group].append(number)
    found = {}
    for numbers in groups.values():
        numbers.sort(key=lambda number: (releases[number].first, releases[number].release))
        for place, number in enumerate(numbers):
            earlier = [other for other in numbers[:place] if releases[other].first < releases[number].first]
            if earlier:
                found[number] = earlier[-1]
    return found


def _probability(log_evidence: float) -> float:
    odds = min(log_evidence + math.log(PRIOR / (1 - PRIOR)), 700.0)
    return 1 / (1 + math.exp(-odds))
