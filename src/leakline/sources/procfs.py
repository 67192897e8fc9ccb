"""The reader of /proc: it owns the paths, and turns what the kernel answers into our errors."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from leakline.errors import LeaklineError, NotPossible, PermissionNeeded, TargetGone
from leakline.sources.maps import parse_maps, parse_smaps_rollup, read_smaps
from leakline.sources.meminfo import parse_amounts, parse_meminfo
from leakline.sources.parsing import text
from leakline.sources.process_files import memory_cgroup, parse_limits, parse_stat, parse_status, status_amounts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leakline.model.memory import MemoryUsage, SystemMemory
    from leakline.model.process import ProcessStat, ProcessStatus
    from leakline.model.system import Pressure, Zone
    from leakline.model.vma import Vma, VmaUsage


def translate(error: OSError, pid: int, what: str) -> LeaklineError:
    """The error of ours for what the kernel answered about a process."""
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return TargetGone(f"process {pid} is gone")
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionNeeded(f"no permission to {what} of process {pid}")
    return NotPossible(f"cannot {what} of process {pid}: {error.strerror}")


@contextmanager
def translated(pid: int, what: str) -> Iterator[None]:
    """Raise our errors for the kernel's."""
    try:
        yield
    except OSError as error:
        raise translate(error, pid, what) from error


