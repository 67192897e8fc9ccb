from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import ParseError
from leakline.sources.meminfo import parse_meminfo
from leakline.sources.process_files import parse_stat, parse_status

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
