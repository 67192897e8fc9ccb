"""The parts of the server that need none."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.web.guard import Guard, Rules
from leakline.web.hub import Client, Hub

RULES = Rules(frozenset({"box.example"}), 5325, loopback_only=True, token="0123456789abcdef")


async def _inner(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ours"})


def status(*headers: tuple[bytes, bytes], query: bytes = b"", rules: Rules = RULES) -> int:
    """What a request with these headers is answered with."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": query,
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
    }
    asyncio.run(Guard(_inner, rules)(scope, None, send))  # type: ignore[arg-type]
    assert dict(sent[0]["headers"])[b"content-security-policy"]
    return int(sent[0]["status"])


BEARER = (b"authorization", b"Bearer 0123456789abcdef")


@given(st.binary(max_size=60))
def test_no_host_but_ours_gets_in(host: bytes) -> None:
    assert status((b"host", host), BEARER) == 421


def test_two_hosts_are_none() -> None:
    ours = (b"host", b"127.0.0.1:5325")
    assert status(ours, BEARER) == 200
    assert status(ours, ours, BEARER) == 421
    assert status(BEARER) == 421
    assert status((b"host", b"BOX.example"), BEARER) == 200


@given(st.one_of(st.binary(max_size=60), st.text("htp:/[]1.@", max_size=20).map(lambda text: f"http://{text}".encode())))
def test_no_origin_but_ours_gets_in(origin: bytes) -> None:
    host = (b"host", b"127.0.0.1:5325")
    assert status(host, BEARER, (b"origin", origin)) == 403
    assert status(host, BEARER, (b"origin", b"http://127.0.0.1:5325")) == 200


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_nothing_but_the_token_gets_in(authorization: bytes, cookie: bytes, query: bytes) -> None:
    host = (b"host", b"127.0.0.1:5325")
    assert status(host, (b"authorization", authorization), (b"cookie", cookie), query=query) == 401


def test_a_bug_of_ours_is_told_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_scope: Any, _receive: Any, _send: Any) -> None:
        raise ZeroDivisionError

    rules = RULES._replace(token=None)
    scope = {"type": "http", "method": "GET", "query_string": b"", "headers": [(b"host", b"localhost:5325")]}
    asyncio.run(Guard(broken, rules)(scope, None, None))  # type: ignore[arg-type]
    assert "ZeroDivisionError" in caplog.text


def test_without_the_web_extra_it_says_what_brings_it() -> None:
    code = (
        "import sys; sys.modules['starlette'] = None; sys.argv = ['leakline', 'serve']; from leakline.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "pip install 'leakline[web]'" in done.stderr


def test_who_is_slow_is_dropped_and_the_others_hear_all() -> None:
    async def run() -> None:
        hub = Hub("run", 10)
        slow, quick = Client(None), Client("7-1")
        with hub.joined(slow), hub.joined(quick):
            for number in range(1, 30):
                hub.publish(number, b"%d;" % number)
                assert await quick.next(1) == b"%d;" % number
            assert slow.dropped
            assert not quick.dropped
            assert (hub.dropped, hub.clients) == (1, 1)
            assert await slow.next(1) == b"", "what waited is let go of"
            hub.tell("7-1", b"deep")
            hub.tell("8-1", b"other")
            assert await quick.next(1) == b"deep"
            assert hub.topics == {"7-1"}
            assert await quick.next(0.01) == b"", "nothing came"
        assert (hub.clients, hub.topics) == (0, frozenset())

    asyncio.run(run())


@pytest.mark.parametrize(
    ("last", "missed"), [("run-199", [b"200"]), ("run-200", []), ("run-80", [b"%d" % n for n in range(81, 201)])]
)
def test_who_comes_back_hears_what_was_missed(last: str, missed: list[bytes]) -> None:
    hub = Hub("run", 10)
    for number in range(1, 201):
        hub.publish(number, b"%d" % number)
    assert hub.missed(last) == missed
    for other in (None, "", "run-", "run-79", "run-201", "other-199", "run--1", "run-1e3", "run-" + "9" * 99):
        assert hub.missed(other) is None
