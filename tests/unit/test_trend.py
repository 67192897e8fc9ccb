"""The detector: on made series of known kind, and on its own rules."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leakline.analysis.diagnosis import growing_finding
from leakline.analysis.floors import block_count, floors_of, periods
from leakline.analysis.trend import Settings, judge
from leakline.model.finding import Cost, Report, RetainedFree, Summary, Target
from leakline.model.series import VmaGrowth
from leakline.model.trend import Series, SeriesTrend
from leakline.present.findings import describe_reports
from leakline.present.trends import describe_trends, explain

MIB = float(1 << 20)
X = np.linspace(0, 1, 300)


def series(values: np.ndarray, *, step: float = 1.0, **rest: object) -> Series:
    times = tuple(float(step * i) for i in range(len(values)))
    pages = np.round(np.asarray(values) * 256) / 256 * MIB
    return Series(name="s", times=times, values=tuple(pages.tolist()), **rest)  # type: ignore[arg-type]


def judged(values: np.ndarray, warm_up: float = 0, **rest: object) -> SeriesTrend:
    (trend,) = judge([series(values, **rest)], Settings(warm_up=warm_up))  # type: ignore[arg-type]
    return trend


def noise(seed: int, size: float = 0.2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(300) * size


def test_a_steady_leak_and_its_rate() -> None:
    covered = close = 0
    for seed in range(40):
        trend = judged(100 + 20 * X + noise(seed))
        assert trend.verdict == "LEAK", seed
        assert trend.rate_bytes_per_second is not None
        assert trend.rate_interval is not None
        truth = 20 * MIB / 299
        close += abs(trend.rate_bytes_per_second - truth) <= 0.25 * truth
        covered += trend.rate_interval[0] <= truth <= trend.rate_interval[1]
    assert close >= 38
    assert covered >= 34


@pytest.mark.parametrize(
    ("values", "verdicts"),
    [
        (100 + 0 * X, {"STABLE"}),
        (100 + 30 * (1 - np.exp(-X / 0.1)), {"SETTLING", "PLATEAU"}),
        (100 + 30 * np.minimum(X / 0.4, 1), {"PLATEAU", "SETTLING"}),
        (100 + 10 * (X > 0.5), {"STEP"}),
        (100 + 8 * np.sin(2 * np.pi * 5 * X), {"PERIODIC", "STABLE", "STEP"}),
        (100 - 20 * X, {"DECLINING"}),
        (100 + 20 * ((X * 12) % 1), {"STABLE", "PERIODIC", "STEP", "SETTLING"}),
    ],
    ids=["flat", "warm-up", "cache", "step", "cycle", "decline", "sawtooth"],
)
def test_what_needs_no_fix_is_named(values: np.ndarray, verdicts: set[str]) -> None:
    for seed in range(8):
        trend = judged(values + noise(seed))
        assert trend.verdict in verdicts, (seed, trend)
        assert trend.gates == ()
        assert trend.rate_bytes_per_second is None


def test_three_samples_are_insufficient_and_it_says_why() -> None:
    values = np.array([560, 608, 644]) / 1024
    trend = judged(values)
    assert (trend.verdict, trend.probability, trend.gates) == ("INSUFFICIENT", None, ("samples",))
    text = explain(trend)
    assert text.startswith("3 samples, +84.0 KiB, 42.0 KiB a sample (90 % interval 20.1 KiB to 63.9 KiB")
    assert "increments shrink (48.0 KiB, 36.0 KiB)" in text
    assert "5 samples for GROWING, 30 for LEAK" in text
    assert judged(np.array([])).verdict == judged(np.array([1.0])).verdict == "INSUFFICIENT"


def test_gates_name_what_keeps_it_from_leak() -> None:
    rising = 100 + 20 * X + noise(1)
    assert judged(rising, warm_up=3600).gates == ("warm-up",)
    assert judged(rising, warm_up=3600).verdict == "GROWING"
    assert judged(rising, warm_up=3600, age=7200.0).verdict == "LEAK"
    assert "reclaimable" in judged(rising, reclaimable=True).gates
    assert "samples" in judged(rising[:20] + 5 * X[:20] * 100).gates
    tiny = judged(100 + 2.5 / 256 * X)
    assert tiny.verdict != "LEAK"
    assert "warm-up" in explain(judged(rising, warm_up=3600))


def test_restarts_are_epochs_of_one_series() -> None:
    epochs = tuple(int(i // 100) for i in range(300))
    within = np.concatenate([np.linspace(0, 10, 100)] * 3)
    leak = judged(50 + within + noise(3, 0.05), epochs=epochs)
    assert leak.verdict in ("GROWING", "LEAK"), "each run leaks, and is restarted"
    warm = judged(50 + np.concatenate([10 * (1 - np.exp(-np.linspace(0, 1, 100) / 0.05))] * 3) + noise(4, 0.05), epochs=epochs)
    assert warm.verdict not in ("GROWING", "LEAK")


def test_the_rate_of_several_runs_is_that_of_the_one_that_grows() -> None:
    level = 100.0 + noise(4)[:150] * 0.1
    values = np.concatenate([level, level + 0.5 * np.arange(150)])
    trend = judged(values, epochs=tuple(number // 150 for number in range(300)))
    assert trend.verdict == "LEAK"
    assert trend.rate_bytes_per_second == pytest.approx(0.5 * MIB, rel=0.1)


def test_gaps_are_gaps() -> None:
    values = 100 + 20 * X + noise(5)
    with_gaps = values.copy()
    with_gaps[np.random.default_rng(1).uniform(size=300) < 0.3] = np.nan
    assert judged(with_gaps).verdict == "LEAK"
    whole = series(values)
    kept = [i for i in range(300) if not 100 <= i < 220]
    missing = Series(name="s", times=tuple(whole.times[i] for i in kept), values=tuple(whole.values[i] for i in kept))
    (trend,) = judge([missing], Settings(warm_up=0))
    assert trend.verdict == "LEAK"
    assert trend.rate_bytes_per_second is not None
    assert abs(trend.rate_bytes_per_second - 20 * MIB / 299) < 0.1 * 20 * MIB / 299, "time is where it was"


def test_a_limit_that_comes_near_is_a_risk() -> None:
    leak = judged(100 + 20 * X + noise(6), limit=int(140 * MIB))
    assert leak.at_risk
    assert leak.limit_eta_seconds == pytest.approx(20 / (20 / 299), rel=0.1)
    assert "limit of 140.0 MiB" in explain(leak)
    assert not judged(100 + noise(7), limit=int(140 * MIB)).at_risk
    filling = judged(100 + 200 * np.minimum(X / 2, 1) + noise(8), limit=int(300 * MIB))
    assert filling.at_risk
    far = judged(100 + 20 * X + noise(6), limit=1 << 50)
    assert not far.at_risk


def test_series_judged_together_are_judged_as_if_alone() -> None:
    many = [series(100 + 20 * X * (n % 2) + noise(n)) for n in range(10)]
    together = judge(many, Settings(warm_up=0))
    alone = [judge([one], Settings(warm_up=0))[0] for one in many]
    assert [(t.verdict, round(t.probability or 0, 4)) for t in together] == [
        (t.verdict, round(t.probability or 0, 4)) for t in alone
    ]


def test_floors_and_cycles() -> None:
    saw = np.tile(np.concatenate([np.linspace(0, 10, 19), [0.0]]), 15)[None]
    (cycle,) = periods(saw)
    assert cycle in (19, 20, 21)
    floors = floors_of(saw, np.array([20]))
    assert floors.shape == (1, 24)
    assert floors.max() < 1.5, "what it falls back to"
    assert [block_count(n) for n in (5, 23, 24, 47, 48, 1000)] == [5, 23, 12, 12, 24, 24]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 1e15), st.just(math.nan)), max_size=80), st.floats(0.001, 1e6))
def test_any_series_gets_a_verdict(values: list[float], step: float) -> None:
    one = Series(name="\x1b[31m", times=tuple(i * step for i in range(len(values))), values=tuple(values), limit=1 << 40)
    (trend,) = judge([one])
    assert trend.probability is None or 0 <= trend.probability <= 1
    text = "".join(line for line, _ in describe_trends([trend]))
    assert "\x1b" not in text
    assert "nan" not in text


def test_a_job_that_starts_anew_every_minute_is_no_leak() -> None:
    warm = np.concatenate([50 + 14 * (1 - np.exp(-np.linspace(0, 1, 70) / 0.3)) for _ in range(50)])
    epochs = tuple(i // 70 for i in range(len(warm)))
    (trend,) = judge([series(warm + np.random.default_rng(2).standard_normal(len(warm)) * 0.05, epochs=epochs)])
    assert trend.verdict != "LEAK"
    assert trend.verdict != "GROWING" or "warm-up" in trend.gates


def test_a_jump_of_the_clock_takes_nothing_away() -> None:
    values = 100 + 20 * X + noise(9)
    whole = series(values)
    jumped = Series(
        name="s", times=(0.0, 1.0, *(t + 1.7e9 for t in whole.times)), values=(whole.values[0], whole.values[0], *whole.values)
    )
    (trend,) = judge([jumped], Settings(warm_up=0))
    assert trend.verdict == "LEAK"
    assert trend.rate_bytes_per_second == pytest.approx(20 * MIB / 299, rel=0.1)


def test_what_stands_over_its_limit_is_at_risk() -> None:
    over = judged(2000 + noise(10), limit=1 << 30)
    assert (over.verdict, over.at_risk, over.limit_eta_seconds) == ("STABLE", True, 0.0)


def test_a_growing_finding_in_words() -> None:
    trend = judged(100 + 20 * X + noise(1), warm_up=3600)
    finding = growing_finding(trend, VmaGrowth(name="[heap]", start=4096, increase=1 << 20))
    report = Report(
        target=Target(pid=7, command="server", executable=None),
        bytes_are="usable",
        summary=Summary(definite=None, indirect=None, possible=None, reachable=None),
        findings=(finding,),
        retained_free=RetainedFree(bytes=None),
        not_judged=(),
        cost=Cost(target_stopped_ns=0, duration_ns=1),
    )
    text = [line for line, _ in describe_reports([report], 10)]
    assert "  [heap]" in text
    assert "    growing, low confidence" in text
    assert "    1,048,576 bytes more" in text
