from __future__ import annotations

import pytest

from leakline.session.interruption import Interruption
from leakline.session.tracing import BpfRecorder
from leakline.sources.bpf import EVERYTHING, RecordingOptions
from leakline.sources.procfs import ProcFs
from tests.conftest import Build, Leakline, Start, assert_unharmed


def line_of(source: str, marker: str) -> int:
    from tests.conftest import TARGETS

    lines = (TARGETS / source).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if marker in line)


@pytest.mark.parametrize("via", ["bpf", "breakpoint"])
@pytest.mark.parametrize(
    "flags",
    [
        ("-g", "-O0"),
        ("-g", "-O2", "-fomit-frame-pointer"),
        pytest.param(("-g", "-O2", "-no-pie"), marks=pytest.mark.slow),
    ],
)
def test_the_caller_is_exact(
    build: Build, start: Start, leakline: Leakline, via: str, flags: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    if via == "bpf":
        request.getfixturevalue("needs_bpf")
    program = start(build("loses.c", *flags))
    leakline("scan", program.pid)  # by then something is lost
    report = leakline("trace", program.pid, "--via", via, "-d", "3", "--json").json
    assert_unharmed(program)
    (finding,) = [f for f in report["findings"] if f["kind"] == "definite"]
    assert (finding["location"]["function"], finding["location"]["line"]) == ("lose", line_of("loses.c", "malloc(5000)"))
    assert finding["location_is"] == "recorded"
    low, high = finding["rate_interval"]
    assert low / 5008 < 60
    assert high / 5008 > 15


def test_inlined_functions_are_frames_of_their_own(build: Build, start: Start, leakline: Leakline, needs_bpf: None) -> None:
    program = start(build("inlined.c", "-g", "-O2"))
    report = leakline("trace", program.pid, "-d", "1", "--json").json
    (finding,) = [f for f in report["findings"] if f["kind"] == "definite"]
    line = line_of("inlined.c", "/* the line */")
    assert finding["location"]["line"] == line
    first, second = finding["stack"][:2]
    assert (first["function"], first["inlined"], first["line"]) == ("take", True, line)
    assert (second["function"], second["inlined"]) == ("service_handle", False)


@pytest.mark.parametrize("via", ["bpf", "breakpoint"])
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(("-g", "-O0"), marks=pytest.mark.slow),
        ("-g", "-O2"),
        pytest.param(("-g", "-O2", "-fno-omit-frame-pointer"), marks=pytest.mark.slow),
    ],
)
def test_the_line_behind_a_library_is_exact(
    build: Build, start: Start, leakline: Leakline, via: str, flags: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    """libstdc++ and libc keep no frame pointers: a walk by them would name the caller's caller."""
    if via == "bpf":
        request.getfixturevalue("needs_bpf")
    program = start(build("library.cpp", *flags))
    leakline("scan", program.pid)  # by then something is lost
    report = leakline("trace", program.pid, "--via", via, "-d", "4", "--json").json
    found = {f["location"]["line"]: f for f in report["findings"] if f["kind"] == "definite" and f["location"]}
    for marker in ("// by new", "// by strdup", "// by string"):
        finding = found[line_of("library.cpp", marker)]
        assert finding["location_is"] == "recorded"
        assert "main" in [frame["function"] for frame in finding["stack"]]


def test_what_is_held_is_reachable_and_no_reason_to_fail(build: Build, start: Start, leakline: Leakline, needs_bpf: None) -> None:
    program = start(build("clean.c"))
    report = leakline("trace", program.pid, "-d", "1", "--json", "--fail-on", "low").json
    assert {f["kind"] for f in report["findings"]} <= {"reachable"}
    assert report["findings"], "the ring's blocks were allocated meanwhile"


def test_small_requests_can_be_left_out(build: Build, start: Start, needs_bpf: None) -> None:
    program = start(build("clean.c"))
    with BpfRecorder(ProcFs(), program.pid, Interruption(), RecordingOptions(min_size=3000)) as recorder:
        for _ in range(20):
            recorder.wait(0.5)
            trace = recorder.trace()
            if trace.allocations:
                break
    assert trace.allocations
    assert min(a.size or 0 for a in trace.allocations) >= 3000


def test_frees_are_seen(build: Build, start: Start, needs_bpf: None) -> None:
    program = start(build("clean.c"))
    with BpfRecorder(ProcFs(), program.pid, Interruption(), EVERYTHING) as recorder:
        recorder.wait(0.5)
        trace = recorder.trace()
    assert trace.seen > 500
    # A ring of 64, and what came and went while the map was read: the program runs on meanwhile.
    assert len(trace.allocations) < 250
    assert trace.lost == 0


def test_breakpoints_have_nothing_to_look_for_while_nothing_is_lost(build: Build, start: Start, leakline: Leakline) -> None:
    program = start(build("clean.c"))
    result = leakline("trace", program.pid, "--via", "breakpoint", "-d", "1", status=5)
    assert "nothing is lost yet" in result.err
