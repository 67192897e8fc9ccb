"""One look into a live heap: stop, copy, let go, and only then think."""

from __future__ import annotations

import time
import zlib
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.roots import ThreadStack, dead_stack, ended_stacks, stack_bounds
from leakline.errors import NotPossible
from leakline.model.heap import BlockTotal, HeapScan, LeakKind, LostBlock
from leakline.model.ranges import Range, subtract
from leakline.native.heap import INDIRECT, POSSIBLE, REACHABLE, UNREACHED, Heap, MemoryCopy
from leakline.session.process_libc import find_libc
from leakline.session.symbolising import resolver_for
from leakline.sources.allocators.glibc import Arena, add_blocks, find_arenas, find_main_arena, parse_version
from leakline.sources.kernel_pointers import epoll_descriptors, kernel_pointers
from leakline.sources.ptrace import ThreadState, glance, stopped
from leakline.sources.remote_memory import PAGE, PageMap, RemoteMemory, buffer_for, holds_pointers, shmem_size

if TYPE_CHECKING:
    import mmap
    from collections.abc import Sequence

    from leakline.model.vma import Vma
    from leakline.sources.procfs import ProcFs

_KINDS: dict[int, LeakKind] = {UNREACHED: "definite", INDIRECT: "indirect", POSSIBLE: "possible"}
# A thread is rarely in malloc; if one is, look again at once.
_ATTEMPTS = 10
_BETWEEN_ATTEMPTS_SECONDS = 0.0005
_BETWEEN_COPIES_SECONDS = 0.05
_MOST_OF_AVAILABLE = 0.8
# More of the target's memory than before is expected by the time that it stands still.
_HEADROOM = 1.05, 64 * PAGE
STOP_DEADLINE_SECONDS = 1.0
BETWEEN_SCANS_SECONDS = 0.3


