"""Taking an image of a live process: stop, copy, let go."""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Protocol

import msgspec

from leakline.errors import NotPossible, PauseTooLong
from leakline.model.ranges import Range, subtract
from leakline.native.heap import MemoryCopy
from leakline.session.process_libc import find_libc
from leakline.sources.allocators.glibc import parse_version
from leakline.sources.heap_image import HeapImage, libc_code
from leakline.sources.kernel_pointers import epoll_descriptors, kernel_pointers
from leakline.sources.ptrace import glance, stopped
from leakline.sources.remote_memory import PAGE, PageMap, RemoteMemory, buffer_for, shmem_size
from leakline.sources.shared_memory import sharers

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from leakline.model.vma import Vma
    from leakline.sources.procfs import ProcFs
    from leakline.sources.ptrace import ThreadState

    Hold = Callable[[], AbstractContextManager["Standing"]]

# A thread is rarely in malloc; if one is, look again at once.
_ATTEMPTS = 10
_BETWEEN_ATTEMPTS_SECONDS = 0.0005
_MOST_OF_AVAILABLE = 0.8
# More of the target's memory than before is expected by the time that it stands still.
_HEADROOM = 1.05, 64 * PAGE
# What a stop takes besides the copy: in all, and for each thread.
_STOP_NS, _THREAD_NS = 1_000_000, 100_000
_TRIAL = 64 << 20
STOP_DEADLINE_SECONDS = 1.0


class Standing(Protocol):
    """A process whose threads all stand still."""

    @property
    def threads(self) -> tuple[ThreadState, ...]:
        """With the registers they have."""

    @property
    def began_ns(self) -> int:
        """CLOCK_MONOTONIC when the first one stopped."""

    @property
    def stopped_ns(self) -> int:
        """How long they stood still, once that is over."""


