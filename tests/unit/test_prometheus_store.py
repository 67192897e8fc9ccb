"""What a server may do to us, and how series are asked for in pieces."""

from __future__ import annotations

import json
import re
import signal
import ssl
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import InvalidRequest, LeaklineError, NotPossible, ParseError, PermissionNeeded
from leakline.model.fleet_floors import BLOCKS, Window
from leakline.session.fleet import FleetOptions, judge_fleet
from leakline.sources.prometheus.http import Access, Answer, Http, decode
from leakline.sources.prometheus.shards import quoted, shards
from leakline.sources.prometheus.store import PrometheusStore, Selection
from tests.conftest import Leakline
from tests.fake.prometheus import Asked, Says, saying, success

WINDOW = Window(1_790_000_000.0, 60_000)
SECRET = "t0p-secret-token"


def asking(url: str, **access: Any) -> Http:
    return Http(url, Access(**access), timeout=5.0, sleep=lambda _seconds: None)


@pytest.mark.parametrize(
    ("says", "error", "text"),
    [
        (Says(b"<html>", 200), ParseError, "does not answer as Prometheus"),
        (Says(b'{"status":"success","data":', 200), ParseError, "does not answer as Prometheus"),
        (Says(b'\xff\xfe{"status":"success"}'), ParseError, "does not answer as Prometheus"),
        (Says(b"[" * 100_000), ParseError, "does not answer as Prometheus"),
        (Says(b'{"status":"error","errorType":"bad_data","error":"parse error"}', 400), InvalidRequest, "parse error"),
        (Says(b'{"status":"error","errorType":"execution","error":"too many samples"}', 422), InvalidRequest, "too many samples"),
        (Says(b'{"status":"error","error":"boom"}', 500), NotPossible, "boom"),
        (Says(b"oops", 500), NotPossible, "status 500"),
        (Says(b"no", 401), PermissionNeeded, "does not let us in"),
        (Says(b"no", 403), PermissionNeeded, "does not let us in"),
        (Says(b"no", 404), NotPossible, "no Prometheus API"),
        (Says(b'{"status":"success"', promised=500), NotPossible, "127.0.0.1"),
        (Says(b"busy", 503), NotPossible, "status 503"),
        (Says(b"slow down", 429, (("Retry-After", "1"),)), NotPossible, "status 429"),
    ],
)
def test_each_failure_is_named(says: Says, error: type[LeaklineError], text: str) -> None:
    with saying(lambda _asked: says) as (url, asked), asking(url, token=SECRET) as http:
        with pytest.raises(error, match=re.escape(text)) as raised:
            http.ask("/api/v1/series", {})
        assert SECRET not in str(raised.value)
        assert len(asked) == (5 if says.status in (429, 503) or says.promised else 1)


def test_busy_servers_are_asked_again() -> None:
    pauses: list[float] = []

    def answer(asked: Asked) -> Says:
        return [Says(b"", 503), Says(b"", 429, (("Retry-After", "7"),)), success([])][min(len(pauses), 2)]

    with saying(answer) as (url, _), Http(url, Access(), sleep=pauses.append) as http:
        assert http.ask("/api/v1/series", {}).data == b"[]"
    assert pauses == [0.5, 7.0]


def test_a_redirect_is_refused_and_the_token_stays_here() -> None:
    with saying(lambda _asked: success([])) as (elsewhere, others):
        target = elsewhere.replace("127.0.0.1", "localhost")
        with saying(lambda _asked: Says(status=307, headers=(("Location", f"{target}/api/v1/series"),))) as (url, asked):
            with asking(url, token=SECRET) as http, pytest.raises(NotPossible, match="redirects to localhost"):
                http.ask("/api/v1/series", {})
            assert asked[0].headers["Authorization"] == f"Bearer {SECRET}"
        assert others == []


def test_who_asks_is_told_and_no_address_keeps_a_password() -> None:
    with saying(lambda _asked: success([])) as (url, asked):
        with asking(url.replace("http://", "http://ann:pw@"), tenant="team-a") as http:
            http.ask("/api/v1/series", {})
            assert "pw" not in http.address
        assert asked[0].headers["Authorization"].startswith("Basic ")
        assert asked[0].headers["X-Scope-OrgID"] == "team-a"
    for address in ("ftp://x", "http://", "nonsense", "http://x/?a=b"):
        with pytest.raises(InvalidRequest):
            Http(address, Access())


