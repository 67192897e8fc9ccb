"""A real Prometheus and a real VictoriaMetrics: the floors that they make, and the verdicts that follow, as by the samples."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import fleet_series, fleet_servers
from benchmarks.fleet_servers import METRIC, Filled

from leakline.analysis.trend import Settings, judge
from leakline.model.fleet import FleetReport
from leakline.model.fleet_floors import BLOCKS, Window
from leakline.model.trend import Series
from leakline.session.fleet import FleetOptions, judge_fleet
from leakline.sources.prometheus.http import Access, Http
from leakline.sources.prometheus.store import PrometheusStore, Selection
from leakline.store.parquet import ExportedSeries, ParquetStore, write_parquet
from tests.conftest import Leakline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(fleet_servers.missing()), reason="the servers are not installed; make test-fleet does it"),
]
END_MS, STEP_MS = 1_790_000_000_000, 864_000
WINDOW = Window.until(END_MS / 1000, fleet_series.SAMPLES * STEP_MS / 1000)
CLEAN, LEAKS = 400, 100
TIMES = [round(WINDOW.start * 1000) + STEP_MS * place for place in range(fleet_series.SAMPLES)]
LIMIT = "process_memory_limit_bytes"


def _made() -> Filled:
    """Instances that do not leak and that do; a release that begins to; a pod that is renamed; a limit."""
    rng = np.random.default_rng(11)
    values = [*fleet_series.clean(rng, CLEAN).tolist(), *fleet_series.leaking(rng, LEAKS).tolist()]
    labels: list[dict[str, str]] = [{"job": f"job{n % 7}", "instance": f"h{n}:9100"} for n in range(CLEAN + LEAKS)]
    times: list[list[int]] = [TIMES] * len(labels)
    metrics = [METRIC] * len(labels)
    half = fleet_series.SAMPLES // 2
    for release, first, last in (("2.0", 0, half), ("2.1", half, fleet_series.SAMPLES)):
        for n in range(40):
            noise = rng.standard_normal(last - first) * 2e5
            growth = 3e5 * np.arange(last - first) if release == "2.1" and n < 10 else 0.0
            labels.append({"job": "shop", "instance": f"s{n}:1", "version": release})
            values.append(np.round(2e8 + noise + growth).tolist())
            times.append(TIMES[first:last])
            metrics.append(METRIC)
    for pod, first, last in (("cart-7d9f8c6b54-x2k4z", 0, half), ("cart-7d9f8c6b54-qwz9b", half, fleet_series.SAMPLES)):
        labels.append({"job": "kube", "pod": pod, "container": "cart", "instance": f"10.0.0.{first}:1"})
        values.append((1e8 + 2e5 * np.arange(last - first)).tolist())
        times.append(TIMES[first:last])
        metrics.append(METRIC)
    labels.append({"job": "job0", "instance": f"h{CLEAN + 6}:9100"})
    values.append([4e9] * fleet_series.SAMPLES)
    times.append(TIMES)
    metrics.append(LIMIT)
    return Filled(labels, times, values, metrics)


MADE = _made()
Server = Callable[[Path, Filled], AbstractContextManager[str]]


@pytest.fixture(scope="module", params=[fleet_servers.prometheus, fleet_servers.victoria_metrics], ids=["prometheus", "victoria"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    run: Server = request.param
    with run(tmp_path_factory.mktemp("server"), MADE) as url:
        yield url


def _judged(url: str, *matchers: str, limits: str | None = None) -> FleetReport:
    with Http(url, Access()) as http:
        store = PrometheusStore(http, Selection(METRIC, matchers), None if limits is None else Selection(limits))
        return judge_fleet(store, WINDOW, FleetOptions(METRIC, ("version",)), lambda _text: None)


def _exact(number: int) -> np.ndarray[Any, Any]:
    """Each block holds its first moment, and not its last."""
    times, values = np.array(MADE.times[number]), np.array(MADE.values[number])
    blocks = (times - round(WINDOW.start * 1000)) // WINDOW.width_ms
    return np.array([np.quantile(values[blocks == b], 0.25) if (blocks == b).any() else np.nan for b in range(BLOCKS)])


def test_floors_are_those_of_the_samples(server: str) -> None:
    """A sample on the edge of two blocks belongs to the later one, whatever the server counts: the first of all lies on one."""
    assert TIMES[0] == round(WINDOW.start * 1000)
    with Http(server, Access()) as http:
        store = PrometheusStore(http, Selection(METRIC))
        series = store.series(WINDOW)
        floors = np.full((len(series), BLOCKS), np.nan)
        for batch in store.floors(series, WINDOW):
            floors[batch.numbers] = batch.floors
        assert store.partial == []
    places = {frozenset(labels.items()): number for number, labels in enumerate(MADE.labels) if MADE.metric(number) == METRIC}
    assert len(series) == len(places)
    for number, labels in enumerate(series):
        np.testing.assert_allclose(floors[number], _exact(places[frozenset(labels.items())]), rtol=1e-9, err_msg=str(labels))


def test_a_sample_on_the_edge_of_a_range(server: str) -> None:
    """Pinned: Prometheus 2 counts what lies on the left end of a range, VictoriaMetrics does not. Blocks are the same for both."""
    with Http(server, Access()) as http:
        store = PrometheusStore(http, Selection(METRIC, ('instance="h0:9100"',)))
        answer = http.ask("/api/v1/query", {"query": "count_over_time(vector(1)[10s:10s])", "time": "1000000000"}).data
        series = store.series(WINDOW)
        assert len(series) == 1
        narrow = Window(TIMES[0] / 1000, STEP_MS)  # a block for each sample: on the left edge of its own, on the right of the last
        (batch,) = store.floors(series, narrow)
        assert batch.floors[0].tolist() == pytest.approx(MADE.values[0][:BLOCKS])
    assert (b'"2"' in answer) == ("prometheus" in _flavour(server))


def _flavour(url: str) -> str:
    import urllib.request

    with urllib.request.urlopen(f"{url}/metrics") as answer:
        return "prometheus" if b"prometheus_build_info" in answer.read() else "victoria"


def test_verdicts_are_those_of_trend(server: str) -> None:
    report = _judged(server, 'job=~"job.*"')
    expected = judge(
        [
            Series(name=MADE.labels[n]["instance"], times=tuple(t / 1000 for t in TIMES), values=tuple(MADE.values[n]))
            for n in range(500)
        ],
        Settings(),
    )
    trends = {trend.name: trend for trend in expected}
    services = {one.labels["instance"]: one for one in report.services}
    assert services.keys() == trends.keys()
    accusing = ("GROWING", "LEAK")
    for name, one in services.items():
        trend = trends[name]
        if one.judged_by == "samples":
            assert (one.verdict, one.gates) == (trend.verdict, trend.gates), name
            assert one.probability == pytest.approx(trend.probability), name
            assert one.rate_bytes_per_second == pytest.approx(trend.rate_bytes_per_second), name
    missed = [name for name, one in services.items() if (one.verdict in accusing) != (trends[name].verdict in accusing)]
    assert all(services[name].judged_by == "floors" for name in missed)
    accused = sum(trend.verdict in accusing for trend in expected)
    assert len(missed) <= 0.04 * accused, "what floors hide, as docs/commands/fleet.md says"
    assert sum(one.verdict == "LEAK" for one in report.services) >= 40
    assert sum(one.judged_by == "floors" for one in report.services) >= 200, "not everything is read"
    leaks = {f"h{n}:9100" for n in range(CLEAN, CLEAN + LEAKS)}
    false = [one.name for one in report.services if one.discovered and one.labels["instance"] not in leaks]
    assert len(false) <= 3, false


def test_restarts_releases_and_limits(server: str) -> None:
    report = _judged(server, limits=LIMIT)
    (cart,) = [one for one in report.services if one.labels.get("container") == "cart"]
    assert (cart.epochs, cart.labels["workload"], cart.verdict, cart.judged_by) == (2, "cart", "LEAK", "samples")
    found = {(one.group, one.release): one for one in report.rollouts}
    begun, before = found["shop", "2.1"], found["shop", "2.0"]
    assert begun.begins
    assert begun.discovered
    assert not before.discovered
    assert begun.previous == "2.0"
    assert begun.since is not None
    assert begun.since == pytest.approx(WINDOW.start + 13 * WINDOW.width, abs=WINDOW.width)
    assert 0.1 <= begun.leaking_share <= 0.5, "10 of 40 leak"
    assert begun.rate_bytes_per_second == pytest.approx(3e5 / (STEP_MS / 1000), rel=0.2)
    (limited,) = [one for one in report.services if one.limit is not None]
    assert (limited.labels["instance"], limited.limit) == (f"h{CLEAN + 6}:9100", 4_000_000_000)


def test_parquet_says_the_same(server: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet.parquet"
    names = sorted({name for labels in MADE.labels for name in labels})
    ours = [n for n in range(len(MADE.labels)) if MADE.metric(n) == METRIC]
    write_parquet(
        path,
        (
            ExportedSeries(MADE.labels[n], [0] * len(MADE.times[n]), [t / 1000 for t in MADE.times[n]], MADE.values[n], None)
            for n in ours
        ),
        names,
    )
    with ParquetStore(str(path)) as store:
        by_files = judge_fleet(store, WINDOW, FleetOptions(METRIC, ("version",)), lambda _text: None)
    by_server = {one.name: one for one in _judged(server).services}
    assert by_server.keys() == {one.name for one in by_files.services}
    for one in by_files.services:
        other = by_server[one.name]
        assert (one.verdict, one.judged_by, one.gates) == (other.verdict, other.judged_by, other.gates), one.name
        assert one.probability == pytest.approx(other.probability, abs=1e-6)


def test_the_command_and_its_speed(server: str, leakline: Leakline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["fleet", "--prometheus", server, "--metric", "process", "--end", END_MS // 1000]
    begun = time.monotonic()
    result = leakline(*common, "--json")
    seconds = time.monotonic() - begun
    assert result.json["schema"] == "leakline.fleet/1"
    assert result.json["coverage"]["partial"] == []
    assert result.json["rollouts"][0]["release"] == "2.1"
    text = leakline(*common, "-q", "-n", "3").out
    assert text.startswith("RELEASE  shop 2.1: grows since ")
    assert "2.0 before it does not" in text
    assert leakline(*common, "-q", "--fail-on", "leak", status=1).err == ""
    assert leakline(*common, "-q", "--match", "job=job1", "--match", "instance=~h[0-9]:9100", "--fail-on", "leak").err == ""
    leakline(*common, "-o", tmp_path / "fleet.html")
    assert "shop leaks since 2.1" in (tmp_path / "fleet.html").read_text()
    leakline(*common, "-o", tmp_path / "fleet.csv")
    assert (tmp_path / "fleet.csv").read_text().count("\n") == result.json["coverage"]["services"] + 1
    with capsys.disabled():
        count = result.json["coverage"]["series"]
        print(f"\n{_flavour(server)}: {count:,} series in {seconds:.2f} s, start of Python and JSON included", file=sys.stderr)
