"""Another process's memory: which pages it has of its own, and a copy of them."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from leakline.errors import NotPossible, TargetGone
from leakline.model.ranges import Range, subtract
from leakline.sources.procfs import translated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from leakline.model.vma import Vma

PAGE = mmap.PAGESIZE

# ioctl PAGEMAP_SCAN, Linux 6.7 (include/uapi/linux/fs.h, Documentation/admin-guide/mm/pagemap.rst).
_PAGEMAP_SCAN = 0xC0606610
_IS_FILE, _IS_PRESENT, _IS_SWAPPED, _IS_ZERO_PAGE = 1 << 2, 1 << 3, 1 << 4, 1 << 5
_REGIONS = 4096
# Bits of a pagemap entry: present, swapped, and file page or shared anonymous memory.
_ENTRY_PRESENT, _ENTRY_SWAPPED, _ENTRY_FILE = 63, 62, 61
_LARGEST_WITHOUT_SCAN = 1 << 36
_IOV_MAX = 1024
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_FORCED_STEP = 16 << 20
_STEP = 4 << 20  # what is copied between two looks at the clock
_MOST_SHMEM = 1 << 30
# Names of shmem in /proc/PID/maps: MAP_SHARED | MAP_ANONYMOUS, memfd_create(2), shmget(2), shm_open(3).
_SHMEM = ("/dev/zero (deleted)", "/memfd:", "/SYSV", "/dev/shm/")  # noqa: S108


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def holds_pointers(vma: Vma) -> bool:
    """Whether a mapping may hold pointers that the program wrote: private memory and shmem of any permission, writable files.

    Devices are left out: to read their registers may do something.
    """
    if vma.path in ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"):
        return False
    if vma.path is not None and vma.path.startswith("/dev/") and not vma.path.startswith(("/dev/zero", "/dev/shm/")):  # noqa: S108
        return False
    return not vma.is_shared or "w" in vma.perms or is_shmem(vma)


def is_shmem(vma: Vma) -> bool:
    """Whether shared memory lies behind it: pages that a process has not touched yet may have been written by another."""
    return vma.is_shared and vma.path is not None and vma.path.startswith(_SHMEM)


class PageMap:
    """/proc/PID/pagemap: which pages are there. Use as a context manager.

    Raises:
        PermissionNeeded: it takes the right to trace the process.

    """

    def __init__(self, root: Path, pid: int) -> None:
        self._pid = pid
        with translated(pid, "read pagemap"):
            self._file = open(root / str(pid) / "pagemap", "rb", buffering=0)  # noqa: SIM115
        self._scans = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def own_runs(self, vmas: Iterable[Vma]) -> list[Range]:
        """The pages, present or swapped, that the program wrote itself: anonymous ones, and shared writable ones.

        A file page that was never written holds no pointer to the heap; a page that was never touched holds nothing.
        """
        runs: list[Range] = []
        for vma in vmas:
            if not holds_pointers(vma):
                continue
            for start, end in self._runs(vma):
                if runs and runs[-1][1] == start:
                    runs[-1] = (runs[-1][0], end)
                else:
                    runs.append((start, end))
        return runs

    def _runs(self, vma: Vma) -> Iterator[Range]:
        if self._scans:
            try:
                yield from self._scan(vma)
            except OSError as error:
                if error.errno == 3:  # ESRCH
                    raise TargetGone(f"process {self._pid} is gone") from error
                self._scans = False  # ENOTTY before Linux 6.7
            else:
                return
        yield from self._entries(vma)

    def _scan(self, vma: Vma) -> list[Range]:
        found = []
        regions = ctypes.create_string_buffer(24 * _REGIONS)
        unwanted = _IS_ZERO_PAGE if vma.is_shared else _IS_FILE | _IS_ZERO_PAGE
        start = vma.start
        while start < vma.end:
            wanted = _IS_PRESENT | _IS_SWAPPED
            sizes = 96, 0, start, vma.end, 0, ctypes.addressof(regions), _REGIONS, 0
            arguments = bytearray(struct.pack("<12Q", *sizes, unwanted, unwanted, wanted, wanted))
            count = fcntl.ioctl(self._file, _PAGEMAP_SCAN, arguments)
            found += [(first, last) for first, last, _ in struct.iter_unpack("<3Q", regions.raw[: 24 * count])]
            start = struct.unpack_from("<Q", arguments, 32)[0]
        return found

    def _entries(self, vma: Vma) -> Iterator[Range]:
        import numpy as np

        if vma.size > _LARGEST_WITHOUT_SCAN:
            raise NotPossible(
                f"a mapping of {vma.size >> 30} GiB cannot be searched for its pages on this kernel",
                hint="Linux 6.7 or newer can (PAGEMAP_SCAN).",
            )
        step = 1 << 20
        for start in range(vma.start, vma.end, step * PAGE):
            pages = min(step, (vma.end - start) // PAGE)
            with translated(self._pid, "read pagemap"):
                data = os.pread(self._file.fileno(), 8 * pages, start // PAGE * 8)
            entries = np.frombuffer(data, dtype=np.uint64)
            own = (entries >> np.uint64(_ENTRY_SWAPPED)) != 0
            if not vma.is_shared:
                own &= (entries >> np.uint64(_ENTRY_FILE)) & np.uint64(1) == 0
            edges = np.flatnonzero(np.diff(np.concatenate(([0], own.astype(np.int8), [0]))))
            for first, last in edges.reshape(-1, 2).tolist():
                yield start + first * PAGE, start + last * PAGE


def buffer_for(size: int) -> mmap.mmap:
    """Memory of our own, touched already: first-touch faults during a stop would be most of its length.

    In huge pages where the kernel gives them: 512 MiB take a third of the time then.
    """
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    buffer = mmap.mmap(-1, max(size, PAGE), flags=private)
    try:
        with suppress(OSError):  # a kernel without transparent huge pages
            buffer.madvise(mmap.MADV_HUGEPAGE)
        buffer.madvise(_MADV_POPULATE_WRITE)
    except OSError:
        buffer.close()
        return mmap.mmap(-1, max(size, PAGE), flags=private | mmap.MAP_POPULATE)
    return buffer


class RemoteMemory:
    """Reads another process's memory by process_vm_readv(2), and by /proc/PID/mem what that refuses (PROT_NONE pages)."""

    def __init__(self, root: Path, pid: int) -> None:
        self._pid = pid
        self._root = root
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.process_vm_readv.restype = ctypes.c_ssize_t
        self._memory: int | None = None

    def read(self, address: int, size: int) -> bytes:
        """The bytes there; fewer, or none, where they cannot be read."""
        buffer = ctypes.create_string_buffer(size)
        local, remote = _Iovec(ctypes.addressof(buffer), size), _Iovec(address, size)
        done = self._readv(local, (_Iovec * 1)(remote), 1)
        return buffer.raw[: max(done, 0)]

    def gather(self, addresses: Sequence[int], size: int) -> list[bytes]:
        """So many bytes from each address; empty where they cannot be read."""
        found: list[bytes] = []
        while len(found) < len(addresses):
            batch = addresses[len(found) : len(found) + _IOV_MAX]
            buffer = ctypes.create_string_buffer(size * len(batch))
            remote = (_Iovec * len(batch))(*(_Iovec(address, size) for address in batch))
            whole = max(self._readv(_Iovec(ctypes.addressof(buffer), len(buffer)), remote, len(batch)), 0) // size
            found += [buffer.raw[size * i : size * (i + 1)] for i in range(whole)]
            if whole < len(batch):
                found.append(b"")
        return found

    def _readv(self, local: _Iovec, remote: ctypes.Array[_Iovec], count: int) -> int:
        arguments = (ctypes.byref(local), ctypes.c_ulong(1), remote, ctypes.c_ulong(count), ctypes.c_ulong(0))
        done = int(self._libc.process_vm_readv(self._pid, *arguments))
        if done < 0 and ctypes.get_errno() == 3:  # ESRCH
            raise TargetGone(f"process {self._pid} is gone")
        return done

    def copy(self, runs: Sequence[Range], buffer: mmap.mmap, until_ns: int | None = None) -> list[Range]:
        """Copy the runs one behind the other into the buffer.

        Args:
            runs: what.
            buffer: where to.
            until_ns: CLOCK_MONOTONIC by which it must be done, if any.

        Returns:
            those that could be read, in the order of the buffer.

        Raises:
            TimeoutError: it takes longer.

        """
        base = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        copied: list[Range] = []
        offset = 0
        pending = list(reversed(runs))
        while pending:
            if until_ns is not None:
                if time.monotonic_ns() > until_ns:
                    raise TimeoutError
                _cut(pending, _STEP)
            batch = pending[-1:] if until_ns is not None else pending[-_IOV_MAX:][::-1]
            remote = (_Iovec * len(batch))(*(_Iovec(start, end - start) for start, end in batch))
            total = sum(end - start for start, end in batch)
            done = max(self._readv(_Iovec(base + offset, total), remote, len(batch)), 0)
            del pending[-len(batch) :]
            offset += done
            for index, (start, end) in enumerate(batch):
                if done >= end - start:
                    done -= end - start
                    copied.append((start, end))
                    continue
                if done:
                    copied.append((start, start + done))
                # The kernel stopped here: take the rest of this run another way, and go on behind it.
                for first, last in self._forced(start + done, end, buffer, offset):
                    copied.append((first, last))
                    offset += last - first
                pending += reversed(batch[index + 1 :])
                break
        return _joined(copied)

    def _forced(self, start: int, end: int, buffer: mmap.mmap, offset: int) -> Iterator[Range]:
        """Copy by /proc/PID/mem, which reads pages without permission too; what is not there is left out page by page."""
        if self._memory is None:
            try:
                self._memory = os.open(self._root / str(self._pid) / "mem", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return
        view = memoryview(buffer)
        try:
            while start < end:
                try:
                    done = os.preadv(self._memory, [view[offset : offset + min(end - start, _FORCED_STEP)]], start)
                except OSError:
                    done = 0
                if done:
                    yield start, start + done
                    offset += done
                start = start + done if done else (start // PAGE + 1) * PAGE
        finally:
            view.release()

    def copy_shmem(self, vmas: Iterable[Vma], known: Sequence[Range], buffer: mmap.mmap, offset: int) -> tuple[list[Range], int]:
        """Copy shared memory that the process has not touched itself, by way of its file: holes stay holes.

        Returns:
            the runs, in the order of the buffer; and how many bytes could not be looked at (only root may open map_files).

        """
        copied: list[Range] = []
        unread = 0
        for vma in filter(is_shmem, vmas):
            missing = subtract([(vma.start, vma.end)], known)
            if not missing:
                continue
            try:
                file = os.open(self._root / str(self._pid) / "map_files" / f"{vma.start:x}-{vma.end:x}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                unread += sum(end - start for start, end in missing)
                continue
            try:
                for start, end in missing:
                    for first, last in _data(file, vma.offset + start - vma.start, vma.offset + end - vma.start):
                        if last - first > len(buffer) - offset:
                            unread += last - first
                            continue
                        try:
                            with memoryview(buffer) as view:
                                done = os.preadv(file, [view[offset : offset + last - first]], first)
                        except OSError:
                            done = 0
                        # A file may end within a page; what follows there is zero, as our buffer is.
                        size = -(-done // PAGE) * PAGE
                        unread += last - first - size
                        if size:
                            address = vma.start + first - vma.offset
                            copied.append((address, address + size))
                            offset += size
            finally:
                os.close(file)
        return copied, unread

    def close(self) -> None:
        """Give back the descriptor."""
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None


def shmem_size(vmas: Iterable[Vma]) -> int:
    """How much shared memory a copy may have to take at most, up to a limit."""
    return min(sum(vma.size for vma in vmas if is_shmem(vma)), _MOST_SHMEM)


def _data(file: int, start: int, end: int) -> Iterator[Range]:
    """The parts of a file that are no holes (lseek(2), SEEK_DATA), in whole pages."""
    while start < end:
        try:
            first = os.lseek(file, start, os.SEEK_DATA)
        except OSError:
            return  # ENXIO: nothing but a hole from here on
        if first >= end:
            return
        last = min(os.lseek(file, first, os.SEEK_HOLE), end)
        yield first // PAGE * PAGE, -(-last // PAGE) * PAGE
        start = last


def _cut(pending: list[Range], most: int) -> None:
    """Split the last run where it is longer than `most`."""
    start, end = pending[-1]
    if end - start > most:
        pending[-1:] = (start + most, end), (start, start + most)


def _joined(runs: list[Range]) -> list[Range]:
    joined: list[Range] = []
    for start, end in runs:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
