"""Processes that are looked at again and again, each through a folder of /proc that is held open.

An open folder belongs to its process: a later process of the same number answers ESRCH through it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from leakline.model.names import readable
from leakline.model.recording import ProcessAmounts, ProcessIdentity
from leakline.sources.parsing import text
from leakline.sources.process_files import memory_cgroup, parse_stat
from leakline.sources.rollup import Rollup, slurp

if TYPE_CHECKING:
    from leakline.sources.machine import Machine

_STATUS = {b"RssAnon:": 0, b"RssFile:": 1, b"RssShmem:": 2, b"VmPTE:": 3, b"VmRSS:": 4, b"VmSwap:": 5}


class ProcessProbe:
    """Reads the files of processes.

    Args:
        machine: whose.

    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._proc = os.open(machine.proc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._rollup = Rollup()

    def close(self) -> None:
        """Let go of /proc."""
        os.close(self._proc)

    def pids(self) -> set[int]:
        """All processes and kernel threads that are visible here."""
        return {int(name) for name in os.listdir(self._proc) if name.isdigit()}

    def open(self, pid: int) -> int:
        """The folder of a process.

        Raises:
            OSError: there is none, or it is hidden.

        """
        return os.open(str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._proc)

    def identify(self, folder: int) -> ProcessIdentity | None:
        """Which process it is; None for a kernel thread and for one that has ended.

        Raises:
            OSError: it has ended, or may not be read.

        """
        stat = parse_stat(slurp("stat", folder))
        if stat.is_kernel_thread or stat.is_zombie:
            return None
        cmdline = slurp("cmdline", folder).rstrip(b"\0")
        try:
            cgroup = memory_cgroup(slurp("cgroup", folder))
        except FileNotFoundError:  # a kernel without control groups
            cgroup = None
        return ProcessIdentity(
            pid=stat.pid,
            start_ticks=stat.start_ticks,
            ppid=stat.ppid,
            user=self._machine.user(os.fstat(folder).st_uid),
            command=readable(stat.command),
            cmdline=readable(text(cmdline.replace(b"\0", b" "))) if cmdline else None,
            cgroup=cgroup,
        )

    @staticmethod
    def statm(folder: int) -> bytes:
        """/proc/PID/statm as it is: if it has not changed, hardly anything has. Empty once its memory is gone.

        Raises:
            OSError: it has ended.

        """
        data = slurp("statm", folder)
        return b"" if data.startswith(b"0 0 0 ") else data

    def amounts(self, folder: int) -> tuple[str, ProcessAmounts]:
        """Its command, which exec changes, and what it holds now: this walks its page tables.

        Raises:
            OSError: it has ended.
            ParseError: a file has another form.

        """
        stat = parse_stat(slurp("stat", folder))
        anon, file, shmem, page_tables, rss, swap = _from_status(slurp("status", folder))
        uss = pss = None
        try:
            values = self._rollup.values(slurp("smaps_rollup", folder))
        except PermissionError:
            pass
        else:
            rss, pss, swap = values[0], values[1], values[4]
            if values[2] is not None and values[3] is not None:
                uss = values[2] + values[3] + (values[13] or 0)
        faults = stat.minor_faults, stat.major_faults
        return readable(stat.command), ProcessAmounts(uss, pss, rss, swap, anon, file, shmem, page_tables, *faults)


def _from_status(data: bytes) -> list[int | None]:
    """Bytes, in the order of _STATUS."""
    found: list[int | None] = [None] * len(_STATUS)
    for line in data.split(b"\n"):
        key, _, value = line.partition(b"\t")
        place = _STATUS.get(key)
        if place is not None:
            number = value.split()
            found[place] = int(number[0]) << 10 if number and number[0].isdigit() else None
    return found
