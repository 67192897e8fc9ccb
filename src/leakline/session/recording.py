"""Recording: processes, their mappings and the machine's counters over time, into one file."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.system_owners import UNEXPLAINED, unexplained
from leakline.analysis.vma_kind import describe_mappings
from leakline.errors import LeaklineError, NotPossible, TargetGone
from leakline.model.names import readable
from leakline.model.recording import CounterValue, RecordingStart, RecordingSummary
from leakline.session.sampling import Sampler
from leakline.session.targets import require_readable, select
from leakline.sources.cgroupfs import read_cgroups
from leakline.sources.procfs import ProcFs
from leakline.sources.slabinfo import is_reclaimable, read_slabs
from leakline.sources.vmallocinfo import read_vmalloc
from leakline.store.writer import RecordingWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from leakline.model.mappings import VmaMemory
    from leakline.model.recording import CounterKind, Tick
    from leakline.session.interruption import Interruption
    from leakline.session.sampling import Choice, Look, Sampled
    from leakline.sources.machine import Machine

_SLOW_SECONDS = 10.0
"""Slab caches and control groups are many files, and move slowly."""
_STACKS, _ARENAS = "[thread stacks]", "[arenas]"
_NAMES = {"heap": "[heap]", "malloc arena": _ARENAS, "mmapped malloc chunk": "[heap]", "thread stack": _STACKS, "stack": "[stack]"}


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What to record, and how."""

    choice: Choice
    interval: float
    """Seconds from tick to tick."""
    duration: float
    maps_every: float | None
    """Seconds from look to look at the mappings; None for none."""
    kernel: bool
    keep: float | None
    """Seconds; earlier ticks are thinned out. None keeps all."""
    append: bool
    replace: bool