class Imager:
    """Takes images of one process, as often as wanted.

    Args:
        procfs: where it is.
        pid: which.
        stop_deadline: seconds in which each thread must stop.
        max_pause: seconds that it may stand still at a time; None for as long as it takes.
        hold: how to hold it still, where somebody else of us traces it; None for the usual stop.

    Raises:
        NotSupported: it is no 64-bit, dynamically linked program on a glibc that leakline knows.

    """

    def __init__(
        self,
        procfs: ProcFs,
        pid: int,
        *,
        stop_deadline: float = STOP_DEADLINE_SECONDS,
        max_pause: float | None = None,
        hold: Hold | None = None,
    ) -> None:
        self._hold = hold
        self._procfs = procfs
        self.pid = pid
        self._max_pause = max_pause
        self._patience = stop_deadline
        # While it waits for the last thread to stop, the others stand still already.
        self._stop_deadline = stop_deadline if max_pause is None else min(stop_deadline, max_pause)
        self.vmas = procfs.maps(pid)
        """Its mappings at the beginning."""
        libc = find_libc(procfs, pid, self.vmas)
        self._libc = (libc.vma.device, libc.vma.inode)
        with open(libc.path, "rb") as file:
            self._version = parse_version(file.read())

    def take(self, leave_out: Sequence[Range] = (), standing: Standing | None = None) -> HeapImage:
        """Hold the process still while its memory is copied.

        Args:
            leave_out: memory that holds no pointers.
            standing: it stands still already, and goes on when somebody else lets it.

        Raises:
            TargetGone: it ended meanwhile.
            NotPossible: it did not stop in time, or would have stood still for too long.

        """
        memory = RemoteMemory(self._procfs.root, self.pid)
        with PageMap(self._procfs.root, self.pid) as pages, closing(memory):
            vmas = self._procfs.maps(self.pid)
            shared = shmem_size(vmas)
            runs = subtract(pages.own_runs(vmas), leave_out)
            buffer = self._buffer(int(_size(runs) * _HEADROOM[0]) + _HEADROOM[1] + shared)
            if self._max_pause is not None:
                self._require_short(memory, runs, buffer, self._max_pause)
            others = sharers(self.pid, self._procfs.pids())
            epolls = epoll_descriptors(self._procfs.root, self.pid)
            stopped_ns, held = 0, list[int]()
            for attempt in range(_ATTEMPTS):
                try:
                    with self._held(others) if standing is None else nullcontext(standing) as process:
                        vmas = self._procfs.maps(self.pid)
                        calm = attempt == _ATTEMPTS - 1 or not self._busy(process.threads, vmas)
                        if calm:
                            runs = subtract(pages.own_runs(vmas), leave_out)
                            if _size(runs) + shared > len(buffer):
                                buffer = self._buffer(_size(runs) + shared)
                            copied = memory.copy(runs, buffer, self._until(process.began_ns))
                            held = kernel_pointers(self._procfs.root, self.pid, epolls)
                except TimeoutError as error:
                    raise self._too_long(f"it stood still for {process.stopped_ns / 1e6:.1f} ms and was let go") from error
                stopped_ns += process.stopped_ns
                if calm:
                    break
                time.sleep(_BETWEEN_ATTEMPTS_SECONDS)
            return self._image(memory, vmas, buffer, copied, process.threads, held, stopped_ns)

    def _held(self, others: Sequence[int]) -> AbstractContextManager[Standing]:
        return stopped(self._procfs, self.pid, self._stop_deadline, others) if self._hold is None else self._hold()

    def glance(self) -> tuple[tuple[ThreadState, ...], int]:
        """The registers of its threads, each of which alone stands still meanwhile; and the nanoseconds of all these stops.

        Raises:
            TargetGone: it ended meanwhile.
            NotPossible: a thread did not stop in time.

        """
        return glance(self._procfs, self.pid, self._patience, sharers(self.pid, self._procfs.pids()))

    def take_running(self, threads: Sequence[ThreadState], leave_out: Sequence[Range] = ()) -> HeapImage:
        """Copy its memory while it runs on and changes it.

        Args:
            threads: its registers as they were.
            leave_out: memory that holds no pointers.

        Raises:
            TargetGone: it ended meanwhile.

        """
        memory = RemoteMemory(self._procfs.root, self.pid)
        with PageMap(self._procfs.root, self.pid) as pages, closing(memory):
            vmas = self._procfs.maps(self.pid)
            runs = subtract(pages.own_runs(vmas), leave_out)
            buffer = self._buffer(_size(runs) + shmem_size(vmas))
            copied = memory.copy(runs, buffer)
            held = kernel_pointers(self._procfs.root, self.pid, epoll_descriptors(self._procfs.root, self.pid))
            return msgspec.structs.replace(self._image(memory, vmas, buffer, copied, threads, held, 0), ran_on=True)

    def _image(
        self,
        memory: RemoteMemory,
        vmas: Sequence[Vma],
        buffer: mmap.mmap,
        copied: Sequence[Range],
        threads: Sequence[ThreadState],
        held: Sequence[int],
        stopped_ns: int,
    ) -> HeapImage:
        more, unread = memory.copy_shmem(vmas, copied, buffer, _size(copied))
        return HeapImage(
            pid=self.pid,
            vmas=tuple(vmas),
            copy=MemoryCopy(buffer, [*copied, *more]),
            threads=tuple(threads),
            held=tuple(held),
            unread=unread,
            libc=self._libc,
            version=self._version,
            time_ns=time.monotonic_ns(),
            stopped_ns=stopped_ns,
        )

    def _buffer(self, size: int) -> mmap.mmap:
        available = self._procfs.memory().available
        hint = "Run it where there is more memory, or when there is."
        if available is not None and size > available * _MOST_OF_AVAILABLE:
            raise NotPossible(
                f"a copy of process {self.pid} takes {size >> 20} MiB, and {available >> 20} are available", hint=hint
            )
        try:
            return buffer_for(size)
        except (OSError, MemoryError) as error:
            raise NotPossible(f"no memory for a copy of process {self.pid}: {size >> 20} MiB", hint=hint) from error

    def _busy(self, threads: Sequence[ThreadState], vmas: Sequence[Vma]) -> bool:
        """Whether a thread may be amid malloc: its lists are best looked at when nobody changes them."""
        code = libc_code(vmas, self._libc)
        return any(thread.may_be_in_malloc(code) for thread in threads)

    def expected_pause_ns(self) -> tuple[int, int]:
        """How long the process would stand still for a copy, and the copy's bytes; a copy of some of it while it runs tells.

        Raises:
            TargetGone: it ended meanwhile.

        """
        memory = RemoteMemory(self._procfs.root, self.pid)
        with PageMap(self._procfs.root, self.pid) as pages, closing(memory):
            runs = pages.own_runs(self._procfs.maps(self.pid))
            return self._expected_ns(memory, runs, buffer_for(min(_size(runs), _TRIAL) + PAGE)), _size(runs)

    def _require_short(self, memory: RemoteMemory, runs: Sequence[Range], buffer: mmap.mmap, longest: float) -> None:
        """Refuse, before anything stops, a copy that would take longer."""
        expected = self._expected_ns(memory, runs, buffer)
        if expected > longest * 1e9:
            raise self._too_long(f"the copy of {_size(runs) >> 20} MiB would take about {expected / 1e6:.0f} ms")

    def _expected_ns(self, memory: RemoteMemory, runs: Sequence[Range], buffer: mmap.mmap) -> int:
        """Some of it is copied from the running process to tell."""
        trial, size = [], 0
        for start, end in runs:
            trial.append((start, min(end, start + _TRIAL - size)))
            size += trial[-1][1] - start
            if size >= _TRIAL:
                break
        began = time.monotonic_ns()
        memory.copy(trial, buffer)
        took = time.monotonic_ns() - began
        threads = len(self._procfs.threads(self.pid))
        return int(took * _size(runs) / max(size, 1) + _STOP_NS + threads * _THREAD_NS)

    def _too_long(self, why: str) -> PauseTooLong:
        return PauseTooLong(f"process {self.pid} would stand still for longer than {(self._max_pause or 0) * 1e3:g} ms: {why}")

    def _until(self, began_ns: int) -> int | None:
        return None if self._max_pause is None else began_ns + int(self._max_pause * 1e9)


def _size(runs: Sequence[Range]) -> int:
    return sum(end - start for start, end in runs)
