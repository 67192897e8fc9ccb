"""One look at the kernel's counters, as cheap as it can be: it is taken every second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from leakline.analysis.kernel_counters import KernelLook
from leakline.analysis.system_owners import KERNEL_AMOUNTS, UNEXPLAINED, unexplained
from leakline.errors import LeaklineError
from leakline.sources.procfs import ProcFs
from leakline.sources.slabinfo import is_reclaimable, read_aliases, read_slabs
from leakline.sources.vmallocinfo import read_vmalloc

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from leakline.model.kernel import VmallocCaller
    from leakline.sources.machine import Machine
    from leakline.sources.slabinfo import SlabCache

Part = Literal["slab", "vmalloc", "zones", "buddy", "percpu", "pagetables", "unexplained"]
_AMOUNTS_OF: dict[str, tuple[str, ...]] = {
    "percpu": ("Percpu",),
    "pagetables": ("PageTables", "SecPageTables"),
    "vmalloc": ("VmallocUsed",),
}
WATCHED: tuple[Part, ...] = ("slab", "vmalloc", "percpu", "pagetables", "unexplained")
"""The parts with counters that can grow."""


class KernelSampler:
    """Reads the counters again and again.

    Args:
        machine: whose.
        parts: only the counters of these; all if empty.

    """

    def __init__(self, machine: Machine, parts: Collection[Part] = ()) -> None:
        self._machine, self._procfs = machine, ProcFs(machine.proc)
        self._parts = {part for part in parts if part in WATCHED} or set(WATCHED)
        self._amounts = [
            name
            for name in KERNEL_AMOUNTS
            if self._parts == set(WATCHED) or any(name in _AMOUNTS_OF.get(p, ()) for p in self._parts)
        ]
        self._reclaimable: dict[str, bool] = {}
        self.aliases = read_aliases(machine)
        self.unreadable: dict[str, str] = {}
        """Files that could not be read, and why."""
        self.slabs: list[SlabCache] = []
        """At the last look."""
        self.vmalloc: tuple[VmallocCaller, ...] = ()
        self.cpu_seconds = 0.0
        """All looks together."""

    def look(self) -> KernelLook:
        """All counters now.

        Raises:
            NotPossible: not even /proc/meminfo can be read.

        """
        began, when = time.process_time(), time.monotonic()
        amounts, pages = self._procfs.amounts(), self._procfs.per_cpu_pages()
        rest = unexplained(amounts, None if pages is None else pages * self._machine.page_size)
        values = {UNEXPLAINED: rest} if "unexplained" in self._parts else {}
        values |= {f"meminfo:{name}": amounts[name] for name in self._amounts if name in amounts}
        objects: dict[str, int] = {}
        if "slab" in self._parts:
            self._read("slabinfo", self._read_slabs)
            values |= {f"slab:{cache.name}": cache.bytes for cache in self.slabs}
            objects = {f"slab:{cache.name}": cache.objects for cache in self.slabs}
        if "vmalloc" in self._parts:
            self._read("vmallocinfo", self._read_vmalloc)
            for caller in self.vmalloc:  # two modules may have a function of the same name
                name = f"vmalloc:{caller.caller}"
                values[name] = values.get(name, 0) + caller.bytes
        self.cpu_seconds += time.process_time() - began
        return KernelLook(when, values, objects, frozenset(f"slab:{name}" for name, is_so in self._reclaimable.items() if is_so))

    def is_reclaimable(self, cache: str) -> bool:
        """Whether the kernel takes back what a cache holds."""
        return self._reclaimable.get(cache, False)

    def _read(self, what: str, read: Callable[[], None]) -> None:
        if what in self.unreadable:
            return
        try:
            read()
        except LeaklineError as error:
            self.unreadable[what] = error.message

    def _read_slabs(self) -> None:
        self.slabs = read_slabs(self._machine)
        for cache in self.slabs:
            if cache.name not in self._reclaimable:
                self._reclaimable[cache.name] = is_reclaimable(self._machine, cache.name)

    def _read_vmalloc(self) -> None:
        self.vmalloc = read_vmalloc(self._machine)
