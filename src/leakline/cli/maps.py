"""`leakline maps`."""

from __future__ import annotations

import click

from leakline.cli.tabular import TableOutput, table_options

_USUAL = ("start", "perms", "size", "rss", "pss", "uss", "dirty", "swap", "kind", "path")
_USUAL_OF_GROUPS = ("count", "size", "rss", "pss", "uss", "dirty", "swap", "name")


@click.command("maps")
@click.argument("pid", type=click.IntRange(1))
@click.option("--by", type=click.Choice(["kind", "path", "perms"]), help="Sums over mappings that have this in common.")
@click.option("--range", "within", metavar="START[-END]", help="Only mappings that touch these addresses (hexadecimal).")
@table_options(sort="start")
def command(pid: int, by: str | None, within: str | None, out: TableOutput) -> int:
    """Show the mappings of a process, what each is, and what it holds.

    In order of address, unless --sort says otherwise. Kinds: text, rodata, data, bss, heap, malloc arena, thread stack, file,
    memfd, and more; those of threads only for threads that wait in the kernel at that moment.
    """
    from leakline.analysis import accounting
    from leakline.analysis.vma_kind import describe_mappings
    from leakline.model.accounting import VmaMemory, VmaTable, VmaTotals
    from leakline.model.names import readable
    from leakline.session.targets import require_readable
    from leakline.sources.procfs import ProcFs

    procfs = ProcFs(out.proc)
    require_readable(procfs, pid)
    described = describe_mappings(procfs.smaps(procfs.living_thread(pid)), procfs.stack_pointers(pid))
    limit = procfs.max_map_count()
    count = len(described)
    if within is not None:
        described = accounting.select_range(described, within)
    total = accounting.total_mappings("total", described)
    command_name = readable(procfs.stat(pid).command)
    if by is not None:
        sort = "rss" if out.sort == "start" else out.sort
        groups = accounting.order(accounting.group_mappings(described, by), sort, ascending=not out.reverse)
        table = VmaTable(pid=pid, command=command_name, vmas=None, groups=tuple(groups), totals=total, max_map_count=limit)
        out.write(table, "groups", groups, VmaTotals, _USUAL_OF_GROUPS, total)
    else:
        rows = accounting.order(described, out.sort, ascending=not out.reverse)
        table = VmaTable(pid=pid, command=command_name, vmas=tuple(rows), groups=None, totals=total, max_map_count=limit)
        out.write(table, "vmas", rows, VmaMemory, _USUAL, total)
    most = "" if limit is None else f" of {limit:,} that vm.max_map_count allows"
    out.note(f"{count:,} mappings{most}")
    return 0
