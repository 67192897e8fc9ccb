"""`leakline ps`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from leakline.cli.tabular import TableOutput, table_options

if TYPE_CHECKING:
    from leakline.model.accounting import Group, ProcessMemory, ProcessTable

_USUAL = ("pid", "user", "uss", "pss", "rss", "vss", "swap", "cmdline")
_GENTLE = ("pid", "user", "rss", "vss", "swap", "thp", "cmdline")
_USUAL_OF_GROUPS = ("count", "uss", "pss", "rss", "vss", "swap", "name")
_ESTIMATED = "this kernel only estimates how large folios are shared: PSS and USS are estimates (CONFIG_NO_PAGE_MAPCOUNT)"
_GROUPINGS = ("process", "user", "command", "cgroup", "mapping")


@click.command("ps")
@click.argument("pids", nargs=-1, type=click.IntRange(1), metavar="[PID]...")
@click.option("--by", type=click.Choice(_GROUPINGS), default="process", show_default=True, help="What a row stands for.")
@click.option("--name", metavar="REGEX", help="Processes whose command or program name this finds.")
@click.option("-u", "--user", metavar="REGEX", help="Processes of users whose name this finds.")
@click.option("--cgroup", metavar="REGEX", help="Processes in control groups whose path this finds.")
@click.option("--mapping", metavar="REGEX", help="With --by mapping: mappings whose name this finds.")
@click.option("--gentle", is_flag=True, help="RSS and swap only, in steps that no process notices (Linux 6.11).")
@click.option("--tree", is_flag=True, help="Children below their parents.")
@table_options(sort="pss")
def command(
    pids: tuple[int, ...],
    by: str,
    name: str | None,
    user: str | None,
    cgroup: str | None,
    mapping: str | None,
    gentle: bool,
    tree: bool,
    out: TableOutput,
) -> int:
    """Show what processes hold: USS, PSS, RSS, VSS and swap.

    Sorted by PSS, the largest last, so that it stands above the prompt. What may not be read is shown as `-`, never as 0, and
    a line on stderr says how much of the machine the table covers.
    """
    if mapping is not None and by != "mapping":
        raise click.UsageError("--mapping goes with --by mapping")
    if gentle and by == "mapping":
        raise click.UsageError("--gentle goes with processes")
    if by == "mapping" and (pids or name or user or cgroup or tree):
        raise click.UsageError("--by mapping shows all processes; the filter for it is --mapping")
    if tree and by != "process":
        raise click.UsageError("--tree goes with processes")
    if tree and out.limit is not None:
        raise click.UsageError("--tree shows whole families: --limit would tear them apart")
    if by == "mapping":
        return _mappings(mapping, out)
    from leakline.sources.process_table import FIELDS

    if out.is_whole_json and by == "process" and out.sort in FIELDS and not (pids or name or user or cgroup or gentle or tree):
        return _list(out)
    import msgspec

    from leakline.analysis import accounting
    from leakline.errors import TargetGone
    from leakline.model.accounting import Group, GroupTable, ProcessMemory
    from leakline.session.processes import process_table, read_processes

    wanted = {*out.column_names(), out.sort, *(["cgroup"] if cgroup or by == "cgroup" else [])}
    if out.form != "table" and out.columns is None:
        wanted.add("started")
    rows, coverage = read_processes(out.machine, wanted, gentle=gentle)
    missing = set(pids) - {row.pid for row in rows}
    if missing:
        raise TargetGone(f"there is no process {min(missing)} with memory of its own")
    rows = accounting.select_processes(rows, pids=pids, name=name, user=user, cgroup=cgroup)
    sort = "rss" if gentle and out.sort == "pss" else out.sort
    measure = "rss" if gentle else "pss"
    if by != "process":
        groups = accounting.order(accounting.group_processes(rows, by), sort, ascending=not out.reverse)
        total = accounting.total("total", rows)
        table = GroupTable(by=by, groups=tuple(groups), totals=total, coverage=coverage)
        out.write(table, "groups", groups, Group, _USUAL_OF_GROUPS, total, measure=measure, label=_group_label)
    else:
        ordered = accounting.order(rows, sort, ascending=not out.reverse)
        placed = accounting.tree(ordered) if tree else [(0, row) for row in ordered]
        ordered = [row for _, row in placed]
        processes = process_table(out.machine, ordered, coverage)
        usual = _GENTLE if gentle else _USUAL
        depths = [depth for depth, _ in placed]
        out.write(
            processes, "processes", ordered, ProcessMemory, usual, processes.totals, measure=measure, label=_label, indent=depths
        )
        _warn(out, processes)
    _cover(out, **msgspec.structs.asdict(coverage))
    return 0


def _list(out: TableOutput) -> int:
    from leakline.session.process_listing import list_processes

    text, seen, estimated = list_processes(out.machine, out.sort, ascending=not out.reverse)
    out.write_text(text)
    if estimated:
        out.note(_ESTIMATED)
    _cover(out, **seen)
    return 0


def _label(row: ProcessMemory) -> str:
    return f"{row.command} ({row.pid})"


def _group_label(group: Group) -> str:
    return f"{group.name} ({group.count})"


def _mappings(mapping: str | None, out: TableOutput) -> int:
    import msgspec

    from leakline.analysis import accounting
    from leakline.model.accounting import Group, GroupTable
    from leakline.session.processes import read_mapping_groups

    groups, coverage = read_mapping_groups(out.machine)
    if mapping is not None:
        groups = accounting.select_groups(groups, mapping)
    groups = accounting.order(groups, out.sort, ascending=not out.reverse)
    # A process has many mappings: the sum of the groups' counts would count it as often.
    total = accounting.total("total", groups, count=coverage.readable)
    table = GroupTable(by="mapping", groups=tuple(groups), totals=total, coverage=coverage)
    out.write(table, "groups", groups, Group, _USUAL_OF_GROUPS, total, measure="pss", label=_group_label)
    _cover(out, **msgspec.structs.asdict(coverage))
    return 0


def _warn(out: TableOutput, table: ProcessTable) -> None:
    if table.pss_is_estimate:
        out.note(_ESTIMATED)
    limit = table.max_map_count
    for row in table.processes:
        if limit and row.vmas is not None and row.vmas > 0.8 * limit:
            out.note(f"process {row.pid} ({row.command}) has {row.vmas:,} mappings of {limit:,} that vm.max_map_count allows")


def _cover(out: TableOutput, *, seen: int, readable: int, vanished: int, kernel_threads: int, zombies: int) -> None:
    unreadable = seen - readable - vanished - zombies
    out.note(
        f"{seen} processes seen, {readable} readable, {unreadable} not, "
        f"{vanished} vanished meanwhile; {kernel_threads} kernel threads, {zombies} zombies"
    )
    if unreadable:
        out.note("`-` is unknown: run as root, or grant CAP_SYS_PTRACE or CAP_PERFMON, to read other users' processes")
