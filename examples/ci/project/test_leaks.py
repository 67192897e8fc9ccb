"""Programs under leakline: a test fails with the places that lose memory."""

import json
import subprocess
from pathlib import Path

import pytest


def lost_by(command: list[str], report: Path) -> list[str]:
    subprocess.run(["leakline", "run", "-q", "-o", report, "--", *command], check=True)
    findings = json.loads(report.read_text())["findings"]
    definite = [finding for finding in findings if finding["kind"] == "definite"]
    return [f"{finding['bytes']} bytes by {finding['location']}" for finding in definite]


@pytest.mark.parametrize("program", ["test_joined", "test_greeting"])
def test_nothing_is_lost(program: str, tmp_path: Path) -> None:
    assert lost_by([f"build/{program}"], tmp_path / "leaks.json") == []
