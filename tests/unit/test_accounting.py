from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.analysis.accounting import order, total, tree
from leakline.errors import InvalidRequest, ParseError
from leakline.model.accounting import ProcessMemory
from leakline.present.tables import choose_columns, notes_of, table_lines, units_of
from leakline.sources.maps import parse_smaps_rollup
from leakline.sources.one_process import container_of
from leakline.sources.process_files import memory_cgroup
from leakline.sources.rollup import Rollup
from tests.unit.test_maps import ROLLUP


def process(pid: int, ppid: int = 0, pss: int | None = 100) -> ProcessMemory:
    values: dict[str, Any] = dict.fromkeys(ProcessMemory.__struct_fields__)
    values |= {"pid": pid, "ppid": ppid, "command": f"p{pid}", "pss": pss, "rss": 10 * pid}
    return ProcessMemory(**values)


def test_unknown_counts_as_the_least_and_is_in_no_sum() -> None:
    rows = [process(1, pss=300), process(2, pss=None), process(3, pss=100)]
    assert [p.pid for p in order(rows, "pss", ascending=True)] == [2, 3, 1]
    assert [p.pid for p in order(rows, "pss", ascending=False)] == [1, 3, 2]
    sums = total("all", rows)
    assert (sums.count, sums.unreadable, sums.pss, sums.rss, sums.uss) == (3, 1, 400, 60, None)
    with pytest.raises(InvalidRequest, match="nosuch"):
        order(rows, "nosuch", ascending=True)


def test_a_tree_holds_everybody_once_even_in_a_circle_or_without_a_parent() -> None:
    rows = [process(2, 1), process(1, 0), process(3, 2), process(9, 77), process(5, 5)]
    placed = tree(rows)
    assert [(depth, p.pid) for depth, p in placed] == [(0, 1), (1, 2), (2, 3), (0, 9), (0, 5)]


def test_every_column_has_a_unit_and_a_note() -> None:
    assert set(units_of(ProcessMemory)) == set(notes_of(ProcessMemory)) == set(ProcessMemory.__struct_fields__)


def test_columns_are_chosen_or_added() -> None:
    assert choose_columns(ProcessMemory, None, ["pid"]) == ["pid"]
    assert choose_columns(ProcessMemory, "uss, pid", ["pid"]) == ["uss", "pid"]
    assert choose_columns(ProcessMemory, "+uss,pid", ["pid"]) == ["pid", "uss"]
    with pytest.raises(InvalidRequest, match="bogus"):
        choose_columns(ProcessMemory, "bogus", ["pid"])


def test_a_table_shows_unknown_as_a_dash() -> None:
    lines = [text for text, _ in table_lines([process(1, pss=None)], ProcessMemory, ["pid", "pss", "command"])]
    assert lines == ["pid  pss  command", "  1    -  p1"]


def test_the_quick_rollup_agrees_with_the_careful_one() -> None:
    quick = Rollup()
    for data in (
        ROLLUP,
        ROLLUP.replace(b"SwapPss:               32 kB\n", b""),
        ROLLUP.replace(b"Rss: ", b"Extra: 1 kB\nRss: ", 1),
    ):
        values, truth = quick.values(data), parse_smaps_rollup(data)
        assert (values[0], values[1], values[4], values[5], values[11]) == (
            truth.rss,
            truth.pss,
            truth.swap,
            truth.swap_pss,
            truth.lazy_free,
        )


@given(st.binary(max_size=300), st.integers(0, 600))
def test_a_hostile_rollup_is_read_or_refused(data: bytes, cut: int) -> None:
    quick = Rollup()
    quick.values(ROLLUP)
    for hostile in (data, ROLLUP[:cut], ROLLUP[:cut] + data):
        try:
            quick.values(hostile)
        except ParseError:
            continue


def test_control_groups_of_both_versions_and_containers() -> None:
    identity = "a1" * 32
    v1 = f"9:name=systemd:/\n4:memory:/docker/{identity}\n0::/\n".encode()
    v2 = f"0::/system.slice/docker-{identity}.scope\n".encode()
    assert memory_cgroup(v1) == f"/docker/{identity}"
    assert memory_cgroup(v2) == f"/system.slice/docker-{identity}.scope"
    assert container_of(v1) == container_of(v2) == identity[:12]
    assert (memory_cgroup(b""), container_of(b"0::/user.slice\n")) == (None, None)
