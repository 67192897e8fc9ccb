"""Growth of reachable blocks between censuses."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.analysis.heap_growth import CensusAt, growing, grown_since
from leakline.model.heap import AllocationSite, BlockGroup, Census
from leakline.model.stack import Frame


def frame(function: str, line: int | None, address: int = 1) -> Frame:
    return Frame(function=function, file="a.c" if line else None, line=line, module="program", address=address)


def census(*groups: BlockGroup, sites: tuple[AllocationSite, ...] = (), frames: tuple[Frame, ...] = ()) -> Census:
    return Census(taken="2026-01-01T00:00:00+00:00", groups=groups, sites=sites, frames=frames)


def blocks(count: int, size: int = 40, *, site: int | None = None, kind: str | None = None) -> BlockGroup:
    return BlockGroup("reachable", kind, size, count, count * size, site)


MAIN, ADD, KEEP = frame("main", 9), frame("add", 5), frame("keep", 7)
SITES, FRAMES = (AllocationSite(3, (0, 2)), AllocationSite(8, (1, 2))), (ADD, KEEP, MAIN)


def test_growth_has_the_stack_of_its_site() -> None:
    before = census(blocks(10, site=3), blocks(64, site=8), sites=SITES, frames=FRAMES)
    after = census(blocks(30, site=3), blocks(5, 100, site=3), blocks(64, site=8), sites=SITES, frames=FRAMES)
    (finding,) = grown_since(before, after, 10.0)
    assert finding.location == ADD.location
    assert finding.location_is == "recorded"
    assert finding.stack == (ADD, MAIN)
    assert (finding.blocks, finding.bytes) == (25, 20 * 40 + 500)
    assert finding.subject.name == "blocks of 40 to 100 bytes"
    assert finding.rate_bytes_per_second == pytest.approx(130)


def test_sites_are_the_same_where_their_lines_are() -> None:
    before = census(blocks(10, site=1), sites=(AllocationSite(1, (0, 1)),), frames=(frame("add", 5, 77), frame("main", 9, 78)))
    after = census(blocks(10, site=3), blocks(4, site=8), sites=SITES, frames=FRAMES)
    (finding,) = grown_since(before, after, None)
    assert finding.stack == (KEEP, MAIN)
    one, other = (census(blocks(9, site=1), sites=(AllocationSite(1, (0,)),), frames=(frame("f", None, at),)) for at in (77, 78))
    assert grown_since(one, one, 1.0) == []
    assert len(grown_since(one, other, 1.0)) == 1


def test_types_and_sizes_are_compared_where_only_one_census_has_sites() -> None:
    after = census(blocks(10, site=3), blocks(20, site=8), blocks(3), sites=SITES, frames=FRAMES)
    assert grown_since(census(blocks(33)), after, 1.0) == []
    (finding,) = grown_since(census(blocks(30)), after, 1.0)
    assert (finding.blocks, finding.location, finding.stack) == (3, None, ())


def test_a_site_that_grows_from_look_to_look() -> None:
    def at(seconds: int) -> CensusAt:
        return CensusAt(float(seconds), census(blocks(10 + 5 * seconds, 4000, site=3), blocks(64, site=8), blocks(1)))

    looks = [at(seconds) for seconds in range(20)]
    looks[-1] = CensusAt(looks[-1].seconds, msgspec.structs.replace(looks[-1].census, sites=SITES, frames=FRAMES))
    (finding,) = growing(looks)
    assert finding.stack == (ADD, MAIN)
    assert (finding.blocks, finding.bytes) == (95, 95 * 4000)
    assert finding.evidence[1].values == {"engine": "agent", "blocks": 105}
    # Without stacks the sites say nothing.
    (finding,) = growing(looks[:-1])
    assert (finding.stack, finding.subject.name) == ((), "blocks of 4000 bytes")


@given(st.lists(st.integers(-9, 9)), st.lists(st.integers(-9, 9)), st.integers(-2, 9))
def test_any_numbers_of_a_file_are_taken(stack: list[int], numbers: list[int], frames: int) -> None:
    sites = tuple(AllocationSite(number, tuple(stack)) for number in numbers)
    strange = census(*(blocks(abs(n), site=n) for n in numbers), sites=sites, frames=(MAIN,) * frames)
    for finding in grown_since(census(), strange, 1.0) + grown_since(strange, strange, None):
        assert finding.kind == "growing"