def _certificate(folder: Path, name: str) -> Path:
    """A certificate that vouches for itself, with its key in one file."""
    both = folder / f"{name}.pem"
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    key, certificate = folder / "key", folder / "certificate"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run([*command, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    both.write_text(key.read_text() + certificate.read_text())
    return both


def test_certificates_are_checked_on_both_sides(tmp_path: Path) -> None:
    server, ours = _certificate(tmp_path, "server"), _certificate(tmp_path, "ours")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ours))
    context.load_cert_chain(str(server))
    context.verify_mode = ssl.CERT_REQUIRED
    with saying(lambda _asked: success([]), context) as (url, asked):
        with pytest.raises(NotPossible, match="certificate"), asking(url, token=SECRET) as http:
            http.ask("/api/v1/series", {})
        with pytest.raises(NotPossible), asking(url, ca=server) as http:
            http.ask("/api/v1/series", {})
        assert asked == []
        with asking(url, ca=server, certificate=ours) as http:
            assert http.ask("/api/v1/series", {}).data == b"[]"
    (tmp_path / "none.pem").write_text("nothing")
    with pytest.raises(InvalidRequest, match="certificates"):
        Http("https://127.0.0.1:1", Access(ca=tmp_path / "none.pem"))


def test_nobody_there() -> None:
    with pytest.raises(NotPossible, match=r"127\.0\.0\.1"), asking("http://127.0.0.1:9") as http:
        http.ask("/api/v1/series", {})


def _server(asked: Asked, series: list[dict[str, str]], *, broken: str = "", partial: bool = False) -> Says:
    query = asked.form.get("query", [""])[0]
    if asked.path.endswith("/series"):
        return success([{"__name__": "m", **one} for one in series])
    if "vector(1)" in query:
        return success({"resultType": "vector", "result": [{"metric": {}, "value": [1, "1"]}]})
    if broken and broken in query:
        return Says(b'{"status":"error","error":"out of memory"}', 500)
    if asked.path.endswith("/query_range"):
        wanted = [one for one in series if all(re.fullmatch(v, one["host"]) for v in re.findall(r'host=~"([^"]*)"', query))]
        times = [WINDOW.start + (j + 1) * 60 - 0.001 for j in range(BLOCKS)]
        rows = [{"metric": one, "values": [[at, "1e8"] for at in times]} for one in wanted]
        return success({"resultType": "matrix", "result": rows}, **({"warnings": ["a shard is down"]} if partial else {}))
    return success({"resultType": "matrix", "result": []})


def test_nobody_waits_for_an_answer_after_ctrl_c() -> None:
    waiting, answered = threading.Event(), threading.Event()

    def answer(asked: Asked) -> Says:
        if asked.path.endswith("/query_range"):
            waiting.set()
            answered.wait(60)
        return _server(asked, [{"host": "a"}])

    with saying(answer) as (url, _):
        command = [sys.executable, "-m", "leakline", "fleet", "--prometheus", url, "--metric", "m", "-q"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert waiting.wait(30)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said.strip()) == (130, "")
        assert not answered.is_set()
        answered.set()


def test_what_is_missing_is_named() -> None:
    series = [{"host": f"h{n:04d}"} for n in range(1500)]

    def answer(asked: Asked) -> Says:
        return _server(asked, series, broken="h1499", partial=True)

    with saying(answer) as (url, _), asking(url) as http:
        report = judge_fleet(PrometheusStore(http, Selection("m")), WINDOW, FleetOptions("m", ()), lambda _text: None)
    assert report.coverage.judged == 1000
    assert report.coverage.missing == 500
    assert any("500 series are missing" in reason and "out of memory" in reason for reason in report.coverage.partial)
    assert "a shard is down" in report.coverage.partial


def test_nothing_at_all_is_an_error() -> None:
    with (
        saying(lambda asked: _server(asked, [{"host": "a"}], broken="quantile")) as (url, _),
        asking(url) as http,
        pytest.raises(NotPossible, match="out of memory"),
    ):
        judge_fleet(PrometheusStore(http, Selection("m")), WINDOW, FleetOptions("m", ()), lambda _text: None)
    with (
        saying(lambda asked: _server(asked, [])) as (url, _),
        asking(url) as http,
        pytest.raises(InvalidRequest, match="no series"),
    ):
        judge_fleet(PrometheusStore(http, Selection("m")), WINDOW, FleetOptions("m", ()), lambda _text: None)


def test_times_that_nobody_asked_for() -> None:
    def answer(asked: Asked) -> Says:
        if asked.path.endswith("/query_range"):
            return success({"resultType": "matrix", "result": [{"metric": {"host": "a"}, "values": [[1.0, "1"]]}]})
        return _server(asked, [{"host": "a"}])

    with saying(answer) as (url, _), asking(url) as http:
        store = PrometheusStore(http, Selection("m"))
        assert list(store.floors([{"host": "a"}], WINDOW)) == []
        assert "times that nobody asked for" in store.partial[0]


