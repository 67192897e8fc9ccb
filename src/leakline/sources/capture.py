"""The files of this machine that tell where its memory is, for an archive."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from leakline.sources.parsing import read_whole

_SYSTEM = (
    *(
        "meminfo",
        "vmstat",
        "zoneinfo",
        "buddyinfo",
        "pagetypeinfo",
        "slabinfo",
        "vmallocinfo",
        "allocinfo",
        "swaps",
        "stat",
        "uptime",
    ),
    *("loadavg", "version", "cmdline", "cgroups", "config.gz", "filesystems", "diskstats", "locks", "key-users", "pressure/memory"),
    *("self/mountinfo", "sysvipc/shm", "sys/vm/max_map_count", "sys/vm/swappiness", "sys/vm/overcommit_memory"),
    *("sys/kernel/osrelease", "sys/fs/file-nr", "sys/fs/inode-nr", "sys/fs/dentry-state"),
)
_PROCESS = ("stat", "status", "statm", "cmdline", "cgroup", "smaps_rollup", "smaps", "maps", "oom_score", "limits")
_THREAD = ("stat", "syscall")
_TREES = (
    *("kernel/mm", "devices/system/node", "module/zswap/parameters", "kernel/debug/zswap"),
    *("fs/cgroup/memory", "fs/cgroup/unified"),
)
_ZRAM = ("mm_stat", "disksize", "comp_algorithm")
_CGROUP_FILES = ("memory.", "cgroup.controllers", "cgroup.procs")


class Capture:
    """Reads the files; counts those that may not be read."""

    def __init__(self, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> None:
        self._proc, self._sys = os.fspath(proc), os.fspath(sys)
        self.unreadable = 0

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name in the archive, and what stands in the file."""
        for name in _SYSTEM:
            yield from self._one(f"{self._proc}/{name}", f"proc/{name}")
        for name in sorted(os.listdir(self._proc), key=lambda name: (len(name), name)):
            if name.isdigit():
                yield from self._process(name)
        yield from self._of_sys()

    def _process(self, pid: str) -> Iterator[tuple[str, bytes]]:
        folder = f"{self._proc}/{pid}"
        for name in _PROCESS:
            yield from self._one(f"{folder}/{name}", f"proc/{pid}/{name}")
        with suppress(OSError):
            for tid in os.listdir(f"{folder}/task"):
                for name in _THREAD:
                    yield from self._one(f"{folder}/task/{tid}/{name}", f"proc/{pid}/task/{tid}/{name}")
                if tid != pid and not os.path.exists(f"{folder}/exe"):
                    # Where the first thread has ended, another one has the memory.
                    for name in ("smaps_rollup", "smaps", "maps", "status", "cgroup", "cmdline"):
                        yield from self._one(f"{folder}/task/{tid}/{name}", f"proc/{pid}/task/{tid}/{name}")

    def _of_sys(self) -> Iterator[tuple[str, bytes]]:
        for tree in _TREES:
            for folder, _, files in os.walk(f"{self._sys}/{tree}"):
                in_group = tree.startswith("fs/cgroup")
                for name in sorted(files):
                    if in_group and not name.startswith(_CGROUP_FILES):
                        continue
                    path = f"{folder}/{name}"
                    yield from self._one(path, "sys" + path[len(self._sys) :])
        yield from self._unified_groups()
        with suppress(OSError):
            for cache in sorted(os.listdir(f"{self._sys}/kernel/slab")):
                if not cache.startswith(":"):
                    name = f"kernel/slab/{cache}/reclaim_account"
                    yield from self._one(f"{self._sys}/{name}", f"sys/{name}")
        with suppress(OSError):
            for device in os.listdir(f"{self._sys}/block"):
                if device.startswith("zram"):
                    for name in _ZRAM:
                        yield from self._one(f"{self._sys}/block/{device}/{name}", f"sys/block/{device}/{name}")

    def _unified_groups(self) -> Iterator[tuple[str, bytes]]:
        """Cgroup v2 right at /sys/fs/cgroup."""
        root = f"{self._sys}/fs/cgroup"
        if not os.path.exists(f"{root}/cgroup.controllers"):
            return
        for folder, _, files in os.walk(root):
            for name in sorted(files):
                if name.startswith(_CGROUP_FILES):
                    path = f"{folder}/{name}"
                    yield from self._one(path, "sys" + path[len(self._sys) :])

    def _one(self, path: str, name: str) -> Iterator[tuple[str, bytes]]:
        try:
            # Files that only act when written, or that block until something happens, are left alone.
            if not os.stat(path).st_mode & stat.S_IRUSR or name.endswith(
                ("memory.pressure", "memory.reclaim", "memory.force_empty")
            ):
                return
            data = read_whole(path)
        except PermissionError:
            self.unreadable += 1
            return
        except OSError:
            return  # not on this kernel, or gone meanwhile
        yield name, data
