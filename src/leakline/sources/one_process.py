"""One process by its files in an open folder of /proc: whatever may be behind it, on every kernel, and in captures."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from leakline.errors import ParseError
from leakline.model.names import readable
from leakline.sources.maps import parse_smaps
from leakline.sources.parsing import integer, text
from leakline.sources.process_files import memory_cgroup, parse_stat
from leakline.sources.rollup import KEYS, Rollup, slurp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from leakline.model.vma import VmaUsage
    from leakline.sources.machine import Machine
    from leakline.sources.process_table import Fields


class ProcessReader:
    """Reads processes one by one, and counts what they are.

    Args:
        machine: whose.
        demanded: the file that a field takes, for fields that take another one.
        boot_time: seconds since 1970; None where the start is not wanted.
        gentle: look at no page table for longer than a moment: RSS and swap only, no PSS and no USS.

    """

    def __init__(self, machine: Machine, demanded: Mapping[str, str], boot_time: int | None, *, gentle: bool) -> None:
        self._machine = machine
        self._demanded = demanded
        self._boot_time = boot_time
        self._gentle = gentle
        self._rollup = Rollup()
        self.readable = self.kernel_threads = self.zombies = 0

    def read(self, pid: int, folder: int) -> Fields | None:
        """One process; None where it has no memory of its own.

        Args:
            pid: its number.
            folder: its folder of /proc, open.

        Raises:
            OSError: ESRCH or ENOENT, it has ended.
            ParseError: a file is cut short, or of another form.

        """
        values: Sequence[int | None] | None
        thread = ""
        try:
            values = self._amounts(folder, "")
        except PermissionError:
            values = None
        except (ProcessLookupError, FileNotFoundError):
            stat = parse_stat(slurp("stat", folder))
            if stat.is_kernel_thread:
                self.kernel_threads += 1
                return None
            if stat.is_zombie:
                found = self._of_another_thread(pid, folder, stat.threads)
                if found is None:
                    self.zombies += 1
                    return None
                thread, values = found
            elif self._machine.live:
                raise
            else:
                values = None  # a capture lacks what could not be read when it was taken
        stat_data = slurp("stat", folder)
        stat = parse_stat(stat_data)
        cmdline = slurp(f"{thread}cmdline", folder)
        # The folder belongs to the effective user, whether the process may be dumped or not (fs/proc/base.c, task_dump_owner()).
        uid = os.fstat(folder).st_uid if self._machine.live else _uid(folder)
        self.readable += values is not None
        vss, rss = _sizes(slurp(f"{thread}stat", folder) if thread else stat_data, self._machine.page_size)
        v = values or [None] * len(KEYS)
        clean, dirty, shared_huge, private_huge = v[2], v[3], v[12], v[13]
        extra = self._on_demand(folder, thread) if self._demanded else {}
        started = None if self._boot_time is None else self._boot_time + stat.start_ticks / self._machine.ticks_per_second
        return (
            *(pid, stat.ppid, None if uid is None else self._machine.user(uid), readable(stat.command)),
            readable(text(cmdline.rstrip(b"\0").replace(b"\0", b" "))) if cmdline else None,
            vss,
            rss if values is None else v[0],
            v[1],
            None if clean is None or dirty is None else clean + dirty + (private_huge or 0),
            *(v[4], v[5], v[8], v[9], v[10], v[11], v[7]),
            None if shared_huge is None or private_huge is None else shared_huge + private_huge,
            *(v[6], v[14]),
            stat.threads,
            stat.start_ticks,
            started,
            *(extra.get("page_tables"), extra.get("vmas"), extra.get("cgroup"), extra.get("container")),
        )

    def _amounts(self, folder: int, thread: str) -> Sequence[int | None]:
        """Bytes for each of KEYS. ESRCH: there is no memory behind it."""
        if self._gentle:
            return self._gentle_amounts(folder, thread)
        try:
            return self._rollup.values(slurp(f"{thread}smaps_rollup", folder))
        except FileNotFoundError:
            # Before Linux 4.14, and in captures by smemcap.
            mappings = parse_smaps([slurp(f"{thread}smaps", folder)])
        if not mappings:
            raise ProcessLookupError
        return _sums(mappings)

    def _gentle_amounts(self, folder: int, thread: str) -> Sequence[int | None]:
        from leakline.sources.gentle import gentle_mappings

        rss = swap = thp = 0
        for mapping in gentle_mappings(folder, thread):
            rss, swap, thp = rss + mapping.rss, swap + mapping.swap, thp + mapping.thp
        amounts: list[int | None] = [None] * len(KEYS)
        amounts[0], amounts[4], amounts[7] = rss, swap, thp
        return amounts

    def _of_another_thread(self, pid: int, folder: int, threads: int) -> tuple[str, Sequence[int | None]] | None:
        """Where the first thread has ended, the others may still have the memory: the folder of one that has, and amounts."""
        for tid in _threads(folder) if threads > 1 else ():
            if int(tid) == pid:
                continue
            try:
                return f"task/{tid}/", self._amounts(folder, f"task/{tid}/")
            except OSError:
                continue
        return None

    def _on_demand(self, folder: int, thread: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for field in self._demanded:
            try:
                data = slurp(thread + self._demanded[field], folder)
            except OSError:
                continue
            if field == "page_tables":
                line = next((x for x in data.split(b"\n") if x.startswith(b"VmPTE:")), None)
                found[field] = None if line is None else int(line.split()[1]) << 10
            elif field == "vmas":
                found[field] = data.count(b"\n")
            elif field == "cgroup":
                found[field] = memory_cgroup(data)
            else:
                found[field] = container_of(data)
        return found


def _sums(mappings: Sequence[VmaUsage]) -> list[int | None]:
    def total(values: Iterable[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    usages = [mapping.usage for mapping in mappings]
    return [
        *(total(u.rss for u in usages), total(u.pss for u in usages)),
        *(total(u.private_clean for u in usages), total(u.private_dirty for u in usages)),
        *(total(u.swap for u in usages), total(u.swap_pss for u in usages)),
        *(total(m.locked for m in mappings), total(m.thp for m in mappings), None, None, None, total(u.lazy_free for u in usages)),
        total(None if m.hugetlb is None else m.hugetlb - (m.private_hugetlb or 0) for m in mappings),
        *(total(m.private_hugetlb for m in mappings), total(m.ksm for m in mappings)),
    ]


def _threads(folder: int) -> list[str]:
    task = os.open("task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.listdir(task)
    finally:
        os.close(task)


def _uid(folder: int) -> int | None:
    """The effective user, where the folder is a copy."""
    try:
        data = slurp("status", folder)
    except OSError:
        return None
    match = re.search(rb"^Uid:\s+\d+\s+(\d+)", data, re.MULTILINE)
    return None if match is None else int(match[1])


def _sizes(stat: bytes, page_size: int) -> tuple[int, int]:
    """Virtual size and RSS of /proc/PID/stat (fields 23, in bytes, and 24, in pages)."""
    fields = stat[stat.rindex(b")") + 1 :].split()
    if len(fields) < 22:
        raise ParseError(f"stat: {stat[:80]!r}")
    return integer(fields[20], "stat"), integer(fields[21], "stat") * page_size


def container_of(data: bytes) -> str | None:
    """The 64-digit id that docker, containerd, CRI-O and podman put into the group's name; its first twelve digits."""
    for word in data.replace(b"/", b"\n").replace(b"-", b"\n").replace(b".", b"\n").replace(b":", b"\n").split(b"\n"):
        if len(word) == 64 and all(c in b"0123456789abcdef" for c in word):
            return word[:12].decode()
    return None
