from __future__ import annotations

import math
import re

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from leakline.model.live import MachineView, ProcessView, View
from leakline.model.trend import SeriesTrend
from leakline.present.export.openmetrics import metrics, most_telling

MACHINE = MachineView(total=1000, free=100, available=None, buffers=50, cached=250, unreclaimable=10, swap_total=0, swap_free=0)
TREND = SeriesTrend(
    name="x",
    samples=40,
    duration_seconds=40.0,
    verdict="LEAK",
    probability=0.97,
    rate_bytes_per_second=1024.0,
    rate_interval=(1000.0, 1048.0),
    alternative="flat",
    at_risk=True,
    limit=1 << 30,
    limit_eta_seconds=3600.0,
    gates=(),
    increase=40960,
    increments=(),
)
PROCESS = ProcessView(
    key="7-1",
    pid=7,
    ppid=1,
    user="web",
    command="server",
    cmdline=None,
    cgroup="/system.slice/web",
    uss=10,
    pss=20,
    rss=30,
    swap=5,
    held=15,
    minor_faults=3,
    major_faults=None,
    trend=TREND,
)
LINE = re.compile(r'[a-z_]+(\{([a-z_]+="(\\[\\"n]|[^\\"\n])*",?)*\})? (-?[0-9.e+-]+|NaN|[+-]Inf)')


def view(*processes: ProcessView) -> View:
    return View(time=1000.5, machine=MACHINE, processes=processes, unreadable=0)


def test_what_is_unknown_is_absent_and_the_states_add_up() -> None:
    text = metrics(view(PROCESS), "text", 10, "1.0")
    assert "available" not in text
    assert 'process_paging_faults_total{process_pid="7"' in text
    assert "major" not in text
    states = re.findall(r"^system_memory_usage_bytes\S+ (\d+)$", text, re.MULTILINE)
    assert sum(map(int, states)) == 1000
    assert 'verdict="LEAK"} 1\n' in text
    assert 'estimate="low"} 1000.0\n' in text
    assert 'leakline_cgroup_proportional_bytes{cgroup="/system.slice/web"} 25\n' in text


def test_counters_and_units_are_announced_as_each_format_wants_it() -> None:
    text, openmetrics = (metrics(view(PROCESS), form, 10, "1.0") for form in ("text", "openmetrics"))
    assert "# TYPE process_paging_faults_total counter\n" in text
    assert "# TYPE process_paging_faults counter\n" in openmetrics
    assert openmetrics.endswith("# EOF\n")
    assert "# EOF" not in text
    for name, unit in re.findall(r"^# UNIT (\S+) (\S+)$", openmetrics, re.MULTILINE):
        assert name.endswith(f"_{unit}")
    assert "# UNIT" not in text
    announced = re.findall(r"^# TYPE (\S+)", openmetrics, re.MULTILINE)
    assert len(announced) == len(set(announced)) > 15


def test_what_grows_comes_first_and_the_rest_is_left_out() -> None:
    calm = [
        msgspec.structs.replace(PROCESS, key=f"{n}-1", pid=n, held=10_000 * n, trend=None, cgroup=f"/{n}") for n in range(10, 40)
    ]
    chosen = most_telling([*calm, PROCESS], 3)
    assert [one.pid for one in chosen] == [7, 39, 38]
    text = metrics(view(*calm, PROCESS), "text", 3, "1.0")
    assert len(re.findall("^leakline_process_held_bytes", text, re.MULTILINE)) == 3
    assert len(re.findall("^leakline_cgroup_processes", text, re.MULTILINE)) == 3
    assert 'leakline_cgroup_growing_processes{cgroup="/system.slice/web"} 1' in text
    none = metrics(view(*calm, PROCESS), "text", 0, "1.0")
    assert "process_pid" not in none
    assert 'leakline_verdicts{verdict="LEAK"} 1' in none


@given(st.text(), st.text(), st.one_of(st.floats(), st.none()))
def test_no_name_and_no_number_breaks_a_line(command: str, cgroup: str, rate: float | None) -> None:
    hostile = msgspec.structs.replace(
        PROCESS, command=command, cgroup=cgroup, user="\udcff\n", trend=msgspec.structs.replace(TREND, rate_bytes_per_second=rate)
    )
    for form in ("text", "openmetrics"):
        text = metrics(view(hostile), form, 5, "1.0")
        text.encode()
        for line in text.removesuffix("# EOF\n").splitlines():
            assert line.startswith(("# HELP ", "# TYPE ", "# UNIT ")) or LINE.fullmatch(line), line
    assert rate is None or not math.isnan(rate) or "NaN" in text
