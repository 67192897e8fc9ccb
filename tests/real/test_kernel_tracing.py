"""Allocations of the kernel as they happen: the leak among a storm of others is named, and frees without an event invent none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import TARGETS, Build, Leakline, Program, Start, assert_unharmed, needs_root

pytestmark = [needs_root, pytest.mark.slow, pytest.mark.alone]
_TRACE = ("kernel", "--locate", "--source", "tracepoints", "--json", "-d", "4s")


def _go(start: Start, kind: str, rate: int, folder: Path) -> Program:
    maker = start(sys.executable, str(TARGETS / "kernel_things.py"), kind, str(rate), str(folder))
    assert maker.stdin is not None
    maker.stdin.write("go\n")
    maker.stdin.flush()
    return maker


def test_the_leak_in_a_storm_is_named_first(build: Build, start: Start, leakline: Leakline) -> None:
    storm = start(build("pipe_storm.c", "-O2"), "2000")
    report = leakline(*_TRACE, "--counter", "slab:kmalloc-cg-1k").json
    first = report["findings"][0]
    assert first["location"]["function"] == "alloc_pipe_info"
    assert first["location_is"] == "recorded"
    assert first["evidence"][0]["values"]["pid"] == storm.pid
    assert first["evidence"][0]["values"]["lost"] >= 0
    # Of hundreds of thousands that it made, one of 2,000 is kept.
    assert 0 < first["blocks"] < first["evidence"][0]["values"]["events"] / 100
    assert any(e["method"] == "slabinfo" for e in first["evidence"])
    assert_unharmed(storm)


def test_objects_that_are_freed_without_an_event_are_no_leak(build: Build, start: Start, leakline: Leakline) -> None:
    timers = start(build("deleted_timers.c", "-O2"))
    report = leakline(*_TRACE, "--counter", "slab:posix_timers_cache").json
    named = [frame["function"] for finding in report["findings"] for frame in finding["stack"]]
    assert "do_timer_create" not in named
    assert_unharmed(timers)


def test_the_cache_that_grows_is_found_without_a_name(start: Start, leakline: Leakline, tmp_path: Path) -> None:
    maker = _go(start, "tcp", 800, tmp_path)
    report = leakline("kernel", "--locate", "--json", "-d", "6s").json
    (finding, *_) = [f for f in report["findings"] if f["subject"]["name"] == "slab:TCP"]
    assert finding["location"]["function"] == "sk_prot_alloc"
    assert finding["kind"] in ("outstanding", "growing")
    assert report["target"] is None
    assert_unharmed(maker)


def test_whole_pages(start: Start, leakline: Leakline, tmp_path: Path) -> None:
    _go(start, "packet_ring", 10, tmp_path)
    report = leakline(*_TRACE, "--counter", "pages").json
    functions = {frame["function"] for finding in report["findings"][:5] for frame in finding["stack"]}
    assert {"packet_set_ring", "alloc_one_pg_vec_page", "packet_setsockopt"} & functions


def test_a_cache_that_is_not_there(leakline: Leakline) -> None:
    assert "no slab cache" in leakline(*_TRACE, "--counter", "slab:nothing", status=5).err
