"""The kernel's memory as text: what grows, whose it is, and the tables that were asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from leakline.model.kernel import FreeArea, MovableBlocks, SlabRow, VmallocCaller
from leakline.model.system import Zone
from leakline.present.tables import table_lines
from leakline.present.text import amount, change, counted, duration, printable, rate

if TYPE_CHECKING:
    import msgspec

    from leakline.model.kernel import CounterGrowth, CounterOwner, KernelReport

Line = tuple[str, str]
_SLAB = ("growth", "bytes", "in_use", "objects", "object_size", "reclaimable", "name", "aliases")
_VMALLOC = ("growth", "bytes", "reserved", "areas", "module", "caller")
_ZONE = ("node", "zone", "managed", "free", "per_cpu", "min", "low", "high")
_BUDDY = ("node", "zone", "free", "blocks", "unusable")
_TYPES = ("node", "zone", "kind", "free", "page_blocks", "free_blocks")
_GATES = {
    "samples": "30 samples",
    "growth": "growth of more than three pages",
    "confidence": "a probability of .95",
    "two looks": "the same answer a tenth of the samples ago",
    "warm-up": "more time than the warm-up (--warm-up)",
    "cycles": "three whole cycles",
    "reclaimable": "memory that the kernel cannot take back",
}


def describe_kernel(report: KernelReport, most: int) -> Iterator[Line]:
    """All lines of the report."""
    grown = len(report.growth)
    looked = f"in {counted(report.samples, 'look')} over {duration(round(report.duration_seconds * 1e9))}"
    if report.samples < 2:
        head = "one look tells what there is, not what grows; --duration looks on"
    elif grown:
        head = f"{counted(grown, 'counter')} of the kernel {'grows' if grown == 1 else 'grow'} {looked}"
    else:
        head = f"no counter of the kernel grows {looked}"
    yield f"this machine: {head}", "headline"
    moved = "" if report.unexplained_growth is None else f" ({change(report.unexplained_growth)})"
    if report.unexplained_bytes is not None:
        yield f"  unexplained: {amount(report.unexplained_bytes)}{moved} of {amount(report.mem_total)}, which no counter shows", ""
    for growth in report.growth[:most]:
        yield "", ""
        yield from describe_growth(growth)
    if grown > most:
        yield f"  and {counted(grown - most, 'counter')} more (--limit)", "dim"
    for why in report.unreadable:
        yield f"  not read: {printable(why)}", "warning"
    yield from _tables(report, most)


def describe_growth(growth: CounterGrowth) -> Iterator[Line]:
    """One counter that grows."""
    style = "definite" if growth.verdict == "LEAK" else "growing"
    yield f"  {printable(growth.counter)}  {growth.verdict}, {change(growth.bytes)}, now {amount(growth.held)}", style
    if growth.aliases:
        yield f"    holds too: {printable(', '.join(growth.aliases))}", "dim"
    speed = f"    at {rate(growth.rate_bytes_per_second, growth.rate_interval)}"
    if growth.probability is not None:
        speed += f"; sustained growth has a probability of {growth.probability:.2f}".replace("0.", ".").replace("1.00", "over .99")
    yield speed, ""
    if growth.objects is not None:
        yield f"    {counted(abs(growth.objects), 'object')} {'more' if growth.objects >= 0 else 'less'} in use", ""
    if growth.note is not None:
        yield f"    {growth.note}", "dim"
    if growth.gates:
        yield f"    for LEAK it takes {', '.join(_GATES[gate] for gate in growth.gates)}", "dim"
    for owner in growth.owners:
        yield f"    {describe_owner(owner)}", ""
    if not growth.owners:
        yield "    nobody has more of what it is known to hold: the kernel itself, then; next: leakline kernel --locate", "dim"


def describe_owner(owner: CounterOwner) -> str:
    """`python3 (pid 812): 9,600 more of: pipe end`."""
    who = "" if owner.command is None else printable(owner.command)
    if owner.pid is not None:
        who = f"{who or 'a process that has ended'} (pid {owner.pid})"
    size = "" if not owner.bytes else f", {amount(owner.bytes)}"
    return f"{who or 'nobody'}: {owner.count:,} more: {printable(owner.what)}{size}"


def _tables(report: KernelReport, most: int) -> Iterator[Line]:
    def table(title: str, rows: Sequence[msgspec.Struct], record: type[msgspec.Struct], columns: Sequence[str]) -> Iterator[Line]:
        yield "", ""
        yield title, "headline"
        yield from table_lines(rows[:most], record, columns)
        if len(rows) > most:
            yield f"and {len(rows) - most:,} more (--limit)", "dim"

    if report.slabs is not None:
        yield from table("slab caches", report.slabs, SlabRow, _SLAB)
    if report.vmalloc is not None:
        yield from table("vmalloc, by who asked for it", report.vmalloc, VmallocCaller, _VMALLOC)
    if report.zones is not None:
        yield from table("zones", report.zones, Zone, _ZONE)
        managed = sum(zone.managed for zone in report.zones)
        if abs(managed - report.mem_total) > report.mem_total // 100:
            yield f"the zones give out {amount(managed)}, MemTotal counts {amount(report.mem_total)}", "warning"
    if report.buddy is not None:
        yield from table(
            "free blocks by order, and what of the free memory is in smaller ones, percent", report.buddy, FreeArea, _BUDDY
        )
        yield from map(_fragmentation, report.buddy)
    if report.page_types is not None:
        yield from table("free blocks by what they are kept for", report.page_types, MovableBlocks, _TYPES)
    if report.compaction is not None:
        yield "", ""
        shown = ", ".join(f"{name} {value:,}" for name, value in report.compaction.items())
        yield f"since the boot: {printable(shown)}", ""


def _fragmentation(area: FreeArea) -> Line:
    where = f"node {area.node}, zone {printable(area.zone)}"
    largest = max((order for order, count in enumerate(area.blocks) if count), default=None)
    if largest is None:
        return f"  {where}: nothing is free", ""
    hard = next((order for order, share in enumerate(area.unusable) if share >= 90), None)
    if hard is None:
        return f"  {where}: the largest free block has order {largest}; no order is hard to get", ""
    tight = f"90 % of what is free is in blocks too small for order {hard} ({amount((1 << hard) * 4096)} with pages of 4 KiB)"
    return f"  {where}: {tight}: requests of that size wait for compaction, or fail", "warning"
