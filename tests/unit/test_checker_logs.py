"""What valgrind and the sanitizers write, whole and damaged."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.analysis.checker_findings import checker_findings, checker_summary
from leakline.errors import ParseError
from leakline.formats.memcheck import parse_memcheck
from leakline.formats.memcheck_text import looks_like_memcheck_text, parse_memcheck_text
from leakline.formats.sanitizer import looks_like_sanitizer, parse_sanitizer

MEMCHECK = """<?xml version="1.0"?>
<valgrindoutput><protocolversion>4</protocolversion><protocoltool>memcheck</protocoltool>
<preamble><line>Using Valgrind-3.19.0 and LibVEX; rerun with -h for copyright info</line></preamble>
<pid>77</pid><ppid>1</ppid><tool>memcheck</tool><args><argv><exe>/opt/the server</exe></argv></args>
<error><unique>0x0</unique><tid>1</tid><kind>InvalidRead</kind><what>Invalid read of size 4</what><stack></stack></error>
<error><unique>0x1</unique><tid>1</tid><kind>Leak_DefinitelyLost</kind>
<xwhat><text>10,000 (2,000 direct, 8,000 indirect) bytes in 20 blocks are definitely lost in loss record 4 of 5</text>
<leakedbytes>10000</leakedbytes><leakedblocks>20</leakedblocks></xwhat>
<stack><frame><ip>0x48417B4</ip><obj>/usr/libexec/valgrind/vgpreload_memcheck-amd64-linux.so</obj><fn>malloc</fn></frame>
<frame><ip>0x1091ED</ip><obj>/opt/the server</obj><fn>lose(int)</fn><dir>/src</dir><file>a.c</file>
<line>17</line></frame></stack></error>
<error><unique>0x2</unique><tid>1</tid><kind>Leak_IndirectlyLost</kind>
<xwhat><text>8,000 bytes in 40 blocks are indirectly lost in loss record 5 of 5</text>
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

TEXT = """\
noise of the program
==77== Memcheck, a memory error detector
==77== Using Valgrind-3.19.0 and LibVEX; rerun with -h for copyright info
==77== Command: /opt/server --port 80
==77== Invalid read of size 4
==77==    at 0x109186: main (a.c:9)
==77== HEAP SUMMARY:
==77==     in use at exit: 14,300 bytes in 72 blocks
==77==
==77== 1,500 bytes in 1 blocks are possibly lost in loss record 1 of 5
==77==    at 0x48417B4: malloc (in /usr/libexec/valgrind/vgpreload_memcheck-amd64-linux.so)
==77==    by 0x1091ED: ??? (in /opt/server)
==77==    by 0x48F1249: start (in /usr/lib/lib (x).so.1)
==77==    by 0x4882249: (below main) (libc_start_call_main.h:58)
==77==
==77== 10,000 (2,000 direct, 8,000 indirect) bytes in 20 blocks are definitely lost in loss record 5 of 5
==77==    at 0x483AE63: operator new(unsigned long) (vg_replace_malloc.c:342)
==77==    by 0x10918A: std::vector<int, std::allocator<int> >::grow(int) (a b.cpp:17)
==77==
==77== LEAK SUMMARY:
==77==    definitely lost: 2,000 bytes in 20 blocks
==77==    indirectly lost: 8,000 bytes in 40 blocks
==77==      possibly lost: 1,500 bytes in 1 blocks
==77==    still reachable: 2,800 bytes in 7 blocks
==77==         suppressed: 0 bytes in 0 blocks
==77== ERROR SUMMARY: 3 errors from 3 contexts (suppressed: 1 from 1)
--77-- used_suppression:      2 known one /a.supp:2 suppressed: 4,300 bytes in 12 blocks
--77-- used_suppression:      1 no leak /a.supp:9
"""


def test_valgrinds_text() -> None:
    (log,) = parse_memcheck_text(TEXT.encode(), "log")
    assert (log.checker, log.pid, log.command, log.other_errors) == ("valgrind 3.19.0", 77, "server", 1)
    possible, definite = log.records
    assert [(f.function, f.module, f.address) for f in possible.stack] == [
        (None, "server", 0x11ED),
        ("start", "lib (x).so.1", None),
        ("(below main)", None, None),
    ]
    assert (definite.bytes, definite.indirect_bytes, definite.blocks) == (2000, 8000, 20)
    assert [(f.function, f.file, f.line) for f in definite.stack] == [
        ("std::vector<int, std::allocator<int> >::grow(int)", "a b.cpp", 17)
    ]
    assert [(rule.rule, rule.bytes, rule.blocks) for rule in log.suppressed] == [("known one /a.supp:2", 4300, 12)]
    summary = checker_summary(log)
    assert summary.indirect is not None
    assert summary.indirect.blocks == 40, "from the log's own sums: their records are not shown without --show-leak-kinds"
    assert log.problems == ()


