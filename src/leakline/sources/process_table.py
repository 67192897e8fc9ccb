"""All processes at the price of reading their files: the kernel's page-table walk in smaps_rollup is most of it.

`ps --json` is done before the library of records would be loaded: what makes records here imports them when it does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from leakline.errors import NotPossible, ParseError, TargetGone

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from leakline.model.accounting import Coverage, ProcessMemory
    from leakline.sources.machine import Machine
    from leakline.sources.one_process import ProcessReader

Fields = tuple[Any, ...]
"""The fields of a ProcessMemory, in its order."""
FIELDS = (
    *("pid", "ppid", "user", "command", "cmdline", "vss", "rss", "pss", "uss", "swap", "swap_pss", "pss_anon", "pss_file"),
    *("pss_shmem", "lazy_free", "thp", "hugetlb", "locked", "ksm", "threads", "start_ticks", "started", "page_tables", "vmas"),
    *("cgroup", "container"),
)
_MOST_DIGITS = 18
_DEMANDED = {"page_tables": "status", "vmas": "maps", "cgroup": "cgroup", "container": "cgroup"}


class ProcessTableReader:
    """Reads all processes of a machine.

    Args:
        machine: whose.
        demanded: fields that take another file each: page_tables, vmas, cgroup, container, started.
        gentle: look at no page table for longer than a moment: RSS and swap only, no PSS and no USS.

    """

    def __init__(self, machine: Machine, demanded: Collection[str] = (), *, gentle: bool = False) -> None:
        self._machine = machine
        self._demanded = {name: _DEMANDED[name] for name in demanded if name in _DEMANDED}
        self._boot_time = _boot_time(machine) if "started" in demanded else None
        self._gentle = gentle
        self._vanished = self._kernel_threads = self._zombies = self._readable = self._seen = 0

    def read(self) -> tuple[list[ProcessMemory], Coverage]:
        """One pass."""
        from leakline.model.accounting import Coverage, ProcessMemory

        rows = self.read_fields()
        # By position: by name a record of so many fields takes ten times as long to make.
        return [ProcessMemory(*row) for row in rows], Coverage(**self.seen())

    def seen(self) -> dict[str, int]:
        """How much the passes so far saw: the fields of Coverage."""
        return {
            "seen": self._seen - self._kernel_threads,
            "readable": self._readable,
            "vanished": self._vanished,
            "kernel_threads": self._kernel_threads,
            "zombies": self._zombies,
        }

    def read_fields(self) -> list[Fields]:
        """One pass, without making records."""
        proc = os.open(self._machine.proc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            rows, left = self._in_c(proc)
            return rows + self._one_by_one(proc, left) if left else rows
        finally:
            os.close(proc)

    def _in_c(self, proc: int) -> tuple[list[Fields], list[str]]:
        """The ordinary ones, and the names of those that are left."""
        if self._machine.live and not self._demanded and not self._gentle:
            try:
                from leakline.native.processes import read_processes

                found, names = read_processes(proc, self._machine.page_size)
            except NotPossible:
                pass
            else:
                return self._of_c(found, names)
        return [], [name for name in os.listdir(proc) if name.isdigit()]

    def _of_c(self, found: Iterable[tuple[int, ...]], names: bytes) -> tuple[list[Fields], list[str]]:
        from leakline.native.processes import KERNEL_THREAD, LEFT, READ, UNREADABLE, ZOMBIE

        rows: list[Fields] = []
        left = []
        counts = [0] * (LEFT + 1)
        user, ticks, boot_time = self._machine.user, self._machine.ticks_per_second, self._boot_time
        ascii_names = names.decode("latin-1")
        for status, at, length, end, plain, pid, ppid, uid, *rest in found:
            counts[status] += 1
            if status > UNREADABLE:
                if status == LEFT:
                    left.append(str(pid))
                continue
            middle = at + length
            cmdline: str | None
            if plain:
                command, cmdline = ascii_names[at:middle], None if end < 0 else ascii_names[middle:end]
            else:
                command = names[at:middle].decode("utf-8", "backslashreplace")
                cmdline = None if end < 0 else names[middle:end].decode("utf-8", "backslashreplace")
            values: Sequence[int | None] = [None if value < 0 else value for value in rest] if -1 in rest else rest
            started = None if boot_time is None else boot_time + rest[-1] / ticks
            rows.append((pid, ppid, user(uid), command, cmdline, *values, started, None, None, None, None))
        self._kernel_threads += counts[KERNEL_THREAD]
        self._zombies += counts[ZOMBIE]
        self._readable += counts[READ]
        self._seen += sum(counts) - counts[LEFT]
        return rows, left

    def _one_by_one(self, proc: int, names: Sequence[str]) -> list[Fields]:
        reader = self._reader()
        rows = []
        for name in names:
            self._seen += 1
            try:
                folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
            except (FileNotFoundError, ProcessLookupError):
                self._vanished += 1
                continue
            except OSError:
                continue  # seen, but hidden from us (hidepid)
            # The descriptor belongs to this process: a later one of the same number answers ESRCH through it.
            try:
                row = reader.read(int(name), folder)
            except (FileNotFoundError, ProcessLookupError, ParseError):
                self._vanished += 1
                continue
            finally:
                os.close(folder)
            if row is not None:
                rows.append(row)
        self._readable += reader.readable
        self._kernel_threads += reader.kernel_threads
        self._zombies += reader.zombies
        return rows

    def _reader(self) -> ProcessReader:
        from leakline.sources.one_process import ProcessReader

        return ProcessReader(self._machine, self._demanded, self._boot_time, gentle=self._gentle)

    def read_one(self, pid: int) -> ProcessMemory:
        """One process.

        Raises:
            TargetGone: there is none, or it has no memory of its own.

        """
        from leakline.model.accounting import ProcessMemory
        from leakline.sources.procfs import translated

        with translated(pid, "look at the files"):
            folder = os.open(self._machine.proc / str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                row = self._reader().read(pid, folder)
            finally:
                os.close(folder)
        if row is None:
            raise TargetGone(f"process {pid} has no memory of its own: it has ended, or is a kernel thread")
        return ProcessMemory(*row)


def _boot_time(machine: Machine) -> int | None:
    try:
        words = (b"\n" + (machine.proc / "stat").read_bytes()).partition(b"\nbtime ")[2].split(maxsplit=1)
    except OSError:
        return None
    return int(words[0]) if words and words[0].isdigit() and len(words[0]) <= _MOST_DIGITS else None
