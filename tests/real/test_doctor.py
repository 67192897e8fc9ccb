from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from tests.conftest import Build, Leakline, Start, assert_unharmed, needs_root


def test_what_works_is_tried(leakline: Leakline) -> None:
    report = leakline("doctor", "--json").json
    jsonschema.validate(report, json.loads((Path(__file__).parents[2] / "docs/schemas/doctor-1.json").read_text()))
    found = {c["name"]: c for c in report["capabilities"]}
    assert {
        "ptrace",
        "process_vm_readv",
        "hardware breakpoints",
        "page faults",
        "BPF",
        "tracepoints",
        "kmemleak",
        "allocinfo",
    } <= found.keys()
    assert {"valgrind", "AddressSanitizer", "addr2line", "heap walker", "agent", "BPF programs"} <= found.keys()
    for capability in report["capabilities"]:
        assert capability["works"] == (capability["remedy"] is None), capability
        assert capability["detail"]
    assert found["ptrace"]["works"]


@needs_root
def test_an_ordinary_user_hears_what_it_takes(unprivileged_leakline: Leakline) -> None:
    report = unprivileged_leakline("doctor", "--json").json
    found = {c["name"]: c for c in report["capabilities"]}
    assert not found["BPF"]["works"]
    assert "CAP_BPF" in found["BPF"]["remedy"]
    text = unprivileged_leakline("doctor").out
    assert "costs: trace, diagnose" in text


def test_a_target_of_its_own(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("loses.c"))
    assert "the program carries its own" in leakline("doctor", "--target", program.pid).out
    assert_unharmed(program)
    stripped = start(build("loses.c", "-O1", "-s"))
    out = leakline("doctor", "--target", stripped.pid).out
    assert "no line table" in out
    assert "dbgsym" in out
    leakline("doctor", "--target", 4_000_000, status=4)