def test_valgrinds_text_of_several_processes_and_checks() -> None:
    stamped = TEXT.replace("==77==", "==00:00:01:02.345 78==")
    first, second = parse_memcheck_text((TEXT + stamped).encode(), "log")
    assert (first.pid, second.pid, len(second.records)) == (77, 78, 2)
    (twice,) = parse_memcheck_text((TEXT + TEXT[TEXT.index("==77== 1,500") :]).encode(), "log")
    assert len(twice.records) == 2, "the last check alone counts"
    (clean,) = parse_memcheck_text(b"==5== All heap blocks were freed -- no leaks are possible\n", "log")
    total = checker_summary(clean).definite
    assert total is not None
    assert total.blocks == 0


def test_valgrinds_text_that_is_not_whole() -> None:
    (cut,) = parse_memcheck_text(TEXT[: TEXT.index("==77== LEAK")].encode(), "log")
    assert "did not come to its leak check" in cut.problems[0]
    assert checker_summary(cut).definite is None
    (sums,) = parse_memcheck_text((TEXT[: TEXT.index("==77== 1,500")] + TEXT[TEXT.index("==77== LEAK") :]).encode(), "log")
    assert "--leak-check=full" in sums.problems[0]
    for data in (b"", b"==77== nothing\n"):
        assert not looks_like_memcheck_text(data)
        with pytest.raises(ParseError):
            parse_memcheck_text(data, "log")


@given(st.lists(st.sampled_from(TEXT.splitlines()) | st.text(max_size=60), max_size=16))
def test_damaged_text(lines: list[str]) -> None:
    with suppress(ParseError):
        for log in parse_memcheck_text("\n".join(lines).encode(errors="surrogatepass"), "log"):
            checker_findings(log)
            assert all(record.bytes >= 0 for record in log.records)


@given(st.integers(0, len(TEXT)), st.text(max_size=8))
def test_text_with_damage(at: int, junk: str) -> None:
    with suppress(ParseError):
        for log in parse_memcheck_text((TEXT[:at] + junk + TEXT[at + len(junk) :]).encode(errors="surrogatepass"), "log"):
            checker_findings(log)


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


def test_the_last_of_several_checks_counts() -> None:
    start, end = MEMCHECK.index("<error><unique>0x1"), MEMCHECK.index("</valgrindoutput>")
    twice = parse_memcheck((MEMCHECK[:end] + MEMCHECK[start:end] + MEMCHECK[end:]).encode(), "log")
    assert twice.records == parse_memcheck(MEMCHECK.encode(), "log").records


def test_calls_on_one_line_are_one_finding() -> None:
    (log,) = parse_sanitizer(
        SANITIZER.replace("Indirect", "Direct").replace("kinds.c:42", "kinds.c:42 (kinds+0x9)").encode(), "log"
    ).logs
    again = msgspec.structs.replace(log, records=(*log.records, *log.records))
    other = tuple(
        msgspec.structs.replace(
            record, stack=tuple(msgspec.structs.replace(frame, address=7) if frame.function else frame for frame in record.stack)
        )
        for record in log.records
    )
    assert (
        len(checker_findings(msgspec.structs.replace(again, records=(*again.records, *other)))) == len(checker_findings(log)) == 2
    )


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


def test_what_else_sanitizers_write() -> None:
    clang = (
        "\x1b[1m==5==ERROR: LeakSanitizer: detected memory leaks\x1b[0m\n"
        "Direct leak of 7 byte(s) in 1 object(s) allocated from:\n"
        "    #0 0x5602d288016e in __interceptor_malloc (/tmp/a (b)/app+0xa416e) (BuildId: 00ff) (app+0xa416e) (BuildId: 00ff)\n"
        "    #1 0x55ac97bff751  (/tmp/a (b)/app+0x33751) (BuildId: 4cf1) (/tmp/a (b)/app+0x33751)\n"
        "    #2 0x55ac97bff751 in main (/tmp/a (b)/app+0x33752) (BuildId: 4cf1)\n"
        "Suppressions used:\n  count      bytes template\n      3        300 lose_*\n"
        "SUMMARY: LeakSanitizer: 7 byte(s) leaked in 1 allocation(s).\n"
    )
    (log,) = parse_sanitizer(clang.encode(), "log").logs
    assert [(f.function, f.module, f.address, f.build_id) for f in log.records[0].stack] == [
        (None, "app", 0x33751, "4cf1"),
        ("main", "app", 0x33752, "4cf1"),
    ]
    assert (log.command, log.modules) == ("app", (("app", "/tmp/a (b)/app"),))
    assert [(rule.rule, rule.bytes, rule.blocks) for rule in log.suppressed] == [("leak:lose_*", 300, 3)]
    ended = parse_sanitizer(b"==9==ERROR: AddressSanitizer: SEGV on unknown address\n==9==ABORTING\n", "log")
    assert (ended.aborted, ended.logs[0].checker, ended.logs[0].knows) == ((9,), "AddressSanitizer", ())
    assert parse_sanitizer(b"==9==Processing thread 8.\n", "log").checked
    both = parse_sanitizer((SANITIZER[: SANITIZER.index("SUMMARY")] + SANITIZER).encode(), "log")
    assert len(both.logs) == 1
    assert "cut short" in both.problems[0]
    assert looks_like_sanitizer(SANITIZER.encode())
    assert not looks_like_sanitizer(TEXT.encode())


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
