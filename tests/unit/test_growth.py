from __future__ import annotations

import pytest

from leakline.analysis.growth import describe_growth, growing_mappings, held_by_mapping, poisson_interval
from leakline.model.memory import MemoryUsage
from leakline.model.series import UsageSample
from leakline.model.vma import Vma, VmaUsage


def series(*values: int) -> list[UsageSample]:
    return [UsageSample(time_ns=i * 10**9, uss=v * 1024, swap=0) for i, v in enumerate(values)]


def test_two_samples_are_no_trend() -> None:
    assert describe_growth(series(560, 608)) is None


def test_three_rising_samples_are_described_and_not_judged() -> None:
    growth = describe_growth(series(560, 608, 644))
    assert growth is not None
    assert growth.rate / 1024 == pytest.approx(42)
    # Student's t with one degree of freedom: from the shape of three points alone.
    low, high = growth.rate_interval
    assert low / 1024 == pytest.approx(20.1, abs=0.1)
    assert high / 1024 == pytest.approx(63.9, abs=0.1)


def test_noise_is_no_visible_growth() -> None:
    growth = describe_growth(series(100, 130, 90, 120, 95, 125, 105))
    assert growth is not None
    assert not growth.is_visible


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


@pytest.mark.parametrize(("count", "low", "high"), [(0, 0.0, 3.0), (1, 0.05, 4.74), (10, 5.43, 16.96), (100, 84.1, 118.1)])
def test_the_poisson_interval_agrees_with_tables(count: int, low: float, high: float) -> None:
    found = poisson_interval(count)
    assert found[0] == pytest.approx(low, rel=0.02, abs=0.02)
    assert found[1] == pytest.approx(high, rel=0.02)
