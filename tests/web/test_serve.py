"""`serve` as clients see it: who may ask, what is told, what it survives."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Leakline, Start, assert_unharmed
from tests.programs import CACHE, LEAK
from tests.web.serving import Server, ask, serving


def events(server: Server, query: str = "", **headers: str) -> Generator[tuple[str, str | None, Any], None, None]:
    """Name, id and data of each event, for as long as they are asked for."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", f"/api/events{query}", headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    event: dict[str, str] = {}
    try:
        while True:
            line = answer.readline().decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
            elif "data" in event:
                yield event["event"], event.get("id"), json.loads(event["data"])
                event = {}
    finally:
        answer.close()
        connection.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("-p", os.getpid(), "-i", "200ms") as ours:
        yield ours


def test_every_answer_is_locked_down(server: Server) -> None:
    for place in ("/", "/static/app.js", "/static/app.css", "/static/icon.svg", "/metrics", "/no/such/page"):
        answer = ask(server.address + place)
        assert answer.status == (404 if place.startswith("/no") else 200)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers
    page = ask(server.address).text
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"<script>|<style|style=|onclick=", page)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:{port}"}, 421),
        ({"Host": "127.0.0.1:1"}, 421),
        ({"Host": "192.168.1.1:{port}"}, 421),
        ({"Host": "user@127.0.0.1:{port}"}, 421),
        ({"Host": "127.0.0.1:{port}/x"}, 421),
        ({"Host": "[::1"}, 421),
        ({"Host": "localhost:{port}"}, 200),
        ({"Host": "[::1]:{port}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_host_and_origin_are_checked(server: Server, headers: dict[str, str], status: int) -> None:
    filled = {name: value.replace("{port}", str(server.port)) for name, value in headers.items()}
    assert ask(server.address + "/metrics", **filled).status == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_it_only_reads(server: Server, method: str) -> None:
    assert ask(server.address, method).status == 405
    for place in ("/", "/metrics", "/api/events"):
        answer = ask(server.address + place, "HEAD")
        assert (answer.status, answer.text) == (200, "")


@pytest.mark.parametrize(
    "place",
    [
        "/static/../app.py",
        "/static/%2e%2e%2fapp.py",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/static/app.py",
        "/api/processes/1-1/report.json",
        "/api/processes/..%2f/report.json",
        "/api/events?process=../../x",
        "/api/processes/" + "9" * 5000 + "-1/report.json",
    ],
)
def test_there_is_nothing_else(server: Server, place: str) -> None:
    assert ask(server.address + place).status == 404


def test_who_asks_too_often_has_to_wait() -> None:
    with serving("-p", os.getpid(), "--metrics-only") as ours:
        connection = http.client.HTTPConnection("127.0.0.1", ours.port, timeout=30)
        seen = set()
        for _ in range(3000):
            connection.request("GET", "/nothing")
            answer = connection.getresponse()
            answer.read()
            seen.add(answer.status)
            if answer.status == 429:
                assert answer.headers["retry-after"] == "1"
                break
        connection.close()
        assert seen == {404, 429}
        time.sleep(1)
        assert ask(f"{ours.address}/metrics").status == 200


def test_a_token_is_needed_where_others_reach_it(tmp_path: Path) -> None:
    with serving("-p", os.getpid(), "--host", "0.0.0.0") as ours:
        (token,) = re.findall(r"\?token=(\S+)", ours.said)
        here = ours.address.replace("0.0.0.0", "127.0.0.1")
        for refused in ({}, {"Authorization": "Bearer x"}, {"Authorization": token}, {"Cookie": f"leakline-{ours.port}=x"}):
            assert ask(f"{here}/metrics", **refused).status == 401
        assert ask(f"{here}/?token=x").status == 401
        assert ask(f"{here}/metrics", Authorization=f"Bearer {token}").status == 200
        welcome = ask(f"{here}/?token={token}")
        assert welcome.status == 200
        cookie = welcome.headers["set-cookie"]
        assert cookie == f"leakline-{ours.port}={token}; Path=/; HttpOnly; SameSite=Strict"
        assert token not in welcome.text, "the next address has no secret"
        assert 'content="0;url=/"' in welcome.text
        assert ask(here, Cookie=cookie.partition(";")[0]).status == 200
        assert ask(f"{here}/metrics", Host="evil.example", Authorization=f"Bearer {token}").status == 421
    kept = tmp_path / "token"
    kept.write_text("0123456789abcdef\n")
    with serving("-p", os.getpid(), "--token-file", kept, "--allow-host", "box.example") as ours:
        assert "0123456789abcdef" not in ours.said
        assert ask(f"{ours.address}/metrics").status == 401
        assert ask(f"{ours.address}/metrics", Host="box.example", Authorization="Bearer 0123456789abcdef").status == 200


def test_bad_requests(leakline: Leakline, tmp_path: Path) -> None:
    short, other = tmp_path / "short", tmp_path / "other"
    short.write_text("secret")
    other.write_text("no recording")
    assert "openssl rand" in leakline("serve", "--token-file", short, status=2).err
    assert "other" in leakline("serve", other, "--port", "0", status=6).err
    assert "no process 4194303" in leakline("serve", "-p", "4194303", "--port", "0", status=4).err
    assert leakline("serve", other, "-p", "1", status=2).err
    assert "no address of this machine" in leakline("serve", "--host", "no such host", status=2).err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "--port chooses" in leakline("serve", "-p", os.getpid(), "--port", taken.getsockname()[1], status=2).err


def test_events_tell_what_changed_and_a_client_that_comes_back_misses_nothing(start: Start) -> None:
    leak = start(sys.executable, "-c", LEAK)
    with serving("-p", leak.pid, "-i", "200ms") as server:
        stream = events(server)
        name, identifier, data = next(stream)
        assert (name, [row["pid"] for row in data["rows"]]) == ("all", [leak.pid])
        assert data["about"]["interval"] == 0.2
        assert data["machine"]["total"] > data["machine"]["used"] > 0
        numbers = []
        for _ in range(4):
            name, identifier, data = next(stream)
            assert name == "tick"
            numbers.append(int(str(identifier).rpartition("-")[2]))
        stream.close()
        assert numbers == list(range(numbers[0], numbers[0] + 4))
        time.sleep(1)
        back = events(server, Last_Event_ID=str(identifier))
        name, again, _ = next(back)
        assert (name, int(str(again).rpartition("-")[2])) == ("tick", numbers[-1] + 1)
        back.close()
        for forged in ("x", "-", f"{str(identifier)[:8]}-999999999999999999999", "ffffffff-1", f"{str(identifier)[:8]}-٣"):
            anew = events(server, Last_Event_ID=forged.encode().decode("latin-1"))
            assert next(anew)[0] == "all"
            anew.close()
        assert_unharmed(leak)


def test_one_process_in_depth_its_report_and_its_death(start: Start) -> None:
    leak, other = start(sys.executable, "-c", LEAK), start("sleep", "300", ready=False)
    with serving("-p", leak.pid, "-p", other.pid, "-i", "200ms") as server:
        stream = events(server)
        (key,) = [row["key"] for row in next(stream)[2]["rows"] if row["pid"] == leak.pid]
        stream.close()
        stream = events(server, f"?process={key}")
        end = time.monotonic() + 60
        for name, _, data in stream:
            assert time.monotonic() < end
            if name == "process" and len(data["kinds"]["times"]) >= 2 and data["row"]["verdict"] in ("GROWING", "LEAK"):
                break
        assert data["kinds"]["values"]["heap"][-1] > data["kinds"]["values"]["heap"][0] > 0
        assert "sustained growth has a probability" in data["why"]
        assert data["held"]["values"][-1] > data["held"]["values"][0]
        answer = ask(f"{server.address}/api/processes/{key}/report.json")
        assert answer.headers["content-disposition"].startswith(f'attachment; filename="leakline-{key}-')
        report = json.loads(answer.text)
        assert (report["schema"], report["target"]["pid"]) == ("leakline.findings/1", leak.pid)
        assert [finding["kind"] for finding in report["findings"]] == ["growing"]
        page = ask(f"{server.address}/api/processes/{key}/report.html")
        there = find_spec("leakline.session.html_page") is not None
        assert page.status == (200 if there else 404)
        assert page.text.lower().startswith("<!doctype html") == there
        assert ask(f"{server.address}/api/processes/{key}/report.exe").status == 404
        assert_unharmed(leak)
        leak.kill()
        leak.wait()
        for name, _, data in stream:
            assert time.monotonic() < end
            if name == "process" and data["ended"]:
                break
        assert data["held"]["values"], "what was seen last stays"
        while ask(f"{server.address}/api/processes/{key}/report.json").status != 404:
            assert time.monotonic() < end
            time.sleep(0.2)
        other.kill()
        other.wait()
        for name, _, data in stream:
            if name == "tick" and data["ended"]:
                break
        assert ask(f"{server.address}/metrics").status == 200
        stream.close()


def test_who_does_not_read_is_cut_off_and_nobody_waits_for_him(start: Start) -> None:
    """A client that asks and never reads: what waits for him is bounded, and he is let go of."""
    with serving("-i", "50ms") as server:
        key = f"{os.getpid()}-{Path('/proc/self/stat').read_text().rsplit(')', 1)[1].split()[19]}"
        lazy = []
        for _ in range(20):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.sendall(f"GET /api/events?process={key} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
            lazy.append(client)
        stream = events(server)
        seen, last = 0, time.monotonic()
        longest = 0.0
        while seen < 300:
            next(stream)
            seen, longest, last = seen + 1, max(longest, time.monotonic() - last), time.monotonic()
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]
        assert resident < 300 << 10, "nothing piles up"
        end = time.monotonic() + 60
        while time.monotonic() < end and len(os.listdir(f"/proc/{server.process.pid}/fd")) > 0:
            next(stream)
            if _connections(server) <= 1:
                break
        assert _connections(server) <= 1, "they were let go of"
        stream.close()
        for client in lazy:
            client.close()


def _connections(server: Server) -> int:
    """Established connections whose end is at the server, as the kernel lists them."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    mine = f":{server.port:04X}"
    return sum(fields[1].endswith(mine) and fields[3] == "01" for fields in map(str.split, lines))


def test_many_come_and_go(start: Start) -> None:
    with serving("-p", os.getpid(), "-i", "100ms") as server:
        before = len(os.listdir(f"/proc/{server.process.pid}/fd"))

        def visit() -> None:
            stream = events(server)
            for _ in range(5):
                next(stream)
            stream.close()

        for _ in range(3):
            threads = [threading.Thread(target=visit) for _ in range(30)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        end = time.monotonic() + 20
        while len(os.listdir(f"/proc/{server.process.pid}/fd")) > before + 1 and time.monotonic() < end:
            time.sleep(0.2)
        assert len(os.listdir(f"/proc/{server.process.pid}/fd")) <= before + 1


def test_a_recording_is_served_while_it_goes_on_and_when_it_is_gone(start: Start, leakline: Leakline, tmp_path: Path) -> None:
    leak, cache = start(sys.executable, "-c", LEAK), start(sys.executable, "-c", CACHE)
    path = tmp_path / "box.leakline"
    which = ("-p", leak.pid, "-p", cache.pid, "-i", "0.1")
    leakline("record", *which, "-d", "6", "--maps", "1s", "-o", path, "-q")
    with serving(path) as server:
        assert "serving box.leakline on" in server.said
        stream = events(server)
        _, _, data = next(stream)
        rows = {row["pid"]: row for row in data["rows"]}
        assert data["about"]["recording"] == "box.leakline"
        assert len(data["history"]["times"]) > 30
        assert data["history"]["used"][-1] == data["machine"]["used"]
        assert rows[leak.pid]["verdict"] == "GROWING"
        assert rows[cache.pid]["verdict"] not in ("GROWING", "LEAK")
        key = rows[leak.pid]["key"]
        depth = events(server, f"?process={key}")
        data = next(data for name, _, data in depth if name == "process")
        depth.close()
        assert data["kinds"]["values"]["[heap]"][-1] > 0
        report = json.loads(ask(f"{server.address}/api/processes/{key}/report.json").text)
        assert [finding["kind"] for finding in report["findings"]] == ["growing"]
        leakline("record", *which, "-d", "1", "--append", "-o", path, "-q")
        name, _, data = next(stream)
        assert (name, data["trouble"]) == ("tick", None)
        assert data["rows"], "what was added is seen"
        path.unlink()
        while data["trouble"] is None:
            name, _, data = next(stream)
        assert "box.leakline" in data["trouble"]
        assert ask(f"{server.address}/metrics").status == 200
        stream.close()


def test_a_textfile_is_whole_at_any_moment_and_removed_at_the_end(start: Start, leakline: Leakline, tmp_path: Path) -> None:
    path = tmp_path / "leakline.prom"
    command = [sys.executable, "-m", "leakline", "metrics", "--textfile", str(path), "-i", "50ms"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    for _ in range(200):
        text = path.read_text()
        assert text.startswith("# HELP")
        assert text.endswith("\n")
        assert "\nleakline_build_info" in text
    assert path.stat().st_mode & 0o777 == 0o644
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[1] == b""
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []
    assert "end in .prom" in leakline("metrics", "--textfile", tmp_path / "x.txt", status=2).err
    assert "cannot write" in leakline("metrics", "--textfile", tmp_path / "no/x.prom", status=2).err
