"""Services from series, floors without samples, discoveries, releases."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pytest
from benchmarks import fleet_series
from hypothesis import given
from hypothesis import strategies as st

from leakline.analysis.discovery import discoveries, joint_p_value, p_values, pool
from leakline.analysis.fleet_floors import fit_floors, need_samples
from leakline.analysis.rollouts import judge_rollouts
from leakline.analysis.services import join
from leakline.analysis.trend import Settings
from leakline.errors import InvalidRequest, ParseError
from leakline.model.fleet_floors import BLOCKS, FloorBatch, RawSeries, Window
from leakline.session.fleet import FleetOptions, judge_fleet
from leakline.session.judging import judge_recording
from leakline.store.parquet import ExportedSeries, ParquetStore, write_parquet
from tests.conftest import Leakline

WINDOW = Window(1_790_000_000.0, 10_000_000)


def floors_at(*spans: tuple[int, int]) -> np.ndarray:
    floors = np.full((len(spans), BLOCKS), np.nan)
    for row, (first, last) in enumerate(spans):
        floors[row, first : last + 1] = 1e8
    return floors


def test_a_pod_that_is_replaced_is_one_service() -> None:
    pods = ["shop-6d4cf56db6-abcde", "shop-6d4cf56db6-x2k4z", "shop-6d4cf56db6-qwz9b", "shop-5b4cf56db6-bcdfg"]
    names = [{"namespace": "n", "pod": pod, "container": "c", "id": f"/kubepods/{n}"} for n, pod in enumerate(pods)]
    services = join(names[1:], floors_at((0, 9), (9, 20), (0, 20)), ())
    assert sorted([run.number for run in service.runs] for service in services) == [[0, 1], [2]]
    assert {service.group for service in services} == {"c, n, shop"}
    assert {service.name for service in services} == {"c, n, shop #1", "c, n, shop #2"}
    (other,) = join(names[:1], floors_at((0, 9)), ())
    assert other.labels["workload"] == "shop-6d4cf56db6-abcde", "no name that Kubernetes makes"


@pytest.mark.parametrize(
    ("pod", "workload", "stays"),
    [
        ("web-0", "web", True),
        ("web-12", "web", True),
        ("node-exporter-x2k4z", "node-exporter", False),
        ("backup-28391040-abc12", "backup", False),
        ("api-7d9f8c6b54-x2k4z", "api", False),
        ("plain", "plain", False),
    ],
)
def test_names_of_pods(pod: str, workload: str, stays: bool) -> None:
    (service,) = join([{"pod": pod, "instance": "10.0.0.1:1"}], floors_at((0, 25)), ())
    assert service.labels["workload"] == workload
    assert ("pod" in service.labels) == stays
    assert "instance" not in service.labels


def test_hosts_stay_and_releases_follow_one_another() -> None:
    labels = [
        {"job": "a", "instance": "h1", "image": "registry:5000/a:1.2@sha256:00", "name": "k8s_1"},
        {"job": "a", "instance": "h1", "image": "registry:5000/a:1.3", "name": "k8s_2"},
        {"job": "a", "instance": "h2", "image": f"registry:5000/a@sha256:{'0123456789ab' * 5}", "name": "k8s_3"},
    ]
    services = join(labels, floors_at((0, 12), (13, 25), (0, 25)), ("version",))
    assert [[run.release for run in service.runs] for service in services] == [["1.2", "1.3"], ["0123456789ab"]]
    assert len({service.group for service in services}) == 1
    by_job = join(labels, floors_at((0, 12), (13, 25), (0, 25)), (), ["job"])
    assert sorted(len(service.runs) for service in by_job) == [1, 2]


@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), max_size=12))
def test_runs_of_a_service_do_not_overlap(spans: list[tuple[int, int]]) -> None:
    ordered = [(min(span), max(span)) for span in spans]
    services = join([{"job": "a", "id": str(n)} for n in range(len(ordered))], floors_at(*ordered), ())
    assert sorted(run.number for service in services for run in service.runs) == list(range(len(ordered)))
    for service in services:
        assert all(before.last <= after.first for before, after in pairwise(service.runs))


def test_floors_alone_tell_leaks_from_the_rest() -> None:
    rng = np.random.default_rng(1)
    clean, leaking = (fleet_series.floors_of(make(rng, 300)) for make in (fleet_series.clean, fleet_series.leaking))
    assert (fit_floors(clean, 1.0).probability >= 0.95).sum() <= 3
    found = fit_floors(leaking, 1.0)
    assert (found.probability >= 0.5).sum() >= 200
    assert need_samples(leaking, found).sum() >= 260
    short = np.full((2, BLOCKS), np.nan)
    short[1, :4] = 1.0
    assert np.isnan(fit_floors(short, 1.0).probability).all()


def test_p_values_fall_and_are_bounded() -> None:
    factors = np.array([-50.0, -1.0, 0.0, 2.0, 5.0, 9.0, 12.0, 40.0, 1e6])
    values = p_values(factors)
    assert (np.diff(values) <= 0).all()
    assert values[0] == 1.0
    assert values[-2] == pytest.approx(math.exp(-40))
    assert joint_p_value([5.0]) == pytest.approx(float(values[4]))
    assert joint_p_value([8.0, 8.0, 8.0]) < joint_p_value([8.0])
    assert joint_p_value([8.0, -3.0]) < 0.01


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_false_discoveries_stay_under_their_rate(rate: float) -> None:
    rng = np.random.default_rng(5)
    shares = []
    for _ in range(200):
        values = np.concatenate([rng.uniform(size=900), rng.uniform(size=100) * 1e-4])
        found = discoveries(values, rate)
        shares.append(found[:900].sum() / max(found.sum(), 1))
    assert 0.3 * rate <= np.mean(shares) <= 1.15 * rate
    assert not discoveries(np.ones(5), 0.05).any()
    assert discoveries(np.empty(0), 0.05).shape == (0,)


def test_many_weak_instances_make_one_strong_release() -> None:
    rng = np.random.default_rng(2)
    weak = np.concatenate([rng.uniform(size=100), rng.uniform(size=100) * 0.05])
    assert pool(weak).log_evidence > 20
    assert 0.2 < pool(weak).share < 0.9
    few = np.concatenate([rng.uniform(size=1980), np.full(20, 1e-6)])
    assert pool(few).log_evidence > 20
    assert 0.004 < pool(few).share < 0.08
    null = [pool(rng.uniform(size=500)).log_evidence for _ in range(300)]
    assert np.mean(np.array(null) > math.log(20)) <= 0.05, "an e-value: over 20 at most once in 20 (Markov)"


def test_a_release_that_begins_to_leak() -> None:
    rng = np.random.default_rng(3)
    floors = np.full((60, BLOCKS), np.nan)
    floors[:30, :13] = 1e8 + rng.standard_normal((30, 13)) * 1e5
    floors[30:, 13:] = 1e8 + 2e6 * np.arange(13) + rng.standard_normal((30, 13)) * 1e5
    labels = [{"job": "a", "instance": f"h{n % 30}", "version": f"1.{n // 30}"} for n in range(60)]
    fits = fit_floors(floors, WINDOW.width)
    new, old = judge_rollouts(join(labels, floors, ("version",)), fits, WINDOW, 0.05)
    assert (new.release, new.previous, new.begins, new.discovered, old.discovered) == ("1.1", "1.0", True, True, False)
    assert new.since == WINDOW.start + 13 * WINDOW.width
    assert old.since is None
    assert new.rate_bytes_per_second == pytest.approx(2e6 / WINDOW.width, rel=0.1)


class _Limited:
    """A store whose limits come from another exporter."""

    address = "made"
    partial: list[str] = []  # noqa: RUF012  nothing is missing

    def series(self, _window: Window) -> list[dict[str, str]]:
        return [{"job": "kubelet", "instance": "n1", "namespace": "a", "pod": f"p{n}", "container": "c"} for n in range(3)]

    def floors(self, _series: Sequence[Mapping[str, str]], window: Window) -> Iterator[FloorBatch]:
        yield FloorBatch(np.arange(3), np.full((3, window.blocks), 1e8))

    def points(self, _labels: Mapping[str, str], _window: Window) -> int:
        return 1

    def samples(self, *_: object) -> Iterator[RawSeries]:
        return iter(())

    def limits(self, _window: Window) -> list[tuple[dict[str, str], float]]:
        other = {"job": "kube-state-metrics", "instance": "k1", "namespace": "a", "container": "c", "resource": "memory"}
        return [
            ({**other, "pod": "p0"}, 2e8),
            ({**other, "pod": "p0"}, 3e8),
            ({**other, "pod": "p9"}, 1.0),
            ({**other, "pod": "p1"}, 2.0**63),
        ]


def test_limits_of_another_exporter() -> None:
    report = judge_fleet(_Limited(), WINDOW, FleetOptions("m", ()), lambda _text: None)
    assert {one.name: one.limit for one in report.services} == {
        "c, kubelet, a, p0": 200_000_000,
        "c, kubelet, a, p1": None,
        "c, kubelet, a, p2": None,
    }
    assert all(one.verdict == "STABLE" and one.judged_by == "floors" for one in report.services)


def _written(path: Path, count: int = 40) -> tuple[np.ndarray, list[float]]:
    rng = np.random.default_rng(4)
    values = np.concatenate([fleet_series.clean(rng, count // 2), fleet_series.leaking(rng, count // 2)])
    times = [WINDOW.start + WINDOW.length_ms / 1000 / 300 * place for place in range(300)]
    series = (ExportedSeries({"host": f"h{n}", 'a"b': "x"}, [0] * 300, times, row.tolist(), 10**10) for n, row in enumerate(values))
    assert write_parquet(path, series, ["host", 'a"b']) == 300 * count
    return values, times


def test_floors_of_files_are_those_of_numpy(tmp_path: Path) -> None:
    values, times = _written(tmp_path / "it's *.parquet")
    with ParquetStore(str(tmp_path / "it's [*].parquet")) as store:
        series = store.series(WINDOW)
        blocks = ((np.array(times) - WINDOW.start) * 1000 // WINDOW.width_ms).astype(int)
        for batch in store.floors(series, WINDOW):
            for number, floors in zip(batch.numbers.tolist(), batch.floors, strict=True):
                row = values[int(series[number]["host"][1:])]
                np.testing.assert_allclose(floors, [np.quantile(row[blocks == b], 0.25) for b in range(BLOCKS)], rtol=1e-12)
        (raw,) = store.samples(series, WINDOW, [3])
        assert raw.values.tolist() == values[int(series[3]["host"][1:])].tolist()
        assert store.limits(WINDOW)[0][1] == 10**10
    with ParquetStore(str(tmp_path / "it's [*].parquet"), [("host", "=~", "h[12]")]) as store:
        assert sorted(labels["host"] for labels in store.series(WINDOW)) == ["h1", "h2"]
        assert sum(len(batch.numbers) for batch in store.floors([], WINDOW)) == 2


def test_a_series_in_two_files_is_one(tmp_path: Path) -> None:
    times = [WINDOW.start + 1000 * place for place in range(200)]
    for name, part in (("a", slice(0, 90)), ("b", slice(90, 200))):
        one = ExportedSeries({"host": "h"}, [0] * len(times[part]), times[part], [float(n) for n in range(200)][part], None)
        write_parquet(tmp_path / f"{name}.parquet", [one], ["host"])
    with ParquetStore(str(tmp_path / "*.parquet")) as store:
        assert store.series(WINDOW) == [{"host": "h"}]
        (batch,) = store.floors([], WINDOW)
    assert batch.floors[0, 9] == pytest.approx(np.quantile(np.arange(90, 100), 0.25))


def test_bad_files_are_refused(tmp_path: Path, leakline: Leakline) -> None:
    with pytest.raises(InvalidRequest, match="there is no file"):
        ParquetStore(str(tmp_path / "none*.parquet"))
    (tmp_path / "x.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(ParseError):
        ParquetStore(str(tmp_path / "x.parquet"))
    duckdb.connect().execute(f"COPY (SELECT 'a' AS time, 1 AS bytes) TO '{tmp_path / 'y.parquet'}' (FORMAT parquet)")
    with pytest.raises(ParseError, match="no column time of numbers"):
        ParquetStore(str(tmp_path / "y.parquet"))
    _written(tmp_path / "z.parquet", 4)
    data = bytearray((tmp_path / "z.parquet").read_bytes())
    data[200:400] = bytes(200)
    (tmp_path / "z.parquet").write_bytes(data)
    result = leakline("fleet", "--parquet", tmp_path / "z.parquet", "--end", WINDOW.end, "--json", status=6)
    assert '"type":"ParseError"' in result.err
    assert leakline("fleet", "--parquet", "'; DROP TABLE x; --", status=2).err


def test_a_recording_goes_through_parquet(tmp_path: Path, leakline: Leakline) -> None:
    recording, file = tmp_path / "r.leakline", tmp_path / "r.parquet"
    leakline("record", "-q", "-i", "0.05", "-d", "3", "-o", recording)
    result = leakline("export", recording, "--parquet", file, "--label", "version=1.4", "--host", "web1")
    assert "samples" in result.err
    assert "exists" in leakline("export", recording, "--parquet", file, status=2).err
    assert "no label" in leakline("export", recording, "--parquet", file, "-f", "--label", "pid=1", status=2).err
    trends = judge_recording(recording, Settings())
    rows = duckdb.connect().execute(f"SELECT DISTINCT host, version, service, kind FROM '{file}'").fetchall()
    assert {row[:2] for row in rows} == {("web1", "1.4")}
    assert {row[2] for row in rows if row[3] == "process"} <= {trend.name.rpartition(" (")[0] for trend in trends}
    ((first, last),) = duckdb.connect().execute(f"SELECT min(time), max(time) FROM '{file}'").fetchall()
    with ParquetStore(str(file)) as store:
        report = judge_fleet(
            store, Window.until(last + 0.001, last - first), FleetOptions("bytes", ("version",)), lambda _text: None
        )
    assert {one.release for one in report.services} == {"1.4"}
    accused = {trend.name for trend in trends if trend.accuses}
    assert sum(one.verdict in ("GROWING", "LEAK") for one in report.services if one.judged_by == "samples") <= len(accused) + 3
