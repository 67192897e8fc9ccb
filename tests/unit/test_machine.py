"""Machines that were captured: folders and archives, hostile ones too."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakline.errors import InvalidRequest, LeaklineError, ParseError
from leakline.session.machine_memory import read_system
from leakline.session.mappings import read_mappings
from leakline.session.processes import process_table, read_processes
from leakline.sources.captured import DESCRIPTION, opened
from leakline.sources.machine import Machine
from tests.unit.test_maps import ROLLUP

MEMINFO = b"MemTotal: 1000 kB\nMemFree: 400 kB\n"
STAT = b"7 (big one) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 500 1048576 16 18446744073709551615 0 0\n"
STATUS = b"Name:\tbig\nUid:\t1000\t1000\t1000\t1000\nTracerPid:\t0\n"
SMAPS = (
    b"10000-30000 rw-p 00000000 00:00 0                          [heap]\nSize:                128 kB\nKernelPageSize:       64 kB\n"
    + ROLLUP.split(b"\n", 1)[1]
    + b"VmFlags: rd wr mr mw me ac sd\n"
)


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def test_an_archive_by_smemcap_from_a_machine_with_large_pages(tmp_path: Path) -> None:
    files = {
        "meminfo": MEMINFO,
        "version": b"Linux",
        "7/smaps": SMAPS,
        "7/stat": STAT,
        "7/cmdline": b"big\0one\0",
        "7/status": STATUS,
    }
    with opened(archive(tmp_path / "memory.tar", files)) as machine:
        assert (machine.live, machine.page_size) == (False, 65536)
        (row,), coverage = read_processes(machine)
        assert (row.pid, row.user, row.cmdline, row.command) == (7, "1000", "big one", "big one")
        assert (row.rss, row.uss, row.swap_pss) == (1024 << 10, 720 << 10, 32 << 10), "without smaps_rollup"
        assert row.vss == 1048576
        assert (coverage.seen, coverage.readable, coverage.vanished) == (1, 1, 0)
        assert read_system(machine).mem_total == 1000 << 10
        folder = machine.proc
    assert not folder.exists()


def test_what_a_capture_lacks_was_unreadable(tmp_path: Path) -> None:
    files = {"proc/meminfo": MEMINFO, "proc/7/stat": STAT, "proc/7/status": STATUS, "proc/7/cmdline": b""}
    with opened(archive(tmp_path / "memory.tar", files)) as machine:
        (row,), coverage = read_processes(machine)
        assert (row.pss, row.uss) == (None, None)
        assert row.rss == 16 * machine.page_size, "of stat, in this machine's pages"
        assert coverage.unreadable == 1
        with pytest.raises(LeaklineError):
            read_mappings(machine, 7)


@pytest.mark.parametrize(("config", "estimated"), [(b"CONFIG_NO_PAGE_MAPCOUNT=y\n", True), (b"# nothing\n", False), (None, None)])
def test_a_kernel_that_only_estimates_pss_is_named(tmp_path: Path, config: bytes | None, estimated: bool | None) -> None:
    files = {"proc/meminfo": MEMINFO, "proc/sys/kernel/osrelease": b"6.16.0\n"}
    if config is not None:
        files["boot/config-6.16.0"] = config
    with opened(archive(tmp_path / "memory.tar", files)) as machine:
        rows, coverage = read_processes(machine)
        assert process_table(machine, rows, coverage).pss_is_estimate is estimated


@pytest.mark.parametrize("name", ["../outside", "/etc/absolute", "proc/../../outside"])
def test_an_archive_that_would_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParseError), opened(archive(tmp_path / "evil.tar", {"proc/meminfo": MEMINFO, name: b"x"})):
        pass
    assert not (tmp_path.parent / "outside").exists()


def test_links_and_devices_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("proc/meminfo")
        link.type, link.linkname = tarfile.SYMTYPE, "/proc/meminfo"
        tar.addfile(link)
    with pytest.raises(InvalidRequest), opened(path):
        pass


def test_what_is_no_capture(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest), opened(tmp_path):
        pass
    with pytest.raises(InvalidRequest), opened(tmp_path / "none"):
        pass
    damaged = archive(tmp_path / "d.tar", {"proc/meminfo": MEMINFO, DESCRIPTION: b"{}"})
    with pytest.raises(ParseError), opened(damaged):
        pass
    assert Machine().live


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=2000), cut=st.integers(0, 10240))
def test_a_hostile_archive_is_read_or_refused(tmp_path: Path, data: bytes, cut: int) -> None:
    whole = archive(tmp_path / "whole.tar", {"proc/meminfo": MEMINFO, "proc/7/stat": data}).read_bytes()
    for content in (data, whole[:cut], whole[:cut] + data, b"\x1f\x8b" + data):
        path = tmp_path / "hostile.tar"
        path.write_bytes(content)
        try:
            with opened(path) as machine:
                read_processes(machine)
        except LeaklineError:
            continue


def test_a_damaged_configuration_is_none(tmp_path: Path) -> None:
    with opened(archive(tmp_path / "m.tar", {"proc/meminfo": MEMINFO, "proc/config.gz": b"\x1f\x8b\x08damaged"})) as machine:
        assert machine.kernel_option("NO_PAGE_MAPCOUNT") is None
