from __future__ import annotations

import os
from pathlib import Path

import pytest

from leakline.errors import NotPossible, ParseError, PermissionNeeded, TargetGone
from leakline.model.names import readable
from leakline.session.targets import require_readable, select
from leakline.sources.procfs import ProcFs, translate
from tests.unit.test_maps import ROLLUP
from tests.unit.test_process_files import STAT


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    for pid, command, flags in ((42, b"server", b"4194560"), (2, b"kthreadd", b"2129984"), (77, b"evil\x1b[31m", b"4194560")):
        folder = tmp_path / str(pid)
        (folder / "task" / str(pid)).mkdir(parents=True)
        (folder / "stat").write_bytes(STAT.replace(b"42 (", f"{pid} (".encode()).replace(b"4194560", flags) % command)
        (folder / "status").write_bytes(b"Uid:\t1000\t0\t0\t0\nTracerPid:\t0\n")
        (folder / "cmdline").write_bytes(b"/opt/bin/" + command + b"\0--port\0" + b"\0")
        (folder / "smaps_rollup").write_bytes(ROLLUP)
        (folder / "maps").write_bytes(b"")
    (tmp_path / "meminfo").write_bytes(b"MemTotal: 100 kB\nMemFree: 50 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n")
    return tmp_path


def test_a_root_can_be_anywhere(proc: Path) -> None:
    procfs = ProcFs(proc)
    assert procfs.pids() == [2, 42, 77]
    assert procfs.stat(42).command == "server"
    assert procfs.arguments(42) == ["/opt/bin/server", "--port", ""]
    assert procfs.usage(42).uss == 720 << 10
    assert procfs.memory().available is None
    assert procfs.threads(42) == [42]


def test_targets_are_selected_by_name_and_pid(proc: Path) -> None:
    procfs = ProcFs(proc)
    assert select(procfs, [], "^serv") == [42]
    assert select(procfs, [77, 77], "server") == [77, 42]
    with pytest.raises(TargetGone):
        select(procfs, [], "kthreadd")


def test_what_cannot_be_a_target(proc: Path) -> None:
    procfs = ProcFs(proc)
    require_readable(procfs, 42)
    with pytest.raises(NotPossible, match="kernel thread"):
        require_readable(procfs, 2)
    with pytest.raises(TargetGone, match="there is no process 43"):
        require_readable(procfs, 43)
    (proc / "42/stat").write_bytes(STAT.replace(b" S ", b" Z ") % b"server")
    with pytest.raises(TargetGone, match="zombie"):
        require_readable(procfs, 42)


@pytest.mark.parametrize(
    ("number", "error"), [(2, TargetGone), (3, TargetGone), (1, PermissionNeeded), (13, PermissionNeeded), (5, NotPossible)]
)
def test_what_the_kernel_answers_becomes_our_error(number: int, error: type[Exception]) -> None:
    assert type(translate(OSError(number, os.strerror(number)), 1, "read maps")) is error


def test_a_file_that_is_not_what_it_should_be(proc: Path) -> None:
    (proc / "42/stat").write_bytes(b"42 (serv")
    with pytest.raises(ParseError):
        ProcFs(proc).stat(42)


def test_names_that_are_not_utf8_can_stand_in_json() -> None:
    assert readable(b"a\xff".decode("utf-8", "surrogateescape")) == "a\\xff"