def test_infinities_are_unknown() -> None:
    def answer(asked: Asked) -> Says:
        if asked.path.endswith("/query_range"):
            at = WINDOW.start + 60 - 0.001
            return success({"result": [{"metric": {"host": "a"}, "values": [[at, "+Inf"], [at + 60, "5"]]}]})
        return _server(asked, [{"host": "a"}])

    with saying(answer) as (url, _), asking(url) as http:
        (batch,) = PrometheusStore(http, Selection("m")).floors([{"host": "a"}], WINDOW)
    assert np.isnan(batch.floors[0, 0])
    assert batch.floors[0, 1] == 5.0


LABELS = st.dictionaries(st.sampled_from(["job", "instance", "pod", 'x"y', "zone"]), st.text(max_size=4), max_size=4)


def _named(matchers: tuple[str, ...], labels: dict[str, str]) -> bool:
    for matcher in matchers:
        found = re.fullmatch(r"(\w+)(=~|=)(\".*\")", matcher, re.DOTALL)
        assert found is not None, matcher
        value, have = json.loads(found[3]), labels.get(found[1], "")
        if not (re.fullmatch(value, have) if found[2] == "=~" else have == value):
            return False
    return True


@given(st.lists(LABELS, max_size=40, unique_by=lambda labels: tuple(sorted(labels.items()))), st.integers(1, 9), st.randoms())
def test_shards_name_every_series_once(series: list[dict[str, str]], size: int, random: Any) -> None:
    chosen = [number for number in range(len(series)) if random.random() < 0.5]
    for wanted in (None, chosen):
        pieces = shards(series, size, wanted)
        expected = list(range(len(series))) if wanted is None else wanted
        assert sorted(number for piece in pieces for number in piece.numbers) == expected
        for piece in pieces:
            assert all(_named(piece.matchers, series[number]) for number in piece.numbers)


def test_shards_are_small_and_short() -> None:
    series = [{"namespace": "one", "pod": f"{'p' * 200}{n}"} for n in range(5000)]
    pieces = shards(series, 1000)
    assert max(len(piece.numbers) for piece in pieces) <= 1000
    assert max(len(",".join(piece.matchers)) for piece in pieces) < 9000
    few = shards(series, 1000, [7, 4999])
    assert [set(piece.numbers) for piece in few] == [{7, 4999}]
    assert sum(_named(few[0].matchers, one) for one in series) == 2


@given(st.text())
def test_a_quoted_string_is_one(text: str) -> None:
    assert json.loads(quoted(text)) == text


@given(st.binary(max_size=200))
def test_any_data_is_taken_or_refused(data: bytes) -> None:
    with suppress(ParseError):
        assert isinstance(decode(Answer(data, ()), list[dict[str, str]]), list)


def test_the_command_says_what_is_wrong(leakline: Leakline, tmp_path: Path) -> None:
    assert "--prometheus URL, or --parquet GLOB" in leakline("fleet", status=2).err
    assert "no matcher" in leakline("fleet", "--prometheus", "http://127.0.0.1:9", "--match", "x", status=2).err
    assert "is no metric" in leakline("fleet", "--prometheus", "http://127.0.0.1:9", "--metric", "a{}", status=2).err
    assert "names no labels" in leakline("fleet", "--prometheus", "http://127.0.0.1:9", "--by", "a b", status=2).err
    assert "is not a time" in leakline("fleet", "--prometheus", "http://127.0.0.1:9", "--end", "yesterday", status=2).err
    secret = tmp_path / "token"
    secret.write_text(SECRET + "\n")
    with saying(lambda _asked: Says(b"no", 401)) as (url, asked):
        result = leakline("fleet", "--prometheus", url, "--token-file", secret, "--json", status=3)
        assert json.loads(result.err)["error"]["type"] == "PermissionNeeded"
        assert SECRET not in result.err
        assert asked[0].headers["Authorization"] == f"Bearer {SECRET}"
        assert "either --token-file" in leakline("fleet", "--prometheus", url, "--token-file", secret, "--user", "a", status=2).err


def test_names_from_a_server_do_no_harm(leakline: Leakline, tmp_path: Path) -> None:
    nasty = "\x1b]0;owned\x07<script>alert(1)</script>"
    with saying(lambda asked: _server(asked, [{"host": nasty}])) as (url, _):
        common = ["fleet", "--prometheus", url, "--metric", "m", "--end", WINDOW.end, "--window", f"{WINDOW.length_ms / 1000}s"]
        text = leakline(*common, "-n", "5", "--format", "csv").out
        assert "\x1b" not in text
        assert "\x1b" not in leakline(*common, "--json").out
        leakline(*common, "-o", tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert "<script" not in page
    assert "\x1b" not in page
