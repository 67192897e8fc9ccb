"""`leakline system`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from leakline.cli.tabular import TableOutput, table_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    import msgspec

    from leakline.model.system import SystemTable
    from leakline.session.machine_memory import Part

_TABLES = ("owner", "cgroup", "shmem", "numa", "zone")


class _Table(NamedTuple):
    """What --by shows."""

    part: Part | None
    field: str
    usual: tuple[str, ...]
    sort: str
    measure: str
    name: str


_SHOWN: dict[str, _Table] = {
    "owner": _Table(None, "owners", ("bytes", "name", "note"), "bytes", "bytes", "name"),
    "cgroup": _Table(
        "cgroups",
        "cgroups",
        ("usage", "limit", "anon", "file", "unmapped", "kernel", "swap", "max_events", "oom_kills", "processes", "path"),
        *("usage", "usage", "path"),
    ),
    "shmem": _Table("shmem", "shmem_files", ("bytes", "kind", "mapped_by", "held_by", "name"), "bytes", "bytes", "name"),
    "numa": _Table(
        "numa", "numa", ("node", "total", "free", "anonymous", "file", "shmem", "slab", "page_tables"), "node", "total", "node"
    ),
    "zone": _Table(
        "zones", "zones", ("node", "zone", "managed", "free", "per_cpu", "min", "low", "high"), "managed", "managed", "zone"
    ),
}


@click.command("system")
@click.option(
    "--by",
    type=click.Choice(_TABLES),
    default="owner",
    show_default=True,
    help="What a row stands for: an owner of memory, or a detail.",
)
@click.option("--processes", is_flag=True, help="Sum PSS over all processes too, against what the kernel counts as theirs.")
@table_options(sort="")
def command(by: str, processes: bool, out: TableOutput) -> int:
    """Show where all of the machine's memory is.

    The owners add up to MemTotal, to the byte. One of them is `unexplained`: pages that no counter shows. A kernel leak of raw
    pages moves it by exactly what leaks. --by shows details: control groups with their limits, files in memory and who keeps
    them there, NUMA nodes, zones.
    """
    import msgspec

    from leakline.analysis import accounting
    from leakline.session.machine_memory import read_system

    shown = _SHOWN[by]
    parts: list[Part] = [*(["processes"] if processes else []), *([shown.part] if shown.part else [])]  # type: ignore[list-item]
    table = read_system(out.machine, parts)
    rows = accounting.order(getattr(table, shown.field), out.sort or shown.sort, ascending=not out.reverse)
    table = msgspec.structs.replace(table, **{shown.field: tuple(rows)})
    record, total = _record(by, table, rows)
    out.write(
        table, shown.field, rows, record, shown.usual, total, measure=shown.measure, label=lambda row: str(getattr(row, shown.name))
    )
    for line in _facts(by, table):
        out.note(line)
    return 0


def _record(by: str, table: SystemTable, rows: Sequence[Any]) -> tuple[type[msgspec.Struct], msgspec.Struct | None]:
    from leakline.model import system

    if by == "owner":
        return system.Owner, system.Owner(name="MemTotal", bytes=table.mem_total, note="")
    if by == "shmem":
        total = sum(row.bytes for row in rows)
        return system.ShmemFile, system.ShmemFile(bytes=total, kind="tmpfs", name="total", mapped_by=(), held_by=())
    others: dict[str, type[msgspec.Struct]] = {"cgroup": system.CgroupMemory, "numa": system.NumaNode, "zone": system.Zone}
    return others[by], None


def _facts(by: str, table: SystemTable) -> list[str]:
    from leakline.present.text import amount

    if by == "shmem":
        files = table.shmem_files or ()
        alone = sum(file.bytes for file in files if not file.mapped_by)
        counted = next((owner.bytes for owner in table.owners if owner.name == "shared memory"), None)
        seen = sum(file.bytes for file in files)
        unmapped = f"{amount(alone)} of it mapped by nobody that we see"
        return [f"{amount(seen)} in files that we see, {unmapped}; Shmem counts {amount(counted)} in memory"]
    if by == "zone":
        managed = sum(zone.managed for zone in table.zones or ())
        differs = abs(managed - table.mem_total) > table.mem_total // 100
        return [f"the zones give out {amount(managed)}, MemTotal counts {amount(table.mem_total)}"] if differs else []
    if by != "owner":
        return []
    facts = [f"available without swapping: {amount(table.mem_available)} of {amount(table.mem_total)}"]
    if table.swap_total:
        facts.append(f"swap: {amount(table.swap_total - table.swap_free)} of {amount(table.swap_total)} used")
    for area in table.swap_areas:
        held = "" if area.held is None else f", held in {amount(area.held)} of memory"
        facts.append(
            f"swap on {area.name} ({area.kind}): {amount(area.used)} of {amount(area.size)} used{held}, priority {area.priority}"
        )
    if table.zswap is not None and (table.zswap.enabled or table.zswap.pool):
        facts.append(f"zswap: {amount(table.zswap.stored)} kept compressed in {amount(table.zswap.pool)}")
    facts += [
        f"huge pages of {amount(pool.page_size)}: {pool.pages} in all, {pool.free} free ({pool.reserved} promised), "
        f"{pool.surplus} surplus"
        for pool in table.hugetlb
        if pool.pages
    ]
    if table.committed is not None and table.commit_limit is not None:
        facts.append(f"committed: {amount(table.committed)}; limit, where overcommit is off: {amount(table.commit_limit)}")
    facts += [f"memory pressure, {p.kind}: {p.avg10} % of the last 10 s, {p.avg300} % of the last 300 s" for p in table.pressure]
    if table.processes is not None:
        sums, c = table.processes, table.processes.coverage
        facts.append(f"sum of PSS: {amount(sums.pss)} over {c.readable} of {c.seen} processes")
        facts.append(f"  anonymous: {amount(sums.pss_anon)}; the kernel counts {amount(sums.anon_pages)} (AnonPages)")
        facts.append(
            f"  files and shared memory: {amount(sums.pss_file_and_shmem)}; the kernel counts {amount(sums.mapped)} (Mapped)"
        )
    return facts
