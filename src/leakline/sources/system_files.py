"""Files about the whole machine: zoneinfo (mm/vmstat.c), pressure/memory (psi.rst), swaps, huge page pools, NUMA nodes."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING

from leakline.errors import ParseError
from leakline.model.system import HugePool, NumaNode, Pressure, SwapArea, Zone, Zswap
from leakline.sources.parsing import kilobytes, text

if TYPE_CHECKING:
    from leakline.sources.machine import Machine

_COUNT = re.compile(rb"^\s+count:\s+(\d+)$", re.MULTILINE)
_PRESSURE = re.compile(rb"(some|full) avg10=([\d.]+) avg60=([\d.]+) avg300=([\d.]+) total=(\d+)")


def parse_per_cpu_pages(data: bytes) -> int:
    """The sum of the pagesets' `count:` in /proc/zoneinfo, in pages."""
    return sum(int(count) for count in _COUNT.findall(data))


def parse_pressure(data: bytes) -> tuple[Pressure, ...]:
    """The lines of /proc/pressure/memory.

    Raises:
        ParseError: a line has another form.

    """
    found = []
    for line in data.splitlines():
        match = _PRESSURE.fullmatch(line)
        if match is None:
            raise ParseError(f"pressure/memory: {line[:80]!r}")
        kind, *averages, total = match.groups()
        try:
            short, middle, long = map(float, averages)
        except ValueError as error:
            raise ParseError(f"pressure/memory: {line[:80]!r}") from error
        found.append(
            Pressure(kind="some" if kind == b"some" else "full", avg10=short, avg60=middle, avg300=long, total_us=int(total))
        )
    return tuple(found)


def parse_vmstat(data: bytes) -> dict[str, int]:
    """The counters of /proc/vmstat: pages, and events since the boot.

    Raises:
        ParseError: a line has another form.

    """
    found = {}
    for line in data.splitlines():
        name, _, value = line.partition(b" ")
        if not value.lstrip(b"-").isdigit() or len(value) > 24:
            raise ParseError(f"vmstat: {line[:80]!r}")
        found[text(name)] = int(value)
    return found


_ZONE = re.compile(rb"^Node (\d+), zone +(\S+)$", re.MULTILINE)


def parse_zones(data: bytes, page_size: int) -> tuple[Zone, ...]:
    """The zones of /proc/zoneinfo that hold memory."""
    heads = list(_ZONE.finditer(data))
    found = []
    for head, after in zip_longest(heads, heads[1:]):
        block = data[head.end() : after.start() if after else None]
        pages = {
            name: int(value)
            for name, value in re.findall(rb"^ +(?:pages )?(free|min|low|high|managed) +(\d+)$", block, re.MULTILINE)
        }
        if pages.get(b"managed"):
            amounts = {name.decode(): pages.get(name, 0) * page_size for name in (b"managed", b"free", b"min", b"low", b"high")}
            per_cpu = parse_per_cpu_pages(block) * page_size
            found.append(Zone(node=int(head[1]), zone=text(head[2]), per_cpu=per_cpu, **amounts))
    return tuple(found)


def parse_swaps(data: bytes) -> tuple[SwapArea, ...]:
    """The areas of /proc/swaps (mm/swapfile.c).

    Raises:
        ParseError: a line has another form.

    """
    found = []
    for line in data.splitlines()[1:]:
        fields = line.rsplit(None, 4)
        if len(fields) != 5 or not all(field.lstrip(b"-").isdigit() for field in fields[2:]):
            raise ParseError(f"swaps: {line[:80]!r}")
        name = text(fields[0].replace(rb"\040", b" "))
        size, used, priority = map(int, fields[2:])
        found.append(SwapArea(name=name, kind=text(fields[1]), size=size << 10, used=used << 10, priority=priority, held=None))
    return tuple(found)


def parse_node(number: int, data: bytes) -> NumaNode:
    """One /sys/devices/system/node/nodeN/meminfo (drivers/base/node.c).

    Raises:
        ParseError: a line has another form, or an amount that every kernel has is missing.

    """
    amounts: dict[str, int] = {}
    pages = None
    for line in data.splitlines():
        match = re.fullmatch(rb"Node \d+ (\S+): +(\d+(?: kB)?)", line)
        if match is None:
            raise ParseError(f"node {number}: {line[:80]!r}")
        if match[2].endswith(b"kB"):
            amounts[text(match[1])] = kilobytes(match[2], "node")
        elif match[1] == b"HugePages_Total":
            pages = int(match[2])
    if not amounts.keys() >= {"MemTotal", "MemFree"}:
        raise ParseError(f"node {number}: no MemTotal, or no MemFree")
    return NumaNode(
        node=number,
        total=amounts["MemTotal"],
        free=amounts["MemFree"],
        anonymous=amounts.get("AnonPages"),
        file=amounts.get("FilePages"),
        shmem=amounts.get("Shmem"),
        slab=amounts.get("Slab"),
        page_tables=amounts.get("PageTables"),
        huge_pages=pages,
    )


def read_nodes(machine: Machine) -> tuple[NumaNode, ...]:
    """All NUMA nodes; empty for a kernel without CONFIG_NUMA."""
    folder = machine.sys / "devices/system/node"
    numbers = sorted(int(path.name[4:]) for path in folder.glob("node*") if path.name[4:].isdigit())
    return tuple(parse_node(number, (folder / f"node{number}/meminfo").read_bytes()) for number in numbers)


def read_swap_areas(machine: Machine) -> tuple[SwapArea, ...]:
    """All swap areas; those of zram with the memory that they take (Documentation/admin-guide/blockdev/zram.rst)."""
    try:
        areas = parse_swaps((machine.proc / "swaps").read_bytes())
    except OSError:
        return ()
    found = []
    for area in areas:
        held = None
        if re.fullmatch(r"/dev/zram\d+", area.name):
            with suppress(OSError, ValueError, IndexError):
                held = int((machine.sys / "block" / os.path.basename(area.name) / "mm_stat").read_bytes().split()[2])
        found.append(SwapArea(name=area.name, kind=area.kind, size=area.size, used=area.used, priority=area.priority, held=held))
    return tuple(found)


def read_zswap(machine: Machine, amounts: dict[str, int]) -> Zswap | None:
    """Zswap's use; None before Linux 5.19."""
    if "Zswap" not in amounts:
        return None
    enabled = None
    with suppress(OSError):
        enabled = (machine.sys / "module/zswap/parameters/enabled").read_bytes().strip() in (b"Y", b"1")
    return Zswap(enabled=enabled, pool=amounts["Zswap"], stored=amounts.get("Zswapped", 0))


def read_huge_pools(machine: Machine) -> tuple[HugePool, ...]:
    """The pools of huge pages, by size; empty without CONFIG_HUGETLBFS."""
    found = []
    for folder in (machine.sys / "kernel/mm/hugepages").glob("hugepages-*kB"):
        size = folder.name.removeprefix("hugepages-").removesuffix("kB")
        with suppress(OSError, ValueError):
            pages, free, reserved, surplus = (
                int((folder / name).read_bytes())
                for name in ("nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages")
            )
            found.append(HugePool(page_size=int(size) << 10, pages=pages, free=free, reserved=reserved, surplus=surplus))
    return tuple(sorted(found, key=lambda pool: pool.page_size))
