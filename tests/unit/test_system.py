from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.analysis.system_owners import owners_of
from leakline.errors import ParseError
from leakline.sources.meminfo import parse_amounts
from leakline.sources.shmem_files import parse_sysv
from leakline.sources.system_files import parse_node, parse_per_cpu_pages, parse_pressure, parse_swaps, parse_zones

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


@pytest.mark.parametrize("kernel", ["6.12-x86", "6.12-uml"])
def test_zones_of_captured_kernels(kernel: str) -> None:
    data = (FIXTURES / kernel / "t0.zoneinfo").read_bytes()
    zones = parse_zones(data, 4096)
    assert zones
    assert sum(zone.per_cpu for zone in zones) == parse_per_cpu_pages(data) * 4096
    assert all(0 < zone.min <= zone.low <= zone.high <= zone.managed and zone.free <= zone.managed for zone in zones)
    assert [zone.managed * 16 for zone in zones] == [zone.managed for zone in parse_zones(data, 65536)], "pages of 64 KiB"


def test_swaps_and_nodes() -> None:
    swaps = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/swap\\040file                        file\t\t1024\t\t512\t\t-2\n"
    (area,) = parse_swaps(swaps)
    assert (area.name, area.kind, area.size, area.used, area.priority) == ("/swap file", "file", 1 << 20, 1 << 19, -2)
    node = parse_node(
        3, b"Node 3 MemTotal:  1000 kB\nNode 3 MemFree:  10 kB\nNode 3 Active(anon): 5 kB\nNode 3 HugePages_Total:     2\n"
    )
    assert (node.node, node.total, node.free, node.huge_pages, node.slab) == (3, 1000 << 10, 10 << 10, 2, None)
    with pytest.raises(ParseError):
        parse_node(0, b"Node 0 MemTotal: x kB\n")
    with pytest.raises(ParseError):
        parse_swaps(b"head\n/swap file x 1 2\n")
    line = b"  0  32768  600 67108864  123  124  0 0 0 0 0 1 1 1  67108864  4096\n"
    assert list(parse_sysv(b"head\n" + line + b"odd line\n")) == [(32768, 67108864 + 4096, 123, 0)]


def test_a_page_that_is_mapped_and_in_the_swap_cache_counts_once() -> None:
    base = {
        "MemTotal": 10_000,
        "MemFree": 5000,
        "AnonPages": 3000,
        "Shmem": 100,
        "Cached": 100,
        "Active(anon)": 3000,
        "Inactive(anon)": 100,
    }
    mapped = owners_of({**base, "SwapCached": 2000}, 0)
    assert next(o.bytes for o in mapped if o.name == "swap cache") == 0
    alone = owners_of({**base, "AnonPages": 1000, "SwapCached": 2000}, 0)
    assert next(o.bytes for o in alone if o.name == "swap cache") == 2000
    assert mapped[-1].bytes == alone[-1].bytes


@given(st.binary(max_size=200))
def test_hostile_bytes_are_parsed_or_refused(data: bytes) -> None:
    parse_per_cpu_pages(data)
    parse_zones(data, 4096)
    list(parse_sysv(data))
    for parse in (parse_amounts, parse_pressure, parse_swaps, lambda content: parse_node(0, content)):
        try:
            parse(data)
        except ParseError:
            continue


def test_this_machine() -> None:
    with open("/proc/meminfo", "rb") as file:
        amounts = parse_amounts(file.read())
    assert amounts["MemTotal"] <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + 4096
