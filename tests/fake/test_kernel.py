"""`leakline kernel` on captured machines: every table, as JSON and as text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from tests.conftest import Leakline

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests/fixtures"
_FILES = ("meminfo", "zoneinfo", "slabinfo", "vmallocinfo", "buddyinfo", "pagetypeinfo", "vmstat")
_TABLES = ("--slab", "--vmalloc", "--zones", "--buddy", "--percpu", "--pagetables", "--unexplained")


def _captured(kernel: str, folder: Path, without: str = "") -> Path:
    (folder / "proc").mkdir(parents=True)
    for name in _FILES:
        source = FIXTURES / kernel / f"t0.{name}"
        if source.exists() and name != without:
            shutil.copy(source, folder / "proc" / name)
    return folder


@pytest.mark.parametrize("kernel", ["6.12-x86", "6.12-uml", "6.18-x86"])
def test_all_tables_of_captured_kernels(kernel: str, leakline: Leakline, tmp_path: Path) -> None:
    root = _captured(kernel, tmp_path / "machine")
    report = leakline("kernel", "--root", root, *_TABLES, "--json").json
    jsonschema.validate(report, json.loads((ROOT / "docs/schemas/kernel-1.json").read_text()))
    assert (report["samples"], report["growth"], report["duration_seconds"]) == (1, [], 0)
    assert 0 < report["unexplained_bytes"] < report["mem_total"] * 0.05
    assert report["unreadable"] == []
    assert sum(row["in_use"] for row in report["slabs"]) <= sum(row["bytes"] for row in report["slabs"]) * 1.01
    assert all(report[table] for table in ("slabs", "vmalloc", "zones", "buddy", "page_types", "compaction"))
    text = leakline("kernel", "--root", root, *_TABLES, "-n", "3").out
    for title in ("slab caches", "vmalloc, by who asked for it", "zones", "free blocks by order", "free blocks by what"):
        assert title in text
    assert "one look tells what there is" in text


def test_what_a_capture_lacks_is_named(leakline: Leakline, tmp_path: Path) -> None:
    root = _captured("6.12-x86", tmp_path / "machine", without="vmallocinfo")
    report = leakline("kernel", "--root", root, "--json").json
    assert [why.split(":")[0] for why in report["unreadable"]] == ["vmallocinfo"]
    (root / "proc/slabinfo").write_bytes(b"slabinfo - version: 2.1\n# name\nodd \x1b[31m line\n")
    text = leakline("kernel", "--root", root).out
    assert "not read: slabinfo" in text
    assert "\x1b" not in text
    (root / "proc/buddyinfo").write_bytes(b"Node 0, zone \x1b Normal few\n")
    assert "buddyinfo" in leakline("kernel", "--root", root, "--buddy", status=6).err


def test_a_report_in_a_file(leakline: Leakline, tmp_path: Path) -> None:
    root = _captured("6.12-uml", tmp_path / "machine")
    file = tmp_path / "kernel.json"
    assert leakline("kernel", "--root", root, "-o", file).out == ""
    assert json.loads(file.read_text())["schema"] == "leakline.kernel/1"
    leakline("kernel", "--root", root, "-o", file, status=2)
    leakline("kernel", "--root", root, "-o", tmp_path / "kernel.txt")
    assert "this machine" in (tmp_path / "kernel.txt").read_text()


def test_a_recording_without_the_kernel_says_so(leakline: Leakline, tmp_path: Path) -> None:
    file = tmp_path / "own.leakline"
    leakline("record", "-d", "0.5s", "-i", "0.1s", "-o", file)
    report = leakline("kernel", file, "--json").json
    assert report["unexplained_bytes"] is None
    assert report["cpu_seconds"] is None
    assert any("--kernel" in why for why in report["unreadable"])
    assert "--kernel" in leakline("kernel", file).out
    leakline("kernel", file, "--slab", status=2)
    leakline("kernel", file, "--locate", status=2)
    file.write_bytes(b"no recording")
    leakline("kernel", file, status=6)
