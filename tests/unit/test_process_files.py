from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import ParseError
from leakline.sources.meminfo import parse_meminfo
from leakline.sources.process_files import parse_limits, parse_stat, parse_status, status_amounts
from leakline.sources.slabinfo import parse_slabinfo

STAT = b"42 (%s) S 1 42 42 0 -1 4194560 100 0 7 0 5 3 0 0 20 0 3 0 12345 10000 200 18446744073709551615 0 0 0"


@pytest.mark.parametrize("command", [b"bash", b"we) ird\n1", b") S 9 (", b"\xff\xfe", b""])
def test_a_command_may_hold_anything(command: bytes) -> None:
    stat = parse_stat(STAT % command)
    assert os.fsencode(stat.command) == command
    assert (stat.pid, stat.state, stat.ppid, stat.threads, stat.start_ticks) == (42, "S", 1, 3, 12345)
    assert (stat.minor_faults, stat.major_faults, stat.is_kernel_thread) == (100, 7, False)


def test_kernel_threads_and_zombies_are_told() -> None:
    assert parse_stat(STAT.replace(b"4194560", b"2129984") % b"kthreadd").is_kernel_thread
    assert parse_stat(STAT.replace(b" S ", b" Z ") % b"gone").is_zombie


@given(st.binary(max_size=300))
def test_hostile_bytes_are_parsed_or_refused(data: bytes) -> None:
    for parse in (parse_stat, parse_status, parse_meminfo):
        try:
            parse(data)
        except ParseError:
            continue


@given(st.binary(max_size=30))
def test_a_hostile_command_never_changes_the_numbers(command: bytes) -> None:
    assert parse_stat(STAT % command.replace(b"%", b"")).start_ticks == 12345


def test_status() -> None:
    status = parse_status(b"Name:\ta\\nb\nUid:\t1000\t1000\t1000\t1000\nTracerPid:\t7\nThreads:\t3\n")
    assert (status.uid, status.tracer_pid, status.threads) == (1000, 7, 3)
    with pytest.raises(ParseError):
        parse_status(b"Name:\tx\n")


def test_meminfo_of_an_old_kernel_has_no_available() -> None:
    memory = parse_meminfo(b"MemTotal: 100 kB\nMemFree: 50 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\nHugePages_Total: 0\n")
    assert (memory.total, memory.available) == (102400, None)
    with pytest.raises(ParseError):
        parse_meminfo(b"MemTotal: 100 kB\n")
    with pytest.raises(ParseError):
        parse_meminfo(b"MemTotal: lots\nMemFree: 50 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n")


LIMITS = (
    b"Limit                     Soft Limit           Hard Limit           Units     \n"
    b"Max data size             unlimited            unlimited            bytes     \n"
    b"Max address space         1073741824           unlimited            bytes     \n"
    b"Max realtime timeout      unlimited            unlimited            us        \n"
)


def test_limits_and_amounts_of_status() -> None:
    assert parse_limits(LIMITS) == {"Max address space": 1 << 30}
    with open("/proc/self/limits", "rb") as file:
        own = parse_limits(file.read())
    assert own.get("Max open files", resource.RLIM_INFINITY) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert status_amounts(b"Name:\tx\nVmSize:\t    2048 kB\nThreads:\t3\n") == {"VmSize": 2 << 20}


def test_slabinfo() -> None:
    data = (Path(__file__).parents[1] / "fixtures/6.12-uml/t0.slabinfo").read_bytes()
    caches = {cache.name: cache for cache in parse_slabinfo(data, 4096)}
    (line,) = [line.split() for line in data.splitlines() if line.startswith(b"dentry ")]
    assert caches["dentry"].objects == int(line[1])
    assert caches["dentry"].bytes == int(line[-2]) * int(line[5]) * 4096
    with pytest.raises(ParseError):
        parse_slabinfo(b"slabinfo - version: 1.1\n", 4096)


@given(st.binary(max_size=300))
def test_hostile_limits_and_slabinfo_are_parsed_or_refused(data: bytes) -> None:
    for parse in (parse_limits, status_amounts, lambda data: parse_slabinfo(b"slabinfo - version: 2.1\n" + data, 4096)):
        try:
            parse(data)
        except ParseError:
            continue
