"""Which counters of the kernel are worth watching, and what is said of one that grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from leakline.analysis.fingerprint import fingerprint
from leakline.analysis.system_owners import UNEXPLAINED
from leakline.analysis.trend import Settings, judge
from leakline.model.finding import Evidence, Finding, Subject
from leakline.model.kernel import CounterGrowth, CounterOwner
from leakline.model.trend import Series, SeriesTrend

LEAST_GROWTH = 64 << 10
"""Bytes: two slabs of the usual order are given and taken at any time."""
_NOTES = {
    UNEXPLAINED: "pages that no counter shows: drivers, filled pipes, unread sockets, packet and perf rings",
    "meminfo:PageTables": "of processes: VmPTE in their status",
    "meminfo:VmallocUsed": "BPF maps, modules, kernel stacks where CONFIG_VMAP_STACK is set: --vmalloc shows by whom",
    "meminfo:KernelStack": "of threads; inside VmallocUsed where CONFIG_VMAP_STACK is set",
    "meminfo:Shmem": "tmpfs, memfd, SysV and shared anonymous memory: `leakline system --by shmem` lists the files",
    "meminfo:Percpu": "for each CPU: BPF maps, control groups, network and mount namespaces",
}


class KernelLook(NamedTuple):
    """The counters at one moment."""

    time: float
    """Seconds."""
    values: dict[str, int]
    """Bytes, by counter."""
    objects: dict[str, int]
    """Objects in use, of slab caches."""
    reclaimable: frozenset[str]


def judge_looks(looks: Sequence[KernelLook], settings: Settings) -> list[SeriesTrend]:
    """The trends of all counters that are higher in the end, the largest growth first.

    Whoever has not grown by LEAST_GROWTH is left out: nothing could be said of it.
    """
    if len(looks) < 2:
        return []
    names = [
        name
        for name, value in looks[-1].values.items()
        if value - looks[0].values.get(name, 0) >= LEAST_GROWTH and _rises(looks, name)
    ]
    series = [series_of(looks, name) for name in names]
    trends = judge(series, settings) if series else []
    return sorted(trends, key=lambda trend: -(trend.increase or 0))


def _rises(looks: Sequence[KernelLook], name: str) -> bool:
    """Whether its last values are above its first ones: a single look that is high is none."""
    quarter = max(1, len(looks) // 4)
    first = [look.values.get(name, 0) for look in looks[:quarter]]
    last = [look.values.get(name, 0) for look in looks[-quarter:]]
    return min(last) > min(first)


def series_of(looks: Sequence[KernelLook], name: str) -> Series:
    """One counter over time; a slab cache or caller that was not there holds nothing."""
    return Series(
        name=name,
        times=tuple(look.time - looks[0].time for look in looks),
        values=tuple(float(look.values.get(name, 0)) for look in looks),
        reclaimable=name in looks[-1].reclaimable,
    )


def growth_of(
    trend: SeriesTrend, looks: Sequence[KernelLook], aliases: Mapping[str, tuple[str, ...]], owners: tuple[CounterOwner, ...]
) -> CounterGrowth:
    """What is said of a counter that grows."""
    name, last = trend.name, looks[-1]
    kind, _, cache = name.partition(":")
    return CounterGrowth(
        counter=name,
        bytes=last.values[name] - looks[0].values.get(name, 0),
        held=last.values[name],
        rate_bytes_per_second=trend.rate_bytes_per_second,
        rate_interval=trend.rate_interval,
        verdict=trend.verdict,
        probability=trend.probability,
        gates=trend.gates,
        reclaimable=name in last.reclaimable,
        aliases=aliases.get(cache, ()) if kind == "slab" else (),
        objects=objects_gained(looks, name),
        owners=owners,
        note="the kernel takes it back when it needs memory: no leak" if name in last.reclaimable else _NOTES.get(name),
    )


def finding_of(growth: CounterGrowth, samples: int) -> Finding:
    """A finding about a counter that grows, with its owners as evidence."""
    values: dict[str, int | float | str] = {"verdict": growth.verdict, "samples": samples, "gates": ", ".join(growth.gates)}
    if growth.probability is not None:
        values["probability"] = growth.probability
    evidence = [Evidence(method="trend", text=f"{samples} looks: {growth.verdict}", values=values)]
    for owner in growth.owners:
        who = owner.command or "a process that has ended"
        text = f"{who if owner.pid is None else f'{who} (pid {owner.pid})'} has {owner.count:,} more: {owner.what}"
        found: dict[str, int | float | str] = {"what": owner.what, "count": owner.count}
        evidence.append(Evidence(method="owner", text=text, values=found | ({} if owner.pid is None else {"pid": owner.pid})))
    return Finding(
        kind="growing",
        subject=Subject(type="kernel counter", name=growth.counter),
        bytes=max(0, growth.bytes),
        blocks=max(0, growth.objects or 0),
        indirect_bytes=0,
        indirect_blocks=0,
        rate_bytes_per_second=growth.rate_bytes_per_second,
        rate_interval=growth.rate_interval,
        confidence="medium" if growth.verdict == "LEAK" else "low",
        fingerprint=fingerprint("growing", [], None, growth.counter),
        location=None,
        location_is=None,
        stack=(),
        evidence=tuple(evidence),
    )


def objects_gained(looks: Sequence[KernelLook], name: str) -> int | None:
    """How many objects more a slab cache has; None for other counters."""
    return looks[-1].objects[name] - looks[0].objects.get(name, 0) if name in looks[-1].objects else None
