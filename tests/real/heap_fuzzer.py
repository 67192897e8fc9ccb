"""Damage a captured heap, one image after the other, and judge each as a scan does.

Run by test_fuzzed_heaps.py as a process of its own, with a walker that was built with sanitizers: what crashes ends the process,
and so does an image that takes too long. Whichever it was, the last line of the log names the damage.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import itertools
import mmap
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from leakline.errors import LeaklineError
from leakline.model.heap import HeapScan
from leakline.model.vma import Vma
from leakline.native import parts
from leakline.native.heap import MemoryCopy
from leakline.session.searching import Details, search
from leakline.sources.allocators.glibc import GlibcVersion, find_arenas, find_main_arena
from leakline.sources.heap_image import HeapImage
from leakline.sources.ptrace import ThreadState
from leakline.symbols.resolver import Resolver

SECONDS_FOR_ONE = 20
_SEVERAL = 5000
_WORD = (1 << 64) - 1
_FLIPPED = (0, 1, 2, 3, 4, 5, 12, 20, 31, 47, 63)
_LARGE = (1 << 63) - 32

Damage = tuple[tuple[int, int], ...]
"""Words to be written: (address, value)."""


class Capture(msgspec.Struct, frozen=True, kw_only=True):
    """A HeapImage as it is handed over."""

    version: tuple[int, int]
    libc: tuple[tuple[int, int], int]
    vmas: tuple[Vma, ...]
    threads: tuple[ThreadState, ...]
    held: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]
    data: bytes


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the images."""

    images: int
    reported: int
    unnoticed: tuple[str, ...]
    """Damage to what a walk cannot do without, and that was not reported."""


class GuardedCopy(MemoryCopy):
    """A copy whose runs are blocks of their own to the C code, so that the sanitizer sees a read behind one."""

    def __init__(self, data: bytes, runs: Sequence[tuple[int, int]]) -> None:
        self._bytes = mmap.mmap(-1, len(data))
        self._bytes[:] = data
        super().__init__(self._bytes, runs)
        malloc = ctypes.CDLL(None).malloc
        malloc.restype = ctypes.c_void_p
        self._blocks: list[int] = []
        for start, end in self.runs:
            block = malloc(ctypes.c_size_t(end - start))
            ctypes.memmove(block, self.read(start, end - start), end - start)
            self._blocks.append(block)

    def base_address(self) -> int:
        return 0

    def offset(self, run: int) -> int:
        return self._blocks[run]

    def put(self, address: int, value: int) -> None:
        """Change a word."""
        run = next(index for index, (start, end) in enumerate(self.runs) if start <= address < end)
        word = value.to_bytes(8, "little")
        at = super().offset(run) + address - self.runs[run][0]
        self._bytes[at : at + 8] = word
        ctypes.memmove(self._blocks[run] + address - self.runs[run][0], word, 8)

    @contextlib.contextmanager
    def damaged(self, damage: Damage) -> Iterator[None]:
        """Write the words, and put back what was there."""
        before = [(address, self.word(address) or 0) for address, _ in damage]
        for address, value in damage:
            self.put(address, value)
        yield
        for address, value in reversed(before):
            self.put(address, value)


