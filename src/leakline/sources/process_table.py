"""All processes at the price of reading their files: the kernel's page-table walk in smaps_rollup is most of it.

What is learned from the first file (where each value stands) is checked on every other, and read the slow way where it differs.
"""

from __future__ import annotations

import os
import pwd
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from leakline.errors import ParseError
from leakline.model.accounting import Coverage, ProcessMemory
from leakline.model.names import readable
from leakline.sources.parsing import text
from leakline.sources.process_files import parse_stat

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path


PAGE = os.sysconf("SC_PAGE_SIZE")
_READ = 1 << 16
# Keys of smaps_rollup that are used; those behind the first eight are younger than the file itself (Linux 4.14).
_KEYS = (
    *(b"Rss:", b"Pss:", b"Private_Clean:", b"Private_Dirty:", b"Swap:", b"SwapPss:", b"Locked:", b"AnonHugePages:"),
    *(b"Pss_Anon:", b"Pss_File:", b"Pss_Shmem:", b"LazyFree:", b"Shared_Hugetlb:", b"Private_Hugetlb:", b"KSM:"),
)
_DEMANDED = {"page_tables": "status", "vmas": "maps", "cgroup": "cgroup", "container": "cgroup"}


class _Rollup:
    """Finds the values of smaps_rollup: where they stood in the last file, if the keys stand there again."""

    def __init__(self) -> None:
        self._keys: tuple[bytes, ...] = ()
        self._at_keys: Callable[[list[bytes]], tuple[bytes, ...]] | None = None
        self._at_values: Callable[[list[bytes]], tuple[bytes, ...]] | None = None
        self._present: tuple[int, ...] = ()

    def values(self, data: bytes) -> list[int | None]:
        """Bytes for each of _KEYS; None for those that the file does not have."""
        words = data.split()
        if self._at_keys is None or self._at_values is None or not self._fits(words):
            self._learn(words)
        found: list[int | None] = [None] * len(_KEYS)
        if self._at_values is None:
            return found
        try:
            for place, value in zip(self._present, self._at_values(words), strict=True):
                found[place] = int(value) << 10
        except (ValueError, IndexError) as error:
            raise ParseError("smaps_rollup: a value is no number") from error
        return found

    def _fits(self, words: list[bytes]) -> bool:
        try:
            return self._at_keys is not None and self._at_keys(words) == self._keys
        except IndexError:
            return False

    def _learn(self, words: list[bytes]) -> None:
        places = [(number, words.index(key)) for number, key in enumerate(_KEYS) if key in words]
        if len(places) < 2:
            raise ParseError("smaps_rollup: it has no Rss")
        self._present = tuple(number for number, _ in places)
        self._keys = tuple(_KEYS[number] for number, _ in places)
        self._at_keys = itemgetter(*(place for _, place in places))
        self._at_values = itemgetter(*(place + 1 for _, place in places))


