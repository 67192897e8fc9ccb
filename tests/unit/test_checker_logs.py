"""What valgrind and the sanitizers write, whole and damaged."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.analysis.checker_findings import checker_findings, checker_summary
from leakline.errors import ParseError
from leakline.formats.memcheck import parse_memcheck
from leakline.formats.sanitizer import parse_sanitizer

MEMCHECK = """<?xml version="1.0"?>
<valgrindoutput><protocolversion>4</protocolversion><protocoltool>memcheck</protocoltool>
<preamble><line>Using Valgrind-3.19.0 and LibVEX; rerun with -h for copyright info</line></preamble>
<pid>77</pid><ppid>1</ppid><tool>memcheck</tool><args><argv><exe>/opt/the server</exe></argv></args>
<error><unique>0x0</unique><tid>1</tid><kind>InvalidRead</kind><what>Invalid read of size 4</what><stack></stack></error>
<error><unique>0x1</unique><tid>1</tid><kind>Leak_DefinitelyLost</kind>
<xwhat><text>10,000 (2,000 direct, 8,000 indirect) bytes in 20 blocks are definitely lost in loss record 5 of 5</text>
<leakedbytes>10000</leakedbytes><leakedblocks>20</leakedblocks></xwhat>
<stack><frame><ip>0x48417B4</ip><obj>/usr/libexec/valgrind/vgpreload_memcheck-amd64-linux.so</obj><fn>malloc</fn></frame>
<frame><ip>0x1091ED</ip><obj>/opt/the server</obj><fn>lose(int)</fn><dir>/src</dir><file>a.c</file>
<line>17</line></frame></stack></error>
<error><unique>0x2</unique><tid>1</tid><kind>Leak_IndirectlyLost</kind>
<xwhat><text>8,000 bytes in 40 blocks are indirectly lost in loss record 4 of 5</text>
<leakedbytes>8000</leakedbytes><leakedblocks>40</leakedblocks></xwhat><stack></stack></error>
</valgrindoutput>"""

SANITIZER = """noise of the program
=================================================================
==23161==ERROR: LeakSanitizer: detected memory leaks

Direct leak of 2000 byte(s) in 20 object(s) allocated from:
    #0 0x7fd1ae613545 in __interceptor_malloc ../../lsan_interceptors.cpp:75 (liblsan.so+0x13545)
    #1 0x55a22c9bd18a in std::vector<int, A b>::lose(int) /work dir/kinds.c:17:3 (kinds+0x118a) (BuildId: 00ff)
    #2 0x55c5f1c54295  (/tmp/kinds-s+0x1295) (kinds-s+0x1295)

Indirect leak of 4000 byte(s) in 20 object(s) allocated from:
    #0 0x7fd1ae613545 in operator new(unsigned long) (/lib/libasan.so.8+0xb89cf)
    #1 0x55a22c9bd1a6 in main kinds.c:42

SUMMARY: LeakSanitizer: 6000 byte(s) leaked in 40 allocation(s).
"""


def test_a_report_of_valgrind() -> None:
    log = parse_memcheck(MEMCHECK.encode(), "log")
    assert (log.checker, log.pid, log.command, log.other_errors) == ("valgrind 3.19.0", 77, "the server", 1)
    definite, indirect = log.records
    assert (definite.bytes, definite.blocks, definite.indirect_bytes) == (2000, 20, 8000)
    assert [(f.function, f.file, f.line, f.module) for f in definite.stack] == [("lose(int)", "/src/a.c", 17, "the server")]
    assert (indirect.kind, indirect.bytes) == ("indirect", 8000)
    summary = checker_summary(log)
    assert summary.possible is not None
    assert (summary.definite, summary.possible.blocks) == (summary.definite, 0)
    (finding,) = checker_findings(log)
    assert finding.location is not None
    assert (finding.location.line, finding.confidence) == (17, "high")


def test_a_report_of_leaksanitizer() -> None:
    report = parse_sanitizer(SANITIZER.encode(), "log")
    (log,) = report.logs
    definite, indirect = log.records
    assert (log.pid, definite.bytes, definite.blocks) == (23161, 2000, 20)
    assert [(f.function, f.line, f.module) for f in definite.stack] == [
        ("std::vector<int, A b>::lose(int) /work", 17, "kinds"),
        (None, None, "kinds-s"),
    ]
    assert definite.stack[0].build_id == "00ff"
    assert [f.function for f in indirect.stack] == ["main"]
    assert checker_summary(log).possible is None, "LeakSanitizer has no such kind"


def test_several_reports_in_one_log() -> None:
    twice = parse_sanitizer((SANITIZER + SANITIZER.replace("23161", "23162")).encode(), "log")
    assert [log.pid for log in twice.logs] == [23161, 23162]
    errors = parse_sanitizer(b"==9==ERROR: AddressSanitizer: heap-use-after-free on address 0x1\n", "log")
    assert [(log.pid, log.other_errors) for log in errors.logs] == [(9, 1)]
    assert parse_sanitizer(b"LeakSanitizer has encountered a fatal error.\n", "log").failed


def test_reports_that_are_cut_short() -> None:
    with pytest.raises(ParseError, match="cut short"):
        parse_sanitizer(SANITIZER[: SANITIZER.index("SUMMARY")].encode(), "log")
    with pytest.raises(ParseError, match="not valgrind"):
        parse_memcheck(MEMCHECK[:800].encode(), "log")
    with pytest.raises(ParseError, match="not the output"):
        parse_memcheck(b"<html/>", "log")
    with pytest.raises(ParseError):
        parse_memcheck(MEMCHECK.replace("<leakedblocks>20", "<leakedblocks>-20").encode(), "log")


@given(st.integers(0, len(MEMCHECK)), st.binary(max_size=8))
def test_damaged_xml(at: int, junk: bytes) -> None:
    with suppress(ParseError):
        parse_memcheck(MEMCHECK.encode()[:at] + junk + MEMCHECK.encode()[at + len(junk) :], "log")


@given(st.lists(st.sampled_from(SANITIZER.splitlines()) | st.text(max_size=60), max_size=12))
def test_damaged_logs(lines: list[str]) -> None:
    with suppress(ParseError):
        report = parse_sanitizer("\n".join(lines).encode(errors="surrogatepass"), "log")
        for log in report.logs:
            assert all(record.bytes >= 0 for record in log.records)
            checker_findings(log)
