"""The kernel's memory over time: which counter grows, and whose things it counts."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from leakline.analysis.kernel_counters import finding_of, growth_of, judge_looks, objects_gained
from leakline.analysis.kernel_owners import more_of, owners_of_counter
from leakline.analysis.system_owners import unexplained
from leakline.analysis.trend import Settings
from leakline.errors import NotPossible, ParseError
from leakline.model.finding import Cost, NotJudged, Report, RetainedFree, Summary
from leakline.model.kernel import CounterGrowth, FreeArea, KernelReport, MovableBlocks, SlabRow, VmallocCaller
from leakline.session.kernel_sampling import KernelSampler, Part
from leakline.sources.free_pages import parse_buddyinfo, parse_pagetypeinfo
from leakline.sources.kernel_things import take_census
from leakline.sources.procfs import ProcFs
from leakline.sources.system_files import parse_vmstat

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from leakline.analysis.kernel_counters import KernelLook
    from leakline.model.kernel import Census, CounterOwner
    from leakline.model.trend import SeriesTrend
    from leakline.session.interruption import Interruption
    from leakline.sources.machine import Machine

_COMPACTION = ("compact_stall", "compact_fail", "compact_success", "allocstall", "oom_kill", "nr_free_pages", "kswapd_steal")
_MOST_LOOKS = 256
_FIRST_JUDGEMENT = 8


class KernelWatch:
    """Samples the counters, counts everybody's things at the start, and says who has more of them.

    Args:
        machine: whose; of a captured one there is one look.
        interruption: the first Ctrl-C ends it.
        parts: only the counters of these; all if empty.
        settings: how to judge.

    """

    def __init__(
        self,
        machine: Machine,
        interruption: Interruption,
        parts: Collection[Part] = (),
        settings: Settings = Settings(),  # noqa: B008
    ) -> None:
        self._machine, self._interruption = machine, interruption
        self._parts, self._settings = parts, settings
        self.sampler = KernelSampler(machine, parts)
        self.looks: list[KernelLook] = []
        self._taken, self._stride = 0, 1
        self._things: Census = {}
        self._said: dict[str, str] = {}
        self._next_judgement = _FIRST_JUDGEMENT
        self._slabs: dict[str, int] = {}
        self._vmalloc: dict[tuple[str, str | None], int] = {}

    def begin(self) -> None:
        """Count everybody's things, to know later who has more."""
        if self._machine.live:
            self._things = take_census(self._machine)

    def look(self) -> None:
        """Take one sample. So many are kept at most: when it is full every second one goes, and only every second one comes."""
        look = self.sampler.look()
        if self._taken % self._stride == 0 and len(self.looks) == _MOST_LOOKS:
            self.looks = self.looks[::2]
            self._stride *= 2
        if self._taken % self._stride == 0:
            self.looks.append(look)
        self._taken += 1
        if self._taken == 1:
            self._slabs = {cache.name: cache.bytes for cache in self.sampler.slabs}
            self._vmalloc = {(caller.caller, caller.module): caller.bytes for caller in self.sampler.vmalloc}

    def run(self, interval: float, duration: float, say: Callable[[str], None]) -> KernelReport:
        """Sample until the time is over, and report.

        Args:
            interval: seconds from sample to sample.
            duration: seconds; 0 is one look.
            say: hears what is done.

        Raises:
            NotPossible: this machine's memory cannot be read.

        """
        seconds = duration if self._machine.live else 0.0
        if seconds:
            self.begin()
            processes = len({holder.pid for holder, _ in self._things if holder.pid is not None})
            say(f"counted what {processes} processes have; watching the counters for {seconds:g} s, every {interval:g} s")
        began = time.monotonic()
        for _ in self._interruption.ticks(interval, seconds):
            self.look()
        return self.report(time.monotonic() - began)

    def changes(self) -> list[CounterGrowth]:
        """Counters whose verdict has firmed up, or changed, since the last call; judged again only after enough looks more."""
        if self._taken < self._next_judgement:
            return []
        self._next_judgement = self._taken + max(4, self._taken // 10)
        found = [growth for growth in self.growing() if self._said.get(growth.counter) != growth.verdict]
        self._said |= {growth.counter: growth.verdict for growth in found}
        return found

    def finding_report(self, began_ns: int) -> Report:
        """What grows, as findings; what the kernel takes back when it needs memory is none."""
        return Report(
            target=None,
            bytes_are="usable",
            summary=Summary(definite=None, indirect=None, possible=None, reachable=None),
            findings=tuple(finding_of(growth, self._taken) for growth in self.growing() if not growth.reclaimable),
            retained_free=RetainedFree(bytes=None),
            not_judged=tuple(
                NotJudged(name=name, bytes=None, share=None, why=why) for name, why in self.sampler.unreadable.items()
            ),
            cost=Cost(target_stopped_ns=0, duration_ns=time.monotonic_ns() - began_ns),
        )

    def growing(self) -> list[CounterGrowth]:
        """Counters that are judged to grow, with whoever has more of what they count; the fastest first."""
        accused = [trend for trend in judge_looks(self.looks, self._settings) if trend.accuses]
        if not accused:
            return []
        more = more_of(self._things, take_census(self._machine)) if self._machine.live else []
        found = [growth_of(trend, self.looks, self.sampler.aliases, self._owners(trend, more)) for trend in accused]
        return sorted(found, key=lambda growth: (growth.reclaimable, -(growth.rate_bytes_per_second or 0.0)))

    def trends(self) -> list[SeriesTrend]:
        """The judgements of all counters that are higher than at first."""
        return judge_looks(self.looks, self._settings)

    def _owners(self, trend: SeriesTrend, more: Sequence[CounterOwner]) -> tuple[CounterOwner, ...]:
        kind, _, name = trend.name.partition(":")
        aliases = self.sampler.aliases.get(name, ()) if kind == "slab" else ()
        return owners_of_counter(trend.name, aliases, trend.increase or 0, objects_gained(self.looks, trend.name), more)

    def report(self, seconds: float) -> KernelReport:
        """What has been seen so far."""
        procfs = ProcFs(self._machine.proc)
        amounts, pages = procfs.amounts(), procfs.per_cpu_pages()
        rest = unexplained(amounts, None if pages is None else pages * self._machine.page_size)
        several = len(self.looks) > 1
        ends = [look.values.get("unexplained") for look in (self.looks[0], self.looks[-1])]
        last = rest if ends[1] is None else ends[1]
        return KernelReport(
            duration_seconds=seconds if several else 0.0,
            samples=self._taken,
            mem_total=amounts["MemTotal"],
            unexplained_bytes=last,
            unexplained_growth=last - ends[0] if several and ends[0] is not None else None,
            growth=tuple(self.growing()),
            unreadable=tuple(f"{name}: {why}" for name, why in self.sampler.unreadable.items()),
            cpu_seconds=self.sampler.cpu_seconds / max(self._taken, 1),
            slabs=tuple(self._slab_rows(several=several)) if "slab" in self._parts else None,
            vmalloc=tuple(self._callers(several=several)) if "vmalloc" in self._parts else None,
            zones=procfs.zones(self._machine.page_size) if "zones" in self._parts else None,
            buddy=self._free_areas() if "buddy" in self._parts else None,
            page_types=self._page_types() if "buddy" in self._parts else None,
            compaction=self._compaction() if "buddy" in self._parts else None,
        )

    def _slab_rows(self, *, several: bool) -> list[SlabRow]:
        rows = [
            SlabRow(
                name=cache.name,
                aliases=self.sampler.aliases.get(cache.name, ()),
                objects=cache.objects,
                object_size=cache.object_size,
                bytes=cache.bytes,
                in_use=cache.objects * cache.object_size,
                reclaimable=self.sampler.is_reclaimable(cache.name),
                growth=cache.bytes - self._slabs.get(cache.name, 0) if several else None,
            )
            for cache in self.sampler.slabs
            if cache.bytes
        ]
        return sorted(rows, key=lambda row: (-(row.growth or 0), -row.bytes))

    def _callers(self, *, several: bool) -> list[VmallocCaller]:
        import msgspec

        rows = [
            msgspec.structs.replace(caller, growth=caller.bytes - self._vmalloc.get((caller.caller, caller.module), 0))
            if several
            else caller
            for caller in self.sampler.vmalloc
        ]
        return sorted(rows, key=lambda row: (-(row.growth or 0), -row.bytes))

    def _free_areas(self) -> tuple[FreeArea, ...]:
        try:
            return parse_buddyinfo((self._machine.proc / "buddyinfo").read_bytes(), self._machine.page_size)
        except OSError as error:
            raise NotPossible(f"cannot read buddyinfo: {error.strerror}") from error

    def _page_types(self) -> tuple[MovableBlocks, ...] | None:
        """None where only root may read it, or the kernel has no CONFIG_PROC_PAGE_MONITOR."""
        with suppress(OSError):
            return parse_pagetypeinfo((self._machine.proc / "pagetypeinfo").read_bytes(), self._machine.page_size)
        return None

    def _compaction(self) -> dict[str, int] | None:
        with suppress(OSError, ParseError):
            counters = parse_vmstat((self._machine.proc / "vmstat").read_bytes())
            return {name: value for name, value in counters.items() if name.startswith(_COMPACTION)}
        return None