class ProcessTableReader:
    """Reads all processes below a /proc.

    Args:
        root: the folder.
        demanded: fields that take another file each: page_tables, vmas, cgroup, container.

    """

    def __init__(self, root: Path, demanded: Collection[str] = ()) -> None:
        self._root = os.fspath(root)
        self._demanded = {name: _DEMANDED[name] for name in demanded if name in _DEMANDED}
        self._rollup = _Rollup()
        self._users: dict[int, str] = {}
        self._vanished = self._kernel_threads = self._zombies = self._readable = self._seen = 0

    def read(self) -> tuple[list[ProcessMemory], Coverage]:
        """One pass."""
        rows = []
        proc = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in os.listdir(proc):
                if not name.isdigit():
                    continue
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
                    row = self._process(int(name), folder, proc)
                except (FileNotFoundError, ProcessLookupError, ParseError):
                    self._vanished += 1
                    continue
                finally:
                    os.close(folder)
                if row is not None:
                    rows.append(row)
        finally:
            os.close(proc)
        coverage = Coverage(
            seen=self._seen - self._kernel_threads,
            readable=self._readable,
            vanished=self._vanished,
            kernel_threads=self._kernel_threads,
            zombies=self._zombies,
        )
        return rows, coverage

    def _process(self, pid: int, folder: int, proc: int) -> ProcessMemory | None:
        values: list[int | None] | None = None
        try:
            values = self._rollup.values(_slurp("smaps_rollup", folder))
        except PermissionError:
            pass
        except (ProcessLookupError, FileNotFoundError):
            return self._without_rollup(pid, folder, proc)
        stat_data = _slurp("stat", folder)
        stat = parse_stat(stat_data)
        cmdline = _slurp("cmdline", folder)
        uid = os.fstat(folder).st_uid
        if uid == 0:
            # The folder of a process that may not be dumped belongs to root, whoever runs it.
            uid = _uid(folder, uid)
        self._readable += values is not None
        vss, rss = _sizes(stat_data)
        v = values or [None] * len(_KEYS)
        clean, dirty, shared_huge, private_huge = v[2], v[3], v[12], v[13]
        return ProcessMemory(
            pid=pid,
            ppid=stat.ppid,
            user=self._user(uid),
            command=readable(stat.command),
            cmdline=readable(text(cmdline.rstrip(b"\0").replace(b"\0", b" "))) if cmdline else None,
            vss=vss,
            rss=rss if values is None else v[0],
            pss=v[1],
            uss=None if clean is None or dirty is None else clean + dirty + (private_huge or 0),
            swap=v[4],
            swap_pss=v[5],
            pss_anon=v[8],
            pss_file=v[9],
            pss_shmem=v[10],
            lazy_free=v[11],
            thp=v[7],
            hugetlb=None if shared_huge is None or private_huge is None else shared_huge + private_huge,
            locked=v[6],
            ksm=v[14],
            threads=stat.threads,
            start_ticks=stat.start_ticks,
            **(self._on_demand(folder) if self._demanded else {}),
        )

    def _without_rollup(self, pid: int, folder: int, proc: int) -> ProcessMemory | None:
        """A kernel thread and a zombie have no memory: ESRCH. A zombie's other threads may still have it."""
        stat = parse_stat(_slurp("stat", folder))
        if stat.is_kernel_thread:
            self._kernel_threads += 1
            return None
        if not stat.is_zombie:
            raise ProcessLookupError
        for tid in _threads(folder) if stat.threads > 1 else ():
            if int(tid) == pid:
                continue
            try:
                living = os.open(tid, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
            except OSError:
                continue
            try:
                row = self._process(pid, living, proc)
            except OSError:
                continue
            finally:
                os.close(living)
            if row is not None:
                return row
        self._zombies += 1
        return None

    def _user(self, uid: int) -> str:
        if uid not in self._users:
            try:
                self._users[uid] = readable(pwd.getpwuid(uid).pw_name)
            except KeyError:
                self._users[uid] = str(uid)
        return self._users[uid]

    def _on_demand(self, folder: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for field in self._demanded:
            try:
                data = _slurp(self._demanded[field], folder)
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


def _threads(folder: int) -> list[str]:
    task = os.open("task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.listdir(task)
    finally:
        os.close(task)


def _slurp(name: str, folder: int) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        data = os.read(fd, _READ)
        if name not in _LONG:
            return data
        parts = [data]
        while parts[-1]:
            parts.append(os.read(fd, _READ))
        return b"".join(parts)
    finally:
        os.close(fd)


_LONG = frozenset(("maps", "cmdline"))


def _uid(folder: int, otherwise: int) -> int:
    try:
        data = _slurp("status", folder)
    except OSError:
        return otherwise
    at = data.find(b"\nUid:")
    return int(data[at + 5 : data.find(b"\n", at + 1)].split()[1]) if at >= 0 else otherwise


def _sizes(stat: bytes) -> tuple[int, int]:
    """Virtual size and RSS of /proc/PID/stat (fields 23, in bytes, and 24, in pages)."""
    fields = stat[stat.rindex(b")") + 1 :].split()
    return int(fields[20]), int(fields[21]) * PAGE


def memory_cgroup(data: bytes) -> str | None:
    """The group that memory is charged to: v1's `memory` line, else v2's (`0::/path`)."""
    unified = None
    for line in data.split(b"\n"):
        _, colon, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        if colon and b"memory" in controllers.split(b","):
            return readable(text(path))
        if colon and not controllers:
            unified = readable(text(path))
    return unified


def container_of(data: bytes) -> str | None:
    """The 64-digit id that docker, containerd, CRI-O and podman put into the group's name; its first twelve digits."""
    for word in data.replace(b"/", b"\n").replace(b"-", b"\n").replace(b".", b"\n").replace(b":", b"\n").split(b"\n"):
        if len(word) == 64 and all(c in b"0123456789abcdef" for c in word):
            return word[:12].decode()
    return None
