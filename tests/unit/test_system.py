from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.analysis.system_owners import owners_of
from leakline.errors import ParseError
from leakline.sources.meminfo import parse_amounts
from leakline.sources.system_files import parse_per_cpu_pages, parse_pressure

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("kernel", ["6.12-x86", "6.12-uml"])
def test_owners_add_up_to_the_byte_on_captured_kernels(kernel: str) -> None:
    amounts = parse_amounts((FIXTURES / kernel / "t0.meminfo").read_bytes())
    pages = parse_per_cpu_pages((FIXTURES / kernel / "t0.zoneinfo").read_bytes())
    owners = owners_of(amounts, pages * 4096)
    assert sum(owner.bytes for owner in owners) == amounts["MemTotal"]
    assert owners[-1].name == "unexplained"
    assert pages > 0
    stacks = [owner for owner in owners if owner.name == "kernel stacks"]
    # User-mode Linux has no VMAP_STACK: there the stacks are not in VmallocUsed.
    assert bool(stacks) == (kernel == "6.12-uml")
    assert 0 < owners[-1].bytes < amounts["MemTotal"] * 0.05


def test_a_leak_of_raw_pages_moves_the_rest_by_what_leaks() -> None:
    amounts = parse_amounts((FIXTURES / "6.12-x86/t0.meminfo").read_bytes())
    before = owners_of(amounts, 0)[-1].bytes
    amounts["MemFree"] -= 2 << 20
    assert owners_of(amounts, 0)[-1].bytes - before == 2 << 20


def test_unknown_free_lists_stay_in_the_rest_and_it_says_so() -> None:
    amounts = {"MemTotal": 1000, "MemFree": 400}
    (free, rest) = owners_of(amounts, None)
    assert (free.bytes, rest.bytes) == (400, 600)
    assert "zoneinfo" in rest.note


def test_pressure() -> None:
    text = b"some avg10=1.50 avg60=0.20 avg300=0.00 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    some, full = parse_pressure(text)
    assert (some.kind, some.avg10, some.total_us, full.kind) == ("some", 1.5, 12345, "full")
    with pytest.raises(ParseError):
        parse_pressure(b"some avg10=lots\n")


@given(st.binary(max_size=200))
def test_hostile_bytes_are_parsed_or_refused(data: bytes) -> None:
    parse_per_cpu_pages(data)
    for parse in (parse_amounts, parse_pressure):
        try:
            parse(data)
        except ParseError:
            continue


def test_this_machine() -> None:
    with open("/proc/meminfo", "rb") as file:
        amounts = parse_amounts(file.read())
    assert amounts["MemTotal"] <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + 4096
