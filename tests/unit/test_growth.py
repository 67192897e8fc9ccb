from __future__ import annotations

import msgspec
import pytest

from leakline.analysis.growth import growing_mappings, held_by_mapping, line_through, poisson_interval
from leakline.model.memory import MemoryUsage
from leakline.model.vma import Vma, VmaUsage


def test_two_points_have_any_line() -> None:
    assert line_through([(0, 560), (1, 608)]) is None
    assert line_through([(5, 1), (5, 2), (5, 3)]) is None


def test_a_line_through_three_points_and_its_interval() -> None:
    line = line_through([(0, 560), (1, 608), (2, 644)])
    assert line is not None
    rate, interval = line
    assert rate == pytest.approx(42)
    # Student's t with one degree of freedom: from the shape of three points alone.
    assert interval == pytest.approx((20.1, 63.9), abs=0.1)


def test_mappings_rank_by_increase_and_new_ones_count_in_full() -> None:
    def usage(start: int, size: int, path: str | None) -> VmaUsage:
        vma = Vma(start=start, end=start + 8192, perms="rw-p", offset=0, device=(0, 0), inode=0, path=path)
        memory = MemoryUsage(
            rss=size,
            pss=size,
            shared_clean=0,
            shared_dirty=0,
            private_clean=0,
            private_dirty=size,
            anonymous=size,
            lazy_free=None,
            swap=0,
            swap_pss=None,
        )
        return VmaUsage(vma=vma, usage=memory)

    before = [usage(0x1000, 100, "[heap]"), usage(0x9000, 500, None)]
    after = [usage(0x1000, 150, "[heap]"), usage(0x9000, 400, None), usage(0x20000, 70, None)]
    assert [(g.name, g.increase) for g in growing_mappings(held_by_mapping(before), after)] == [("[anon]", 70), ("[heap]", 50)]
    joined = [usage(0x1000, 150, "[heap]"), usage(0x8000, 520, None)]
    joined[1] = msgspec.structs.replace(joined[1], vma=msgspec.structs.replace(joined[1].vma, end=0xB000))
    assert [(g.name, g.increase) for g in growing_mappings(held_by_mapping(before), joined)] == [("[heap]", 50), ("[anon]", 20)]


@pytest.mark.parametrize(("count", "low", "high"), [(0, 0.0, 3.0), (1, 0.05, 4.74), (10, 5.43, 16.96), (100, 84.1, 118.1)])
def test_the_poisson_interval_agrees_with_tables(count: int, low: float, high: float) -> None:
    found = poisson_interval(count)
    assert found[0] == pytest.approx(low, rel=0.02, abs=0.02)
    assert found[1] == pytest.approx(high, rel=0.02)