class Fuzzer:
    """Searches images of one captured process."""

    def __init__(self, capture: Capture) -> None:
        version = GlibcVersion(*capture.version)
        self._arena, self._tcache = version.arena, version.tcache.chunk_size
        self.copy = GuardedCopy(capture.data, capture.runs)
        self._image = HeapImage(
            pid=1,
            vmas=capture.vmas,
            copy=self.copy,
            threads=capture.threads,
            held=capture.held,
            unread=0,
            libc=capture.libc,
            version=version,
            time_ns=0,
            stopped_ns=0,
        )
        main = find_main_arena(self.copy, self._arena, filter(self._image.is_libc, capture.vmas))
        assert main is not None
        # To look for it in all of libc takes longer than all else.
        near = [piece for vma in capture.vmas for piece in self._near(vma, main)]
        self._image = msgspec.structs.replace(self._image, vmas=tuple(near))
        self._resolver = Resolver(near, lambda vma: None, b"")
        self._arenas, problems = find_arenas(self.copy, self._arena, main, list(capture.vmas))
        assert len(self._arenas) == 2
        assert problems == []
        scan = self._search(None)
        assert scan.problems == ()
        self._bookkeeping = scan.heap_ranges
        lost = next(block.address for block in scan.lost if block.kind == "indirect")
        held = self._search(self._arenas[0].heaps[0][0] + 16).why  # the tcache of the first thread
        assert held is not None
        assert held.path
        self._asked = (None, lost, held.asked, self._bookkeeping[-1][0] + 16, self._arenas[1].top)

    def _near(self, vma: Vma, main: int) -> Iterator[Vma]:
        """The mapping, but for what lies around the main arena as if it were of another file."""
        if not self._image.is_libc(vma) or "w" not in vma.perms:
            yield vma
            return
        first, last = main - 512, main + self._arena.size + 512
        for start, end, inode in ((0, first, 1), (first, last, vma.inode), (last, 1 << 64, 1)):
            if max(start, vma.start) < min(end, vma.end):
                yield msgspec.structs.replace(vma, start=max(start, vma.start), end=min(end, vma.end), inode=inode)

    def problems(self, damage: Damage, number: int) -> Sequence[str]:
        """Search the image; what is reported as broken. Raises nothing but what leakline can explain."""
        with self.copy.damaged(damage):
            try:
                return self._search(self._asked[number % len(self._asked)], census=number % 8 == 0).problems
            except LeaklineError as error:
                return (error.message,)

    def _search(self, why: int | None, *, census: bool = True) -> HeapScan:
        scan = search(self._image, self._resolver, 0, Details(census=census, content=True, why=why))
        assert (scan.why is None) == (why is None)
        if scan.census is not None:
            counted = Counter({"reachable": scan.reachable.blocks}) + Counter(block.kind for block in scan.lost)
            for group in scan.census.groups:
                counted[group.kind] -= group.blocks
            assert not any(counted.values())
        mapped = sum(vma.size for vma in self._image.vmas)
        assert scan.reachable.bytes + sum(block.size for block in scan.lost) + scan.retained_free <= mapped
        leaders = {block.address for block in scan.lost if block.kind != "indirect"}
        assert all(block.leader in leaders for block in scan.lost)
        return scan

    def words(self) -> tuple[list[int], list[int]]:
        """Where malloc and the C library keep books: what a walk cannot do without, and all else."""
        vital: list[int] = []
        others: list[int] = []
        layout, tcache = self._arena, self._tcache
        for arena in self._arenas:
            vital += (arena.address + layout.top, arena.address + layout.next, arena.top + 8)
            others += range(arena.address, arena.address + layout.size, 8)
            for start, _ in arena.memory[: len(arena.heaps)] if arena is not self._arenas[0] else ():
                vital += (start, start + 8, start + 16)
                others += range(start + 24, start + 48, 8)
            for first, end in arena.heaps:
                for chunk, size in self._chunks(first, end):
                    vital.append(chunk + 8)
                    others += (chunk, chunk + 16, chunk + 24)
                    others += range(chunk + 32, chunk + tcache, 8) if size == tcache else ()
            others.append(arena.top)
        mapped = self._bookkeeping[sum(len(arena.memory) for arena in self._arenas) :]
        for start, _ in mapped:
            others += (start, start + 8)
        for thread in self._image.threads:
            others += range(thread.thread_pointer, thread.thread_pointer + 0x700, 8)
        held = [word for word in dict.fromkeys(others) if word not in vital and self.copy.word(word) is not None]
        return vital, held

    def _chunks(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        chunk = first
        while chunk < end:
            size = (self.copy.word(chunk + 8) or 0) & ~7
            if size < 32:
                return
            yield chunk, size
            chunk += size


def values(before: int, address: int) -> Iterable[int]:
    """What a word is damaged to."""
    flips = (before ^ 1 << bit for bit in _FLIPPED)
    return dict.fromkeys((*flips, *impossible(address), 1, 17, 33, (1 << 20) | 1, (address - 16) | 1, (before + 16) & _WORD))


def impossible(address: int) -> tuple[int, ...]:
    """What is neither the size of a chunk nor the address of a heap or an arena."""
    return 0, _WORD, 9, 25, 1 << 40 | 1, _LARGE, address | 1


def fuzz(fuzzer: Fuzzer, log: Path, step: int) -> Outcome:
    """Every kind of damage to every word, and random damage to several at once; of these one in `step`."""
    vital, others = fuzzer.words()
    images = reported = 0
    unnoticed: list[str] = []
    generator = random.Random(0)
    everywhere = [*vital, *others]
    single: Iterator[Damage] = (((word, value),) for word in everywhere for value in values(fuzzer.copy.word(word) or 0, word))
    multiple: Iterator[Damage] = (
        tuple(
            (word, generator.choice(list(values(fuzzer.copy.word(word) or 0, word))))
            for word in generator.sample(everywhere, generator.randint(2, 12))
        )
        for _ in range(_SEVERAL)
    )
    with open(log, "w", encoding="ascii") as file:
        for damage in itertools.islice(itertools.chain(single, multiple), None, None, step):
            described = ", ".join(f"{word:#x} = {value:#x}" for word, value in damage)
            print(described, file=file, flush=True)
            faulthandler.dump_traceback_later(SECONDS_FOR_ONE, exit=True)
            problems = fuzzer.problems(damage, images)
            images += 1
            reported += bool(problems)
            (word, value), *more = damage
            if not (problems or more) and word in vital and value in impossible(word) and value != fuzzer.copy.word(word):
                unnoticed.append(described)
    faulthandler.cancel_dump_traceback_later()
    return Outcome(images=images, reported=reported, unnoticed=tuple(unnoticed))


def main() -> None:
    """usage: python -m tests.real.heap_fuzzer LIBRARY CAPTURE LOG STEP."""
    library, capture, log, step = sys.argv[1:]
    parts.part_path = lambda name: Path(library)
    fuzzer = Fuzzer(msgspec.msgpack.decode(Path(capture).read_bytes(), type=Capture))
    sys.stdout.buffer.write(msgspec.json.encode(fuzz(fuzzer, Path(log), int(step))))


if __name__ == "__main__":
    main()