class ProcFs:
    """A /proc, the live one unless a root is given.

    Every method about a process raises TargetGone where it has ended, and PermissionNeeded where it may not be read.
    """

    def __init__(self, root: Path = Path("/proc")) -> None:
        self.root = root

    def _read(self, pid: int, name: str) -> bytes:
        with translated(pid, f"read {name}"):
            return (self.root / str(pid) / name).read_bytes()

    def _link(self, pid: int, name: str) -> str:
        with translated(pid, f"read {name}"):
            return str((self.root / str(pid) / name).readlink())

    def pids(self) -> list[int]:
        """All processes that are visible here."""
        return sorted(int(name) for name in os.listdir(self.root) if name.isdigit())

    def stat(self, pid: int) -> ProcessStat:
        """/proc/PID/stat."""
        return parse_stat(self._read(pid, "stat"))

    def status(self, pid: int) -> ProcessStatus:
        """/proc/PID/status."""
        return parse_status(self._read(pid, "status"))

    def arguments(self, pid: int) -> list[str]:
        """The command line; empty for a kernel thread or a zombie."""
        data = self._read(pid, "cmdline")
        return [text(argument) for argument in data.removesuffix(b"\0").split(b"\0")] if data else []

    def executable(self, pid: int) -> str:
        """The path of the program, with ` (deleted)` behind it where the file was."""
        return self._link(pid, "exe")

    def auxiliary_vector(self, pid: int) -> bytes:
        """/proc/PID/auxv as it is."""
        return self._read(pid, "auxv")

    def threads(self, pid: int) -> list[int]:
        """Thread ids, the first thread's first."""
        with translated(pid, "list the threads"):
            return sorted(int(name) for name in os.listdir(self.root / str(pid) / "task"))

    def has_descriptor(self, pid: int, target: str) -> bool:
        """Whether one of its file descriptors leads there, as readlink(2) has it."""
        folder = self.root / str(pid) / "fd"
        with translated(pid, "list the descriptors"):
            for name in os.listdir(folder):
                with suppress(OSError):
                    if os.readlink(folder / name) == target:
                        return True
        return False

    def living_thread(self, pid: int) -> int:
        """The process's own number, or that of a thread that lives where the first one has ended: then only that has memory."""
        if not self.stat(pid).is_zombie:
            return pid
        return next((tid for tid in self.threads(pid) if tid != pid and not self.thread_stat(pid, tid).is_zombie), pid)

    def thread_stat(self, pid: int, tid: int) -> ProcessStat:
        """/proc/PID/task/TID/stat."""
        return parse_stat(self._read(pid, f"task/{tid}/stat"))

    def statm(self, pid: int) -> bytes:
        """/proc/PID/statm as it is: if it has not changed, hardly anything has."""
        return self._read(pid, "statm")

    def room(self, pid: int) -> int | None:
        """Bytes that RLIMIT_AS and RLIMIT_DATA still allow; None where neither is set."""
        limits = parse_limits(self._read(pid, "limits"))
        status = status_amounts(self._read(pid, "status"))
        rooms = [
            limits[name] - status[key]
            for name, key in (("Max address space", "VmSize"), ("Max data size", "VmData"))
            if name in limits and key in status
        ]
        return max(0, min(rooms)) if rooms else None

    def stack_limit(self, pid: int) -> int | None:
        """RLIMIT_STACK in bytes; None for unlimited."""
        return parse_limits(self._read(pid, "limits")).get("Max stack size")

    def memory_cgroup(self, pid: int) -> str | None:
        """The control group that its memory is charged to."""
        return memory_cgroup(self._read(pid, "cgroup"))

    def usage(self, pid: int) -> MemoryUsage:
        """The sums over all mappings."""
        return parse_smaps_rollup(self._read(pid, "smaps_rollup"))

    def maps(self, pid: int) -> list[Vma]:
        """The mappings; empty for a process without memory of its own."""
        return parse_maps(self._read(pid, "maps"))

    def smaps(self, pid: int) -> list[VmaUsage]:
        """The mappings with what each holds; those of a thread that lives where the first one has ended."""
        tid = self.living_thread(pid)
        name = f"{pid}/smaps" if tid == pid else f"{pid}/task/{tid}/smaps"
        with translated(pid, "read smaps"):
            return read_smaps(f"{self.root}/{name}")

    def stack_pointers(self, pid: int) -> dict[int, int]:
        """Thread id -> stack pointer, of threads that wait in the kernel (/proc/PID/task/TID/syscall); others are left out."""
        found = {}
        for tid in self.threads(pid):
            with suppress(LeaklineError, ValueError, IndexError):
                found[tid] = int(self._read(pid, f"task/{tid}/syscall").split()[-2], 16)
        return found

    def max_map_count(self) -> int | None:
        """vm.max_map_count."""
        with suppress(NotPossible, ValueError):
            return int(self._read_system("sys/vm/max_map_count"))
        return None

    def oom_kills(self) -> int | None:
        """How many processes the kernel has killed for want of memory since it was booted (Linux 4.13)."""
        with suppress(NotPossible, ValueError):
            for line in self._read_system("vmstat").splitlines():
                name, _, value = line.partition(b" ")
                if name == b"oom_kill":
                    return int(value)
        return None

    def memory(self) -> SystemMemory:
        """/proc/meminfo."""
        return parse_meminfo(self._read_system("meminfo"))

    def amounts(self) -> dict[str, int]:
        """Every amount of /proc/meminfo, in bytes."""
        return parse_amounts(self._read_system("meminfo"))

    def zones(self, page_size: int) -> tuple[Zone, ...]:
        """The zones of /proc/zoneinfo that hold memory.

        Raises:
            NotPossible: it cannot be read.

        """
        from leakline.sources.system_files import parse_zones

        return parse_zones(self._read_system("zoneinfo"), page_size)

    def per_cpu_pages(self) -> int | None:
        """Pages on the CPUs' own free lists, which MemFree leaves out; None where /proc/zoneinfo cannot be read."""
        from leakline.sources.system_files import parse_per_cpu_pages

        try:
            return parse_per_cpu_pages(self._read_system("zoneinfo"))
        except NotPossible:
            return None

    def pressure(self) -> tuple[Pressure, ...]:
        """Memory pressure; empty where the kernel does not tell (CONFIG_PSI)."""
        from leakline.sources.system_files import parse_pressure

        try:
            return parse_pressure(self._read_system("pressure/memory"))
        except NotPossible:
            return ()

    def _read_system(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise NotPossible(f"cannot read {self.root / name}: {error.strerror}") from error

    def mapped_file(self, pid: int, vma: Vma) -> bytes | None:
        """A path by which the file of a mapping can be opened, even in a container or after it was replaced.

        None if there is no way: the file was deleted and only root may follow /proc/PID/map_files.
        """
        if not vma.is_file or vma.path is None:
            return None
        folder = os.fsencode(self.root / str(pid))
        candidates = [
            folder + b"/root" + os.fsencode(vma.path),
            folder + b"/exe",
            folder + f"/map_files/{vma.start:x}-{vma.end:x}".encode(),
        ]
        for candidate in candidates:
            try:
                found = os.stat(candidate)
            except OSError:
                continue
            # Btrfs and overlayfs report another device in maps than stat does; the inode alone tells a replaced file.
            if found.st_ino == vma.inode:
                return candidate
        return None
