from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from tests.conftest import Leakline


def test_owners_add_up_to_what_the_kernel_says(leakline: Leakline) -> None:
    table = leakline("system", "--json", "--processes").json
    jsonschema.validate(table, json.loads((Path(__file__).parents[2] / "docs/schemas/system-1.json").read_text()))
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert table["mem_total"] == total
    assert sum(owner["bytes"] for owner in table["owners"]) == total
    owners = {owner["name"]: owner["bytes"] for owner in table["owners"]}
    assert abs(owners["unexplained"]) < total * 0.1
    assert table["processes"]["pss"] > 0
    assert table["processes"]["coverage"]["readable"] > 0


def test_the_table(leakline: Leakline) -> None:
    result = leakline("system", "--totals", "--percent")
    lines = result.out.splitlines()
    assert lines[0].split() == ["bytes", "name", "note"]
    assert lines[-1].split()[:3] == ["100.00", "%", "MemTotal"]
    assert any("unexplained" in line for line in lines)
    assert "available without swapping" in result.err
    assert leakline("system", "--format", "csv", "-q").out.startswith("bytes,name,note") or "name" in result.out