class Recording:
    """One recording, or a part that is added to it.

    Args:
        machine: the live one.
        path: the file.
        wish: what.
        interruption: the first Ctrl-C ends it.
        say: hears of each tick that is safe in the file, and of what cannot be recorded.

    """

    def __init__(self, machine: Machine, path: Path, wish: Wish, interruption: Interruption, say: Callable[[str], None]) -> None:
        self._machine = machine
        self._procfs = ProcFs(machine.proc)
        self._path = path
        self._wish = wish
        self._interruption = interruption
        self._say = say
        self._next_maps = self._next_slow = 0.0
        self._reclaimable: dict[str, bool] = {}
        self._missing: set[str] = set()

    def run(self, on_tick: Callable[[int, Tick], None]) -> RecordingSummary:
        """Record until the time is over, the first Ctrl-C, or the end of all processes that were named.

        Args:
            on_tick: hears of each tick after it is safe, with the number of ticks of this part.

        Raises:
            TargetGone: no such process is there.
            InvalidRequest: the file cannot be written, or the disk is full: what was written stays.

        """
        wish, began, spent = self._wish, time.clock_gettime(time.CLOCK_BOOTTIME), time.process_time()
        if wish.choice.named:
            for pid in select(self._procfs, sorted(wish.choice.pids), wish.choice.name.pattern if wish.choice.name else None):
                require_readable(self._procfs, pid, probe=False)
        sampler = Sampler(self._machine, wish.choice)
        try:
            look = sampler.tick()
            if not look.processes and not wish.choice.everything:
                raise TargetGone("no such process", hint="`leakline ps` shows what there is.")
            keep = None if wish.keep is None else round(wish.keep / wish.interval)
            with RecordingWriter(self._path, self._start(), append=wish.append, replace=wish.replace, keep=keep) as writer:
                count, oldest = 0, 0.0
                for _ in self._interruption.ticks(wish.interval, wish.duration):
                    look = sampler.tick() if count else look
                    self._write(writer, look)
                    count += 1
                    on_tick(count, look.tick)
                    oldest = max(oldest, look.tick.oldest)
                    if (
                        not look.processes
                        and not wish.choice.everything
                        and wish.choice.name is None
                        and wish.choice.cgroup is None
                    ):
                        break
                ticks, processes, samples = writer.ticks, writer.processes, writer.samples
        finally:
            sampler.close()
        seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - began
        return RecordingSummary(
            file=readable(str(self._path)),
            ticks=ticks,
            processes=processes,
            samples=samples,
            duration_seconds=seconds,
            missed_ticks=max(0, int(seconds / wish.interval) + 1 - count),
            bytes=self._path.stat().st_size,
            oldest_seconds=oldest,
            cpu_seconds=time.process_time() - spent,
        )

    def _start(self) -> RecordingStart:
        kernel = self._machine.proc / "sys/kernel"
        boot = kernel / "random/boot_id"
        return RecordingStart(
            boot_id=boot.read_text().strip() if boot.exists() else "unknown",
            host=os.uname().nodename,
            kernel=os.uname().release,
            interval=self._wish.interval,
            ticks_per_second=self._machine.ticks_per_second,
            memory=self._procfs.memory().total,
        )

    def _write(self, writer: RecordingWriter, look: Look) -> None:
        now = look.tick.boottime
        if look.refused is not None:
            self._miss(look.refused)
        amounts = self._procfs.amounts()
        counters: dict[CounterKind, list[CounterValue]] = {
            "meminfo": [CounterValue("meminfo", name, value) for name, value in amounts.items()]
        }
        if self._wish.kernel:
            pages = self._procfs.per_cpu_pages()
            rest = unexplained(amounts, None if pages is None else pages * self._machine.page_size)
            counters["meminfo"].append(CounterValue("meminfo", UNEXPLAINED, rest))
        if self._wish.kernel and now >= self._next_slow:
            self._next_slow = now + max(_SLOW_SECONDS, self._wish.interval)
            for kind, read in (("slab", self._slabs), ("vmalloc", self._vmalloc), ("cgroup", self._cgroups)):
                try:
                    counters[kind] = list(read(look))  # type: ignore[index]
                except LeaklineError as error:
                    self._miss(error.message)
        if self._wish.maps_every is not None and now >= self._next_maps:
            self._next_maps = now + self._wish.maps_every
            counters["mapping"] = [value for sampled in look.processes for value in self._mappings(sampled)]
        fresh = [(s.identity, s.amounts) for s in look.processes if s.fresh and s.amounts is not None]
        writer.write(look.tick, fresh, look.ended, counters)

    def _miss(self, what: str) -> None:
        if what not in self._missing:
            self._missing.add(what)
            self._say(f"not recorded: {what}")

    def _slabs(self, _look: Look) -> Iterator[CounterValue]:
        for cache in read_slabs(self._machine):
            if cache.name not in self._reclaimable:
                self._reclaimable[cache.name] = is_reclaimable(self._machine, cache.name)
            if cache.bytes:
                yield CounterValue("slab", cache.name, cache.bytes, reclaimable=self._reclaimable[cache.name])

    def _vmalloc(self, _look: Look) -> Iterator[CounterValue]:
        sums: Counter[str] = Counter()
        for caller in read_vmalloc(self._machine):
            sums[caller.caller] += caller.bytes
        yield from (CounterValue("vmalloc", name, value) for name, value in sums.items() if value)

    def _cgroups(self, look: Look) -> Iterator[CounterValue]:
        """What each is charged beyond page cache, which the kernel takes back."""
        members = Counter(sampled.identity.cgroup for sampled in look.processes if sampled.identity.cgroup is not None)
        with suppress(NotPossible):
            for group in read_cgroups(self._machine, members):
                cache = (group.file or 0) - (group.shmem or 0)
                yield CounterValue("cgroup", group.path, max(0, group.usage - max(0, cache)))

    def _mappings(self, sampled: Sampled) -> Iterator[CounterValue]:
        """USS + swap of the mappings of a process that belong together."""
        try:
            pid = sampled.identity.pid
            rows = describe_mappings(self._procfs.smaps(pid), self._procfs.stack_pointers(pid))
        except LeaklineError:
            return  # it ended, or may not be read
        sums: Counter[str] = Counter()
        for row in rows:
            sums[_group(row)] += row.uss + row.swap
        for name, value in sums.items():
            if value:
                yield CounterValue("mapping", name, value, sampled.identity)


def _group(row: VmaMemory) -> str:
    name = _NAMES.get(row.kind)
    if name is not None:
        return name
    return row.path or ("[bss]" if row.kind == "bss" else "[anon]")
