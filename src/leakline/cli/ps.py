"""`leakline ps`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from leakline.cli.tabular import TableOutput, table_options

if TYPE_CHECKING:
    from leakline.model.accounting import Coverage

_USUAL = ("pid", "user", "uss", "pss", "rss", "vss", "swap", "cmdline")
_USUAL_OF_GROUPS = ("count", "uss", "pss", "rss", "vss", "swap", "name")
_GROUPINGS = ("process", "user", "command", "cgroup", "mapping")


@click.command("ps")
@click.argument("pids", nargs=-1, type=click.IntRange(1), metavar="[PID]...")
@click.option("--by", type=click.Choice(_GROUPINGS), default="process", show_default=True, help="What a row stands for.")
@click.option("--name", metavar="REGEX", help="Processes whose command or program name this finds.")
@click.option("-u", "--user", metavar="REGEX", help="Processes of users whose name this finds.")
@click.option("--cgroup", metavar="REGEX", help="Processes in control groups whose path this finds.")
@click.option("--mapping", metavar="REGEX", help="With --by mapping: mappings whose name this finds.")
@click.option("--tree", is_flag=True, help="Children below their parents.")
@table_options(sort="pss")
def command(
    pids: tuple[int, ...],
    by: str,
    name: str | None,
    user: str | None,
    cgroup: str | None,
    mapping: str | None,
    tree: bool,
    out: TableOutput,
) -> int:
    """Show what processes hold: USS, PSS, RSS, VSS and swap.

    Sorted by PSS, the largest last, so that it stands above the prompt. What may not be read is shown as `-`, never as 0, and
    a line on stderr says how much of the machine the table covers.
    """
    if mapping is not None and by != "mapping":
        raise click.UsageError("--mapping goes with --by mapping")
    if by == "mapping" and (pids or name or user or cgroup or tree):
        raise click.UsageError("--by mapping shows all processes; the filter for it is --mapping")
    if tree and by != "process":
        raise click.UsageError("--tree goes with processes")
    if tree and out.limit is not None:
        raise click.UsageError("--tree shows whole families: --limit would tear them apart")
    if by == "mapping":
        return _mappings(mapping, out)
    from leakline.analysis import accounting
    from leakline.errors import TargetGone
    from leakline.model.accounting import Group, GroupTable, ProcessMemory, ProcessTable
    from leakline.sources.process_table import ProcessTableReader

    wanted = {*out.column_names(), out.sort, *(["cgroup"] if cgroup or by == "cgroup" else [])}
    rows, coverage = ProcessTableReader(out.proc, wanted).read()
    missing = set(pids) - {row.pid for row in rows}
    if missing:
        raise TargetGone(f"there is no process {min(missing)} with memory of its own")
    rows = accounting.select_processes(rows, pids=pids, name=name, user=user, cgroup=cgroup)
    total = accounting.total("total", rows)
    if by != "process":
        groups = accounting.order(accounting.group_processes(rows, by), out.sort, ascending=not out.reverse)
        table = GroupTable(by=by, groups=tuple(groups), totals=total, coverage=coverage)
        out.write(table, "groups", groups, Group, _USUAL_OF_GROUPS, total)
    else:
        ordered = accounting.order(rows, out.sort, ascending=not out.reverse)
        placed = accounting.tree(ordered) if tree else [(0, row) for row in ordered]
        ordered = [row for _, row in placed]
        processes = ProcessTable(processes=tuple(ordered), totals=total, coverage=coverage)
        out.write(processes, "processes", ordered, ProcessMemory, _USUAL, total, indent=[depth for depth, _ in placed])
    _cover(out, coverage)
    return 0


def _mappings(mapping: str | None, out: TableOutput) -> int:
    from leakline.analysis import accounting
    from leakline.model.accounting import Group, GroupTable
    from leakline.sources.mapping_table import MappingTableReader

    groups, coverage = MappingTableReader(out.proc).read()
    if mapping is not None:
        groups = accounting.select_groups(groups, mapping)
    groups = accounting.order(groups, out.sort, ascending=not out.reverse)
    # A process has many mappings: the sum of the groups' counts would count it as often.
    total = accounting.total("total", groups, count=coverage.readable)
    table = GroupTable(by="mapping", groups=tuple(groups), totals=total, coverage=coverage)
    out.write(table, "groups", groups, Group, _USUAL_OF_GROUPS, total)
    _cover(out, coverage)
    return 0


def _cover(out: TableOutput, coverage: Coverage) -> None:
    unreadable = coverage.seen - coverage.readable - coverage.vanished - coverage.zombies
    out.note(
        f"{coverage.seen} processes seen, {coverage.readable} readable, {unreadable} not, {coverage.vanished} vanished meanwhile; "
        f"{coverage.kernel_threads} kernel threads, {coverage.zombies} zombies"
    )
    if unreadable:
        out.note("`-` is unknown: run as root, or grant CAP_SYS_PTRACE or CAP_PERFMON, to read other users' processes")
