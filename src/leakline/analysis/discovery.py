"""How surely something is not chance, where a hundred thousand things were looked at.

The null is measured: how often made services that do not leak reach a Bayes factor (`benchmarks/fleet_synthetic.py --calibrate`).
That makes a p-value of each, which Benjamini and Hochberg (1995) hold to a rate of false discoveries; an e-value of each p-value
(Vovk and Wang, Annals of Statistics 2021, the calibrator k p^(k-1)), which multiply; and of many products a choice under any
dependence (e-BH: Wang and Ramdas, JRSS B 2022).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.analysis.floors import Floats

_TAIL = (
    *((-4.0, 1.0), (-1.174, 0.5), (-0.039, 0.2), (0.886, 0.1), (1.828, 0.05), (3.106, 0.02)),
    *((4.026, 0.01), (4.801, 0.005), (5.584, 0.002), (6.022, 0.001), (6.390, 0.0005), (6.850, 0.0002)),
    *((7.928, 0.0001), (9.135, 5e-5), (10.821, 2e-5), (11.513, 1e-5)),
)
"""Log Bayes factor, and the share of 500,000 services without a leak that reach it: the largest of those that were there for 26,
19, 13, 9 and 6 of the window's blocks."""
_CALIBRATOR = 0.25
_SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
_MOST_LOG = 600.0


class Pooled(NamedTuple):
    """The evidence of many instances."""

    log_evidence: float
    """Natural logarithm of the e-value that a share of them leaks, against that none does."""
    share: float
    """Posterior mean of that share."""


def p_values(log_bayes_factors: Floats) -> Floats:
    """How often services without a leak reach these; NaN stays NaN.

    Beyond what was measured the Bayes factor itself bounds it (Markov's inequality).
    """
    places, shares = np.array(_TAIL).T
    inside = np.exp(np.interp(log_bayes_factors, places, np.log(shares)))
    return np.asarray(np.where(log_bayes_factors > places[-1], np.exp(-np.minimum(log_bayes_factors, _MOST_LOG)), inside))


def joint_p_value(log_bayes_factors: Sequence[float]) -> float:
    """Of the runs of one service: by the strongest of them, or by all together, whichever says more."""
    single = p_values(np.array(log_bayes_factors, float))
    if len(single) == 1:
        return float(single[0])
    strongest = len(single) * float(single.min())
    together = math.exp(-min(sum(log_bayes_factors) - len(single) * math.log(2), _MOST_LOG))
    return min(1.0, 2 * min(strongest, together))


def discoveries(values: Floats, rate: float) -> NDArray[np.bool_]:
    """Which of these p-values are called discoveries, so that at most this share of them is expected to be false."""
    order = np.argsort(values)
    ranks = np.arange(1, len(values) + 1)
    good = np.flatnonzero(values[order] <= rate * ranks / max(len(values), 1))
    found = np.zeros(len(values), bool)
    if len(good):
        found[order[: good[-1] + 1]] = True
    return found


def e_discoveries(log_evidence: Floats, rate: float) -> NDArray[np.bool_]:
    """The same of e-values, given by their logarithms, however they depend on each other."""
    return discoveries(np.exp(-np.clip(log_evidence, 0.0, _MOST_LOG)), rate)


def pool(values: Floats) -> Pooled:
    """The evidence of instances that are independent of each other.

    Under each share s of instances that leak it is the product of 1 - s + s e; the shares are weighed alike.

    Args:
        values: a p-value for each instance.

    """
    evidence = _CALIBRATOR * np.maximum(values, 1e-300) ** (_CALIBRATOR - 1)
    logs = np.array([np.log1p(share * (evidence - 1)).sum() for share in _SHARES])
    most = float(logs.max())
    weights = np.exp(logs - most)
    return Pooled(most + math.log(float(weights.mean())), float((weights * _SHARES).sum() / weights.sum()))
