"""A real Prometheus scrapes, and its alert fires on the classic leak."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Leakline, Start
from tests.programs import CACHE, EXAMPLE
from tests.web.serving import ask, serving

CONTRIB = Path(__file__).parents[2] / "contrib"
RULES = CONTRIB / "prometheus/leakline.rules.yml"
pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed; make test-web does it")


def promtool(*arguments: object, text: str | None = None) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def prometheus(folder: Path, port: int, *, wait: str) -> Iterator[str]:
    """One that scrapes this port every second, with our rules; `wait` in place of their durations."""
    rules = re.sub(r"for: \w+", f"for: {wait}", RULES.read_text())
    (folder / "leakline.rules.yml").write_text(rules)
    config = (CONTRIB / "prometheus/prometheus.yml").read_text()
    assert config.count("15s") == 2
    assert "127.0.0.1:5325" in config
    (folder / "prometheus.yml").write_text(config.replace("15s", "1s").replace("127.0.0.1:5325", f"127.0.0.1:{port}"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = free.getsockname()[1]
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{own}",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "Server is ready to receive web requests" in line:
                break
        else:
            raise AssertionError("prometheus ended")
        yield f"http://127.0.0.1:{own}"
    finally:
        process.kill()
        process.communicate()


def queried(server: str, expression: str) -> list[dict[str, Any]]:
    answer = json.loads(ask(f"{server}/api/v1/query?{urllib.parse.urlencode({'query': expression})}").text)
    assert answer["status"] == "success", answer
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def test_the_alert_fires_on_the_classic_leak_and_on_nothing_else(start: Start, tmp_path: Path) -> None:
    program = tmp_path / "leak-example"
    includes = ["-include", "stdlib.h", "-include", "unistd.h"]
    subprocess.run(["cc", "-g", "-w", *includes, "-o", str(program), str(EXAMPLE)], check=True)
    leak, cache = start(program, ready=False), start("python3", "-c", CACHE)
    pids = ["-p", leak.pid, "-p", cache.pid]
    with serving(*pids, "-i", "250ms", "--warm-up", "1s") as ours, prometheus(tmp_path, ours.port, wait="2s") as server:
        end = time.monotonic() + 90
        fired: list[dict[str, Any]] = []
        while time.monotonic() < end and not fired:
            time.sleep(1)
            alerts = json.loads(ask(f"{server}/api/v1/alerts").text)["data"]["alerts"]
            fired = [one for one in alerts if one["labels"]["alertname"] == "LeaklineLeak" and one["state"] == "firing"]
        assert [one["labels"]["process_pid"] for one in fired] == [str(leak.pid)], ask(f"{ours.address}/metrics").text
        assert fired[0]["annotations"]["summary"].startswith(f"leak-example (pid {leak.pid}) on 127.0.0.1:")
        assert re.search(r"\(\d+\.?\d*kiB/s\)", fired[0]["annotations"]["description"])
        assert queried(server, "up")[0]["value"][1] == "1"
        (rate,) = queried(server, f'leakline_process_growth_rate_bytes_per_second{{process_pid="{leak.pid}",estimate="mean"}}')
        assert 80_000 <= float(rate["value"][1]) <= 160_000, "12,296 bytes every 0.1 s"
        assert_dashboard_has_data(server)
        leak.kill()
        leak.wait()
        while queried(server, f'leakline_process_held_bytes{{process_pid="{leak.pid}"}}'):
            assert time.monotonic() < end + 30
            time.sleep(0.5)
        assert queried(server, "up")[0]["value"][1] == "1", "it survives its target"


def assert_dashboard_has_data(server: str) -> None:
    """Every expression of the dashboard is one, and those of this machine have an answer."""
    board = json.loads((CONTRIB / "grafana/leakline.json").read_text())
    empty = []
    for panel in board["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$instance", ".*").replace("$__rate_interval", "10s")
            if not queried(server, expression):
                empty.append(panel["title"])
    for annotation in board["annotations"]["list"]:
        queried(server, annotation["expr"].replace("$instance", ".*"))
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places) >= 10
    assert empty == []


def test_rules_configuration_and_metrics_are_what_promtool_takes_for_right(
    start: Start, leakline: Leakline, tmp_path: Path
) -> None:
    assert "4 rules found" in promtool("check", "rules", RULES)
    assert "SUCCESS" in promtool("check", "config", CONTRIB / "prometheus/prometheus.yml")
    assert "SUCCESS" in promtool("test", "rules", CONTRIB / "prometheus/leakline.test.yml")
    program = tmp_path / '<b>"\\é\n'
    program.symlink_to("/bin/sleep")
    start("sh", "-c", 'echo READY; exec "$0" 60', str(program))
    assert promtool("check", "metrics", text=leakline("metrics", "-d", "3", "-i", "0.5").out) == ""
    with serving("--metrics-only", "-i", "500ms") as ours:
        answer = ask(f"{ours.address}/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert answer.text.endswith("# EOF\n")
        assert promtool("check", "metrics", text=ask(f"{ours.address}/metrics").text) == ""
        assert ask(f"{ours.address}/").status == 404, "metrics only"


def test_the_alerts_that_are_documented_are_there() -> None:
    page = (CONTRIB.parent / "docs/metrics.md").read_text()
    for alert in re.findall(r"alert: (\w+)", RULES.read_text()):
        assert f"`{alert}`" in page
    for metric in set(re.findall(r"\b(?:leakline|process|system)_[a-z_]+\b", RULES.read_text())) - {"process_pid"}:
        assert metric in page or metric.startswith("process_"), metric


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_is_what_systemd_takes_for_right(tmp_path: Path) -> None:
    unit = tmp_path / "leakline.service"
    unit.write_text((CONTRIB / "systemd/leakline.service").read_text().replace("/usr/local/bin/leakline", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "leakline" in line]
    assert said == []
