"""Series of others."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import InvalidRequest, LeaklineError, ParseError
from leakline.sources.series_files import Columns, parse_series

PIDSTAT = b"""Linux 6.18.0 (host) \t11/22/2026 \t_x86_64_\t(2 CPU)

11:59:58 PM   UID       PID  minflt/s  majflt/s     VSZ     RSS   %MEM  Command
11:59:59 PM  1000      4711      1.00      0.00   10000    2048   0.10  my server
12:00:00 AM  1000      4711      1.00      0.00   10000    3072   0.10  my server
12:00:01 AM  1000      4800      1.00      0.00   10000    1024   0.10  my server
Average:     1000      4711      1.00      0.00   10000    2560   0.10  my server
"""
PIDSTAT_H = b"""Linux 6.18.0 (host) \t11/22/2026 \t_x86_64_\t(2 CPU)

# Time        UID       PID  minflt/s  majflt/s     VSZ     RSS   %MEM  Command
1795361998    0      4711      1.00      0.00   10000    2048   0.10  a.out
1795361999    0      4711      1.00      0.00   10000    2052   0.10  a.out
"""
SAR = b"""Linux 6.18.0 (host) \t11/22/2026 \t_x86_64_\t(2 CPU)

10:00:01    kbmemfree   kbavail kbmemused  %memused kbbuffers  kbcached
10:00:02       100000    200000      5000      1.00       100       200
10:00:03       100000    200000      6000      1.00       100       200
Average:       100000    200000      5500      1.00       100       200
"""
PSRECORD = (
    b"# Elapsed time   CPU (%)     Real (MB)   Virtual (MB)\n"
    b"       0.000        0.000       10.500      100.000\n"
    b"       1.000        5.000       11.000      100.000\n"
)


def test_csv_with_names_and_units() -> None:
    (one,) = parse_series(b"t_s,pid,uss_kb\n0,7,100\n1,7,\n2,8,300\n", "a.csv")
    assert (one.name, one.times, one.epochs) == ("a.csv", (0.0, 1.0, 2.0), (0, 0, 1))
    assert one.values[0] == 102400
    assert math.isnan(one.values[1]), "a gap, no zero"
    (named,) = parse_series(
        b"when;x\n2026-11-22T10:00:00;5\n2026-11-22T10:00:10;6\n", "a", Columns("when", "x", None, None, 1 << 20)
    )
    assert named.times[1] - named.times[0] == 10
    assert named.values == (5 << 20, 6 << 20)
    groups = parse_series(b"time,host,rss\n1,b,5\n0,a,4\n0,b,6\n", "a", Columns(by="host"))
    assert [(g.name, g.times, g.values) for g in groups] == [("b", (0, 1), (6, 5)), ("a", (0,), (4,))]


def test_json_lines_and_lists() -> None:
    for text in (b'{"t": 0, "uss": 5}\n{"t": 1, "uss": null}\n', b'[{"t": 0, "uss": 5}, {"t": 1}]'):
        (one,) = parse_series(text, "x")
        assert one.values[0] == 5
        assert math.isnan(one.values[1])


def test_pidstat_past_midnight_and_over_a_restart() -> None:
    (one,) = parse_series(PIDSTAT, "-")
    assert (one.name, one.epochs) == ("my server", (0, 0, 1))
    assert [b - a for a, b in zip(one.times, one.times[1:], strict=False)] == [1, 1]
    assert one.values == (2048 << 10, 3072 << 10, 1024 << 10)
    (other,) = parse_series(PIDSTAT_H, "-")
    assert (other.name, other.times[0], other.values[1]) == ("a.out", 1795361998, 2052 << 10)


def test_sar_psrecord_and_prometheus() -> None:
    (sar,) = parse_series(SAR, "-")
    assert (sar.values, sar.times[1] - sar.times[0]) == ((5000 << 10, 6000 << 10), 1)
    (recorded,) = parse_series(PSRECORD, "log.txt")
    assert recorded.values == (10.5 * (1 << 20), 11 << 20)
    metric = {"__name__": "process_resident_memory_bytes", "job": "api"}
    answer = {
        "status": "success",
        "data": {"resultType": "matrix", "result": [{"metric": metric, "values": [[1, "10"], [2, "NaN"]]}]},
    }
    (prometheus,) = parse_series(json.dumps(answer).encode(), "-")
    assert prometheus.name == "process_resident_memory_bytes{job=api}"
    assert prometheus.values[0] == 10
    assert math.isnan(prometheus.values[1])


@pytest.mark.parametrize(
    ("data", "columns", "error"),
    [
        (b"", Columns(), ParseError),
        (b"t,uss\n", Columns(), ParseError),
        (b"t,uss\n0,many\n", Columns(), ParseError),
        (b'"\xff"', Columns(), LeaklineError),
        (b"t,uss\n0,1e300\n", Columns(), ParseError),
        (b"t,uss\nyesterday,1\n", Columns(), ParseError),
        (b"t,uss,uss\n0,1,2\n", Columns(), ParseError),
        (b"a,b\n0,1\n", Columns(), InvalidRequest),
        (b"t,uss\n0,1\n", Columns(value="nosuch"), InvalidRequest),
        (b'{"data": {"result": 5, "resultType": "x"}}', Columns(), ParseError),
        (b'{"t": 0,', Columns(), ParseError),
        (b"[1, 2]", Columns(), ParseError),
    ],
)
def test_what_is_no_series_is_named(data: bytes, columns: Columns, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_series(data, "file", columns)


@given(
    st.sampled_from([b"", PIDSTAT, PIDSTAT_H, SAR, PSRECORD, b"t,uss\n0,1\n", b'{"t":0,"uss":1}\n']),
    st.integers(0, 500),
    st.binary(max_size=60),
)
def test_hostile_series_are_read_or_refused(start: bytes, cut: int, noise: bytes) -> None:
    for data in (start[:cut] + noise, start[:cut] + noise + start[cut:]):
        try:
            found = parse_series(data, "x")
        except LeaklineError:
            continue
        assert all(len(one.times) == len(one.values) for one in found)


def test_the_command() -> None:
    text = "t_s,uss_kb\n" + "".join(f"{i},{1000 + 40 * i}\n" for i in range(60))
    ours = [sys.executable, "-m", "leakline", "trend", "-"]
    done = subprocess.run([*ours, "--warm-up", "0", "--fail-on", "leak"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("LEAK  -: +2.3 MiB in 60 samples")
    done = subprocess.run([*ours, "--json", "--limit", "10MiB"], input=text, capture_output=True, text=True, check=True)
    (one,) = json.loads(done.stdout)["series"]
    assert (one["verdict"], one["gates"], one["at_risk"]) == ("GROWING", ["warm-up"], True)
    assert abs(one["rate_bytes_per_second"] - 40960) < 400
    missing = subprocess.run([*ours[:-1], "/nonexistent"], capture_output=True, text=True, check=False)
    assert missing.returncode == 2


def test_what_a_review_found() -> None:
    def prometheus(results: object) -> bytes:
        return json.dumps({"data": {"resultType": "matrix", "result": results}}).encode()

    (one,) = parse_series(prometheus([{"metric": {"__name__": 5}, "values": [[1, "2"], [2, "+Inf"]]}]), "-", Columns(unit=1024))
    assert (one.name, one.values[0], math.isnan(one.values[1])) == ("5", 2048, True)
    with pytest.raises(ParseError, match="bad query"):
        parse_series(b'{"status": "error", "error": "bad query"}', "-")
    (lines,) = parse_series(b'{"time":0,"value":0,"result":"ok"}\n{"time":1,"value":5,"result":"ok"}\n', "-")
    assert lines.values == (0, 5)
    with pytest.raises(ParseError, match="year 5000"):
        parse_series(b"t,uss\n1700000000000,1\n1700000001000,2\n", "-")
    (large,) = parse_series(b"t,rss_gb\n0,1\n1,2\n", "-")
    assert large.values == (1 << 30, 2 << 30)
    with pytest.raises(ParseError):
        parse_series(PIDSTAT_H.replace(b"1795361999", b"9" * 400), "-")
    with pytest.raises(InvalidRequest, match="unit"):
        parse_series(PIDSTAT, "-", Columns(unit=1024))
    twice = PIDSTAT_H + PIDSTAT_H.split(b"\n", 3)[3].replace(b"4711", b"4712")
    assert sorted(s.name for s in parse_series(twice, "-")) == ["a.out (4711)", "a.out (4712)"], "both at once"
