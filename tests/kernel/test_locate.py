"""Each source names the function of a real kernel that leaks; what is still held is not called lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kernel.guest import Guest, Outcome, guest

__all__ = ["guest"]
pytestmark = pytest.mark.slow
SOURCES = ("allocinfo", "page-owner", "slab-traces", "kmemleak", "auto")
_LEAK = (
    "(i=0; while [ $i -lt 200 ]; do driver kmalloc 300 256; driver pages 64 0; driver held 50; driver kmem_cache 100; "
    "driver vmalloc 1 65536; driver percpu 20 512; sleep 1; i=$((i+1)); done) &"
)


@pytest.fixture(scope="module")
def leaking(guest: Guest) -> Outcome:
    """All that is asked of one boot in which the driver leaks, and of a moment before."""
    script = [
        "run quiet kernel -d 0 --json",
        "driver pages 512 0",
        "run raw kernel -d 0 --json",
        _LEAK,
        "run counters kernel -d 9s -i 0.5s --slab --vmalloc --json",
        *(f"run {source} kernel --locate --source {source} --duration 7s --json -q" for source in SOURCES),
        "run one kernel --locate --source slab-traces --counter slab:leakdrv_rec --duration 3s --json -q",
        "run doctor doctor --json",
    ]
    return guest.boot("leaking", script, "page_owner=on", "slub_debug=U")


@pytest.fixture(scope="module")
def bare(guest: Guest) -> Outcome:
    """The same kernel without the parameters that the sources need."""
    sources = (s for s in SOURCES if s not in ("auto", "allocinfo"))
    script = [
        *(f"run {source} kernel --locate --source {source} --duration 1s --json -q" for source in (*sources, "tracepoints")),
        "run doctor doctor --json",
    ]
    return guest.boot("bare", script, "kmemleak=off")


@pytest.fixture(scope="module")
def idle(guest: Guest) -> Outcome:
    """A kernel on which nothing happens but leakline's own look."""
    return guest.boot("idle", ["run idle kernel -d 60s --json"])


def test_an_idle_machine_shows_nothing(idle: Outcome) -> None:
    report = idle.json("idle")
    assert report["growth"] == []
    assert abs(report["unexplained_growth"]) < 1 << 20
    assert report["samples"] >= 30


def _named(report: Any) -> list[str]:
    return [(finding["location"] or {}).get("function") or "" for finding in report["findings"]]


@pytest.mark.parametrize(
    ("source", "function"),
    [
        ("allocinfo", "leak_one_"),
        ("page-owner", "leak_one_pages"),
        ("slab-traces", "leak_one_kmalloc"),
        ("kmemleak", "leak_one_kmalloc"),
        ("auto", "leak_one_"),
    ],
)
def test_each_source_names_the_function_that_leaks(leaking: Outcome, source: str, function: str) -> None:
    report = leaking.json(source)
    assert report["target"] is None
    assert any(name.startswith(function) for name in _named(report)[:3]), _named(report)[:6]
    first = next(f for f in report["findings"] if _named({"findings": [f]})[0].startswith(function))
    assert first["subject"]["type"] == "kernel counter"
    assert first["rate_bytes_per_second"] > 0
    assert any(frame["module"] == "leakdrv" for frame in first["stack"])
    assert any(gap["name"] == (source if source != "auto" else "allocinfo") for gap in report["not_judged"]), "its blindness"


def test_kmemleak_proves_what_is_lost_and_leaves_out_what_is_held(leaking: Outcome) -> None:
    report = leaking.json("kmemleak")
    proved = {name: f for name, f in zip(_named(report), report["findings"], strict=True) if f["kind"] == "definite"}
    assert {"leak_one_kmalloc", "leak_one_cache", "leak_one_vmalloc"} <= proved.keys()
    assert "hold_one" not in _named(report)
    kmalloc = proved["leak_one_kmalloc"]
    assert kmalloc["bytes"] == 256 * kmalloc["blocks"]
    assert kmalloc["confidence"] == "high"
    assert report["summary"]["definite"]["blocks"] >= kmalloc["blocks"]


def test_allocinfo_tells_the_line(guest: Guest, leaking: Outcome) -> None:
    report = leaking.json("allocinfo")
    found = {f["location"]["function"]: f["location"] for f in report["findings"] if f["location"]}
    for function, call in (("leak_one_kmalloc", "kmalloc("), ("leak_one_pages", "alloc_pages("), ("leak_one_vmalloc", "vmalloc(")):
        assert Path(found[function]["file"]).name == "leakdrv.c"
        line = found[function]["line"]
        assert line > 0
        assert guest.source is None or call in guest.source[line - 1]


def test_raw_pages_move_the_unexplained_by_what_leaks(leaking: Outcome) -> None:
    before, after = (leaking.json(name)["unexplained_bytes"] for name in ("quiet", "raw"))
    # The counters that are taken away lag behind by up to 125 pages for each processor (mm/vmstat.c, calculate_normal_threshold).
    assert abs(after - before - (2 << 20)) <= 500 << 10


def test_the_counters_of_what_leaks_grow(leaking: Outcome) -> None:
    report = leaking.json("counters")
    grown = {growth["counter"] for growth in report["growth"]}
    assert "vmalloc:leak_one_vmalloc" in grown
    assert {"slab:kmalloc-256", "slab:leakdrv_rec"} & grown
    assert any(row["name"] == "leakdrv_rec" for row in report["slabs"])


def test_one_cache_can_be_asked_for(leaking: Outcome) -> None:
    report = leaking.json("one")
    assert _named(report) == ["leak_one_cache"]
    assert report["findings"][0]["subject"]["name"] == "slab:leakdrv_rec"


def test_doctor_tells_what_works_and_how_to_get_the_rest(leaking: Outcome, bare: Outcome) -> None:
    works = {row["name"]: row["works"] for row in leaking.json("doctor")["capabilities"]}
    assert all(works[name] for name in ("allocinfo", "page_owner", "slab traces", "kmemleak"))
    rows = {row["name"]: row for row in bare.json("doctor")["capabilities"]}
    for name, parameter in (("page_owner", "page_owner=on"), ("slab traces", "slub_debug=U"), ("kmemleak", "kmemleak=on")):
        assert not rows[name]["works"]
        assert parameter in rows[name]["remedy"]


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("page-owner", "page_owner=on"),
        ("slab-traces", "slub_debug=U"),
        ("kmemleak", "kmemleak=on"),
        ("tracepoints", "CONFIG_"),
    ],
)
def test_a_source_that_is_off_says_what_it_takes(bare: Outcome, source: str, remedy: str) -> None:
    assert bare.status(source) == 5
    assert remedy in bare.err(source)
    assert "Traceback" not in bare.err(source)
