from __future__ import annotations

import pytest

from leakline.errors import PermissionNeeded
from leakline.session.fault_growth import watch_growth
from leakline.session.interruption import Interruption
from leakline.sources.fault_events import FaultEvents
from leakline.sources.procfs import ProcFs
from tests.conftest import TARGETS, UNPRIVILEGED, Build, Leakline, Start, assert_unharmed


def line_of(marker: str) -> int:
    lines = (TARGETS / "grows.c").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if f"/* {marker} */" in line)


@pytest.mark.parametrize(
    "how", ["malloc", pytest.param("mmap", marks=pytest.mark.slow), pytest.param("mixed", marks=pytest.mark.slow)]
)
def test_the_growing_line_is_named_without_privilege(build: Build, start: Start, unprivileged_leakline: Leakline, how: str) -> None:
    program = start(*UNPRIVILEGED, str(build("grows.c", "-g", "-O2", "-fomit-frame-pointer")), how)
    report = unprivileged_leakline("trace", program.pid, "--via", "faults", "-d", "2.5", "--json").json
    assert_unharmed(program)
    finding = report["findings"][0]
    assert finding["kind"] == "growing"
    assert finding["location"]["function"] == ("map" if how == "mmap" else "take")
    if how == "mmap":  # of a block of malloc's, malloc itself touches the first page
        assert finding["location"]["line"] == line_of("MMAP")
    assert finding["location_is"] == "recorded"
    assert [frame["function"] for frame in finding["stack"] if (frame["file"] or "").endswith("grows.c")][-1] == "main"
    assert finding["subject"]["type"] == ("mapping" if how == "mmap" else "heap")
    # 100 blocks of 8 KiB a second, if nothing disturbs it.
    assert finding["bytes"] > 40 * 8192
    low, high = finding["rate_interval"]
    assert low <= finding["rate_bytes_per_second"] <= high
    given_back = [f for f in report["findings"] if f["location"] and f["location"]["line"] == line_of("GIVEN BACK")]
    assert all(f["kind"] != "growing" for f in given_back)


def test_where_it_is_not_allowed_the_command_that_helps_is_named(
    build: Build, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # kernel.perf_event_paranoid is the whole machine's: the kernel's refusal is feigned.
    def refuse(*_: object) -> int:
        raise PermissionNeeded("not allowed", hint="sudo sysctl kernel.perf_event_paranoid=2")

    monkeypatch.setattr(FaultEvents, "_open", refuse)
    program = start(build("grows.c", "-g", "-O2", "-fomit-frame-pointer"), "malloc")
    with pytest.raises(PermissionNeeded) as refused:
        watch_growth(ProcFs(), program.pid, 1, interruption=Interruption(), say=lambda _: None)
    assert "perf_event_paranoid" in refused.value.hint
    assert refused.value.exit_code == 3