class Scanner:
    """Looks into the heap of one process, as often as wanted.

    Raises:
        NotSupported: it is no 64-bit, dynamically linked program on a glibc that leakline knows.

    """

    def __init__(self, procfs: ProcFs, pid: int) -> None:
        self._procfs = procfs
        self.pid = pid
        libc = find_libc(procfs, pid)
        self._libc = (libc.vma.device, libc.vma.inode)
        with open(libc.path, "rb") as file:
            self.version = parse_version(file.read())

    @property
    def allocator(self) -> str:
        """As recognised, such as `glibc 2.36`."""
        return f"glibc {self.version}"

    def scan(self, stop_deadline: float = STOP_DEADLINE_SECONDS) -> HeapScan:
        """Look once.

        Raises:
            TargetGone: it ended meanwhile.
            NotPossible: it did not stop in time.

        """
        began = time.monotonic_ns()
        memory = RemoteMemory(self._procfs.root, self.pid)
        with PageMap(self._procfs.root, self.pid) as pages, closing(memory):
            vmas = self._procfs.maps(self.pid)
            shared = shmem_size(vmas)
            expected = sum(end - start for start, end in pages.own_runs(vmas))
            buffer = self._buffer(int(expected * _HEADROOM[0]) + _HEADROOM[1] + shared)
            stopped_ns, held = 0, list[int]()
            epolls = epoll_descriptors(self._procfs.root, self.pid)
            for attempt in range(_ATTEMPTS):
                with stopped(self._procfs, self.pid, stop_deadline) as process:
                    vmas = self._procfs.maps(self.pid)
                    calm = attempt == _ATTEMPTS - 1 or not self._busy(process.threads, vmas)
                    if calm:
                        runs = pages.own_runs(vmas)
                        needed = sum(end - start for start, end in runs) + shared
                        if needed > len(buffer):
                            buffer = self._buffer(needed)
                        copied = memory.copy(runs, buffer)
                        held = kernel_pointers(self._procfs.root, self.pid, epolls)
                stopped_ns += process.stopped_ns
                if calm:
                    break
                time.sleep(_BETWEEN_ATTEMPTS_SECONDS)
            used = sum(end - start for start, end in copied)
            more, unread = memory.copy_shmem(vmas, copied, buffer, used)
        return self._judge(MemoryCopy(buffer, [*copied, *more]), vmas, process.threads, held, unread, began, stopped_ns)

    def scan_running(self, looks: int, deadline: float = STOP_DEADLINE_SECONDS) -> HeapScan:
        """Look several times while the process runs on: what all looks call lost, with the same content, is possible at most.

        Only the registers are read by stops, of one thread at a time, at the first look and at the last: a block that one of these
        looks finds held is not called lost, whatever the looks between them say.

        Args:
            looks: how many.
            deadline: seconds in which each thread must stop.

        Raises:
            TargetGone: it ended meanwhile.
            NotPossible: a thread did not stop in time.

        """
        began = time.monotonic_ns()
        agreed: dict[int, tuple[LostBlock, int]] | None = None
        scans: list[HeapScan] = []
        threads: tuple[ThreadState, ...] = ()
        attempts = stopped_ns = 0
        while len(scans) < looks:
            if attempts:
                time.sleep(_BETWEEN_COPIES_SECONDS)
            attempts += 1
            if not threads or len(scans) == looks - 1:
                threads, stood = glance(self._procfs, self.pid, deadline)
                stopped_ns += stood
            scan, digests = self._look_running(threads)
            if scan.problems and attempts < _ATTEMPTS:
                continue  # malloc was at work: its lists did not fit together
            scans.append(scan)
            found = {block.address: (block, digests[block.address]) for block in scan.lost}
            agreed = found if agreed is None else {a: f for a, f in agreed.items() if _same(f, found.get(a))}
        lost = tuple(msgspec.structs.replace(block, kind="possible", leader=block.address) for block, _ in (agreed or {}).values())
        return msgspec.structs.replace(
            scans[-1],
            lost=lost,
            stopped_ns=stopped_ns,
            duration_ns=time.monotonic_ns() - began,
            looks=looks,
        )

    def _look_running(self, threads: Sequence[ThreadState]) -> tuple[HeapScan, dict[int, int]]:
        """One look, and a checksum of what each lost block holds."""
        began = time.monotonic_ns()
        memory = RemoteMemory(self._procfs.root, self.pid)
        with PageMap(self._procfs.root, self.pid) as pages, closing(memory):
            vmas = self._procfs.maps(self.pid)
            runs = pages.own_runs(vmas)
            buffer = self._buffer(sum(end - start for start, end in runs) + shmem_size(vmas))
            copied = memory.copy(runs, buffer)
            held = kernel_pointers(self._procfs.root, self.pid, epoll_descriptors(self._procfs.root, self.pid))
            used = sum(end - start for start, end in copied)
            more, unread = memory.copy_shmem(vmas, copied, buffer, used)
        copy = MemoryCopy(buffer, [*copied, *more])
        scan = self._judge(copy, vmas, threads, held, unread, began, 0)
        return scan, {block.address: zlib.crc32(copy.read(block.address, block.size)) for block in scan.lost}

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
        """Whether a thread runs libc's own code, which may be malloc's: its lists are best looked at when nobody changes them."""
        code = [vma for vma in vmas if (vma.device, vma.inode) == self._libc and "x" in vma.perms]
        return any(not t.in_system_call and any(t.instruction_pointer in vma for vma in code) for t in threads)

    def _judge(
        self,
        copy: MemoryCopy,
        vmas: list[Vma],
        threads: Sequence[ThreadState],
        held: Sequence[int],
        unread: int,
        began: int,
        stopped_ns: int,
    ) -> HeapScan:
        arenas, problems = self._arenas(copy, vmas)
        if unread:
            problems.append(f"{unread} bytes of shared memory were not read, and may hold pointers: nothing is called definite")
        seen = time.monotonic_ns()
        with Heap(copy) as heap:
            layout = add_blocks(heap, self.version, arenas, vmas)
            files = [(vma.start, vma.end) for vma in vmas if vma.is_file and vma.perms[0] == "r"]
            code = [(vma.start, vma.end) for vma in vmas if vma.is_file and vma.perms[2] == "x"]
            roots, values = self._roots(copy, vmas, threads, layout.bookkeeping)
            heap.mark(roots, [*values, *held], files, code)
            blocks, sizes = heap.totals()
            resolver = resolver_for(self._procfs, self.pid, vmas)
            raw = list(heap.lost())
        contents = resolver.data_symbols(block.first_word for block in raw)
        lost = tuple(
            LostBlock(
                address=block.address,
                size=block.size,
                kind="possible" if unread else _KINDS[block.state],
                leader=block.leader,
                content=contents.get(block.first_word),
            )
            for block in raw
        )
        return HeapScan(
            time_ns=seen,
            allocator=self.allocator,
            lost=lost,
            reachable=BlockTotal(blocks=blocks[REACHABLE], bytes=sizes[REACHABLE]),
            retained_free=layout.free_bytes,
            heap_ranges=layout.bookkeeping,
            stopped_ns=stopped_ns,
            duration_ns=time.monotonic_ns() - began,
            copied=copy.size,
            threads=len(threads),
            problems=(*problems, *layout.problems),
        )

    def _arenas(self, copy: MemoryCopy, vmas: list[Vma]) -> tuple[list[Arena], list[str]]:
        # libc's .bss is anonymous memory right behind its .data, where main_arena lies.
        libc = [vma for vma in vmas if (vma.device, vma.inode) == self._libc]
        main = find_main_arena(copy, libc)
        if main is None:
            if any(vma.path == "[heap]" for vma in vmas):
                raise NotPossible(
                    f"the heap of process {self.pid} was not found in its {self.allocator}",
                    hint="Either it has not called malloc yet, or its allocator is one that leakline does not know.",
                )
            return [], []
        return find_arenas(copy, main, vmas)

    @staticmethod
    def _roots(
        copy: MemoryCopy, vmas: Sequence[Vma], threads: Sequence[ThreadState], bookkeeping: Sequence[Range]
    ) -> tuple[list[Range], list[int]]:
        stack_of_first = next((vma for vma in vmas if vma.path == "[stack]"), None)
        bounds: list[tuple[ThreadStack, Range | None]] = []
        for state in threads:
            thread = ThreadStack(stack_pointer=state.stack_pointer, thread_pointer=state.thread_pointer)
            if stack_of_first is not None and state.stack_pointer in stack_of_first:
                bounds.append((thread, (stack_of_first.start, stack_of_first.end)))
            else:
                bounds.append((thread, stack_bounds(thread, copy.words)))
        writable = [piece for vma in vmas if holds_pointers(vma) for piece in copy.pieces(vma.start, vma.end)]
        ended = ended_stacks(((state.tid, state.thread_pointer) for state in threads), copy.words)
        roots = subtract(writable, [*bookkeeping, *dead_stack(bounds), *ended.values()])
        registers = [word for state in threads for word in (*state.registers, *state.extended)]
        # A thread's table of TLS blocks (dtv) is allocated, and known by a pointer behind its first entry
        # (sysdeps/x86_64/nptl/tls.h). That of an ended thread is kept with its stack.
        descriptors = [state.thread_pointer for state in threads if state.thread_pointer]
        registers += [(copy.word(descriptor + 8) or 16) - 16 for descriptor in (*descriptors, *ended)]
        return roots, registers


def _same(before: tuple[LostBlock, int], now: tuple[LostBlock, int] | None) -> bool:
    """Whether it is the same block: at one address many follow each other."""
    return now is not None and (before[0].size, before[1]) == (now[0].size, now[1])
