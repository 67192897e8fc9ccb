"""Who has how many things that the kernel keeps objects for: descriptors by kind, timers, locks, threads, mounts and the rest.

The kernel does not tell whose a slab object is. But each process's things can be counted, and whose number grew with a cache is
known. Files: /proc/PID/{fd,fdinfo,timers,stat,status,maps,mountinfo}, /proc/{locks,sysvipc/shm,key-users,cgroups}.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

from leakline.errors import LeaklineError, ParseError
from leakline.model.kernel import Census, Holder, Things
from leakline.model.names import readable
from leakline.sources.cgroupfs import memory_hierarchy, parse_numbers, read_cgroups
from leakline.sources.parsing import read_whole, text
from leakline.sources.process_files import parse_stat, status_amounts
from leakline.sources.shmem_files import kernels_own, parse_sysv, tmpfs_devices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leakline.model.process import ProcessStat
    from leakline.sources.machine import Machine

_KIND = re.compile(r"(pipe|socket|net|mnt|user|pid|uts|ipc|cgroup|time|time_for_children|pid_for_children):\[\d+\]")
_NAMESPACES = {"net": "network namespace", "mnt": "mount namespace"}
# What fdinfo of some kinds lists, one line each (fs/eventpoll.c, fs/notify/fdinfo.c).
_ITEMS = {
    "eventpoll": ("epoll item", re.compile(rb"^tfd:", re.MULTILINE)),
    "inotify": ("inotify mark", re.compile(rb"^inotify wd:", re.MULTILINE)),
    "fanotify": ("fanotify mark", re.compile(rb"^fanotify (?:ino|mnt_id|sdev):", re.MULTILINE)),
}
_MEMLOCK = re.compile(rb"^memlock:\s*(\d{1,19})$", re.MULTILINE)
_ANONYMOUS = {"bpf-map": "BPF map", "bpf-prog": "BPF program", "eventpoll": "epoll", "perf_event": "perf event"}
_TIMER = re.compile(rb"^ID: ", re.MULTILINE)
_LOCK = re.compile(rb"^\d+: +(?:-> +)*\S+ +\S+ +\S+ +(\d+) ", re.MULTILINE)
_KEYS = re.compile(rb"^ *(\d+): +\d+ +(\d+)/\d+ ", re.MULTILINE)


def take_census(machine: Machine) -> Census:
    """Count what everybody has; what may not be seen is left out."""
    return _Census(machine).take()


def socket_protocol(path: str) -> str:
    """The protocol of the socket behind a link in /proc/PID/fd (net/socket.c, sockfs_xattr_get())."""
    with suppress(OSError):
        name = readable(text(os.getxattr(path, "system.sockprotoname").rstrip(b"\0")))
        if name:
            return "UNIX" if name.startswith("UNIX") else name
    return "other"


class _Census:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._proc = os.fspath(machine.proc)
        self._found: Census = {}
        self._stats: dict[int, ProcessStat] = {}
        self._mount_namespaces: set[str] = set()
        self._in_memory = {kernels_own(), *tmpfs_devices(machine.proc)}

    def take(self) -> Census:
        pids = sorted(int(name) for name in os.listdir(self._proc) if name.isdigit())
        for pid in pids:
            with suppress(OSError, ParseError):
                self._stats[pid] = parse_stat(read_whole(f"{self._proc}/{pid}/stat"))
        self._zombies()
        for pid, stat in self._stats.items():
            if not stat.is_kernel_thread and not stat.is_zombie:
                self._of_process(pid, stat)
        self._locks()
        self._shared_memory()
        self._groups()
        self._keys()
        return self._found

    def _holder(self, pid: int) -> Holder:
        stat = self._stats.get(pid)
        return Holder(pid, None, None) if stat is None else Holder(pid, stat.start_ticks, readable(stat.command))

    def _add(self, holder: Holder, what: str, number: int, size: int | None = None) -> None:
        if not number:
            return
        before = self._found.get((holder, what), Things(0))
        known = before.bytes if size is None else size + (before.bytes or 0)
        self._found[holder, what] = Things(before.number + number, known)

    def _of_process(self, pid: int, stat: ProcessStat) -> None:
        holder, folder = self._holder(pid), f"{self._proc}/{pid}"
        self._add(holder, "thread", stat.threads)
        with suppress(OSError):
            self._descriptors(holder, folder)
        with suppress(OSError):  # a kernel without CONFIG_CHECKPOINT_RESTORE has no timers file
            self._add(holder, "POSIX timer", len(_TIMER.findall(read_whole(f"{folder}/timers"))))
        with suppress(OSError):
            self._add(holder, "mapping", read_whole(f"{folder}/maps").count(b"\n"))
        with suppress(OSError, ParseError):
            tables = status_amounts(read_whole(f"{folder}/status")).get("VmPTE", 0)
            self._add(holder, "page of page tables", tables // self._machine.page_size, tables)
        with suppress(OSError):
            space = os.readlink(f"{folder}/ns/mnt")
            if space not in self._mount_namespaces:
                self._mount_namespaces.add(space)
                self._add(holder, "mount in its namespace", read_whole(f"{folder}/mountinfo").count(b"\n"))

    def _descriptors(self, holder: Holder, folder: str) -> None:
        kinds: Counter[str] = Counter()
        sizes: dict[str, int] = defaultdict(int)
        for number in os.listdir(f"{folder}/fd"):
            path = f"{folder}/fd/{number}"
            with suppress(OSError):
                kind = self._kind(os.readlink(path), path)
                if kind in ("memfd", "unlinked file in memory"):
                    status = os.stat(path)
                    if status.st_dev in self._in_memory:
                        sizes[kind] += status.st_blocks * 512
                    else:
                        kind = "open file"
                kinds[kind] += 1
                if kind in ("epoll", "inotify", "fanotify", "BPF map", "BPF program"):
                    self._from_fdinfo(kind, read_whole(f"{folder}/fdinfo/{number}"), kinds, sizes)
        for kind, count in kinds.items():
            self._add(holder, kind, count, sizes.get(kind))

    @staticmethod
    def _kind(target: str, path: str) -> str:
        match = _KIND.fullmatch(target)
        if match is not None:
            if match[1] == "socket":
                return f"{socket_protocol(path)} socket"
            return "pipe end" if match[1] == "pipe" else _NAMESPACES.get(match[1], "namespace")
        if target.startswith("anon_inode:"):
            name = readable(target.removeprefix("anon_inode:").strip("[]"))
            return _ANONYMOUS.get(name, name)
        if target.startswith("/memfd:"):
            return "memfd"
        return "unlinked file in memory" if target.endswith(" (deleted)") else "open file"

    @staticmethod
    def _from_fdinfo(kind: str, data: bytes, kinds: Counter[str], sizes: dict[str, int]) -> None:
        item = _ITEMS.get("eventpoll" if kind == "epoll" else kind)
        if item is not None:
            kinds[item[0]] += len(item[1].findall(data))
            return
        match = _MEMLOCK.search(data)
        if match is not None:
            sizes[kind] += int(match[1])

    def _zombies(self) -> None:
        children = Counter(stat.ppid for stat in self._stats.values() if stat.is_zombie)
        for parent, count in children.items():
            self._add(self._holder(parent), "zombie child", count)

    def _locks(self) -> None:
        with suppress(OSError):
            for pid, count in Counter(_LOCK.findall(read_whole(f"{self._proc}/locks"))).items():
                self._add(self._holder(int(pid)), "file lock", count)

    def _shared_memory(self) -> None:
        with suppress(OSError):
            for _, size, creator, _ in parse_sysv(read_whole(f"{self._proc}/sysvipc/shm")):
                self._add(self._holder(creator), "SysV shared memory", 1, size)

    def _groups(self) -> None:
        for path, size in self._kernel_of_groups():
            self._add(Holder(None, None, path), "page charged to the control group", size // self._machine.page_size, size)
        dying = self._dying()
        if dying:
            self._add(Holder(None, None, None), "control group that was removed, but is still held", dying)

    def _kernel_of_groups(self) -> Iterator[tuple[str, int]]:
        with suppress(LeaklineError, OSError):
            for group in read_cgroups(self._machine, Counter()):
                if group.kernel:
                    yield group.path, group.kernel

    def _dying(self) -> int | None:
        with suppress(LeaklineError, OSError):
            folder, version = memory_hierarchy(self._machine)
            if version == 2:
                return parse_numbers((folder / "cgroup.stat").read_bytes(), "cgroup.stat").get("nr_dying_descendants")
            living = sum(1 for _ in os.walk(folder))
            for line in read_whole(f"{self._proc}/cgroups").splitlines():
                fields = line.split()
                if len(fields) == 4 and fields[0] == b"memory" and fields[2].isdigit():
                    return max(0, int(fields[2]) - living)
        return None

    def _keys(self) -> None:
        with suppress(OSError):
            for uid, count in _KEYS.findall(read_whole(f"{self._proc}/key-users")):
                self._add(Holder(None, None, f"user {self._machine.user(int(uid))}"), "key", int(count))
