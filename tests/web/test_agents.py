"""What runs on each host of a fleet: the units and the DaemonSet in contrib/, and the privileges that they claim to need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from leakline.cli.main import cli
from tests.conftest import needs_root
from tests.web.serving import ask, serving

CONTRIB = Path(__file__).parents[2] / "contrib"
TOKEN = "0123456789abcdef0123"


def _container() -> dict[str, Any]:
    manifest = yaml.safe_load((CONTRIB / "kubernetes/leakline.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("apps/v1", "DaemonSet")
    template = manifest["spec"]["template"]
    assert manifest["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}
    found: dict[str, Any] = container
    return found


@pytest.fixture
def somebody_elses() -> Iterator[int]:
    """A process of another user."""
    process = subprocess.Popen(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "300"])
    yield process.pid
    process.kill()
    process.wait()


def test_their_commands_are_commands() -> None:
    serve = cli.get_command(cli.make_context("leakline", ["serve", "--help"], resilient_parsing=True), "serve")
    assert serve is not None
    options = {option for parameter in serve.params for option in parameter.opts}
    for unit in (CONTRIB / "systemd").glob("*.service"):
        (line,) = re.findall(r"^ExecStart=\S+/leakline serve (.*)$", unit.read_text(), re.MULTILINE)
        assert {word for word in line.split() if word.startswith("-")} <= options, unit.name
    name, *arguments = _container()["args"]
    assert name == "serve"
    assert {word for word in arguments if word.startswith("-")} <= options


@needs_root
@pytest.mark.parametrize("capable", [True, False])
def test_the_capability_that_it_asks_for_is_the_one_that_it_needs(somebody_elses: int, tmp_path: Path, capable: bool) -> None:
    security = _container()["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["SYS_PTRACE"]}
    assert (security["runAsUser"], security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"]) == (0, False, True)
    kept = "-all,+sys_ptrace" if capable else "-all"
    below = ["setpriv", "--no-new-privs", "--bounding-set", kept, "--inh-caps", "-all", "--ambient-caps", "-all"]
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o400)
    more = ["--metrics-only", "--token-file", tmp_path / "token", "--top", "10000", "-i", "200ms"]
    with serving(*more, below=below) as server:
        assert ask(f"{server.address}/metrics").status == 401
        text = ask(f"{server.address}/metrics", Authorization=f"Bearer {TOKEN}").text
    assert (f'leakline_process_unique_bytes{{process_pid="{somebody_elses}"' in text) == capable
    assert f'process_memory_usage_bytes{{process_pid="{somebody_elses}"' in text, "RSS is everybody's to read"


def test_metrics_alone_need_no_page(tmp_path: Path) -> None:
    """Neither the report's templates nor the detector of shapes are loaded before somebody asks."""
    with serving("--metrics-only", "-p", os.getpid()) as server:
        assert ask(f"{server.address}/").status == 404
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
        status = Path(f"/proc/{server.process.pid}/status").read_text()
    assert "duckdb" not in maps
    (held,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
    assert int(held) < 150_000, sys.version
