"""`leakline maps`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from leakline.cli.tabular import TableOutput, table_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.model.mappings import VmaMemory, VmaTable

_USUAL = ("start", "perms", "size", "rss", "pss", "uss", "dirty", "swap", "kind", "path")
_USUAL_OF_GROUPS = ("count", "size", "rss", "pss", "uss", "dirty", "swap", "name")
_USUAL_OF_CHANGES = ("change", "start", "perms", "size", "rss", "pss", "uss", "anonymous", "swap", "name")
_USUAL_OF_GROUP_CHANGES = ("change", "count", "size", "rss", "pss", "uss", "anonymous", "swap", "name")


@click.command("maps")
@click.argument("pid", type=click.IntRange(1))
@click.option("--by", type=click.Choice(["kind", "path", "perms"]), help="Sums over mappings that have this in common.")
@click.option("--range", "within", metavar="START[-END]", help="Only mappings that touch these addresses (hexadecimal).")
@click.option("--picture", is_flag=True, help="Draw the address space, high addresses above, gaps by their logarithm.")
@click.option(
    "--diff", "before", type=click.Path(dir_okay=False, path_type=Path), help="What changed since an earlier `maps PID --json`."
)
@table_options(sort="start")
def command(pid: int, by: str | None, within: str | None, picture: bool, before: Path | None, out: TableOutput) -> int:
    """Show the mappings of a process, what each is, and what it holds.

    In order of address, unless --sort says otherwise. Kinds: text, rodata, data, bss, heap, malloc arena, thread stack, file,
    memfd, and more; thread stacks only of threads that wait in the kernel at that moment.
    """
    import msgspec

    from leakline.analysis import accounting
    from leakline.model.mappings import VmaMemory, VmaTotals
    from leakline.session.mappings import read_mappings

    if picture and (by or within or before or not out.to_people):
        raise click.UsageError("--picture draws the whole address space, in the terminal or as text")
    whole = read_mappings(out.machine, pid)
    described: Sequence[VmaMemory] = whole.vmas or ()
    if picture:
        from leakline.present.picture import picture_lines

        out.show(picture_lines(described))
        return 0
    if within is not None:
        described = accounting.select_range(described, within)
    if before is not None:
        _write_changes(out, whole, described, before, by, within)
        return 0
    total = whole.totals if within is None else accounting.total_mappings("total", described)
    if by is not None:
        sort = "rss" if out.sort == "start" else out.sort
        groups = accounting.order(accounting.group_mappings(described, by), sort, ascending=not out.reverse)
        table = msgspec.structs.replace(whole, vmas=None, groups=tuple(groups), totals=total)
        out.write(table, "groups", groups, VmaTotals, _USUAL_OF_GROUPS, total, measure="rss", label=lambda group: group.name)
    else:
        rows = accounting.order(described, out.sort, ascending=not out.reverse)
        table = msgspec.structs.replace(whole, vmas=tuple(rows), totals=total)
        out.write(table, "vmas", rows, VmaMemory, _USUAL, total, measure="rss", label=_label)
    most = "" if whole.max_map_count is None else f" of {whole.max_map_count:,} that vm.max_map_count allows"
    out.note(f"{len(whole.vmas or ()):,} mappings{most}")
    return 0


def _label(row: VmaMemory) -> str:
    return f"{row.start:x} {row.path or row.kind}"


def _write_changes(
    out: TableOutput, after: VmaTable, rows: Sequence[VmaMemory], path: Path, by: str | None, within: str | None
) -> None:
    from leakline.analysis import accounting, vma_diff
    from leakline.model.mappings import VmaChange, VmaDiff
    from leakline.sources.saved_tables import load_mappings

    earlier = load_mappings(path)
    old: Sequence[VmaMemory] = earlier.vmas or ()
    if within is not None:
        old = accounting.select_range(old, within)
    changes = vma_diff.diff_mappings(old, rows) if by is None else vma_diff.diff_groups(old, rows, by)
    sort = "uss" if by is not None and out.sort == "start" else out.sort
    ordered = accounting.order(changes, sort, ascending=not out.reverse)
    total = vma_diff.total_changes(changes)
    table = VmaDiff(pid=after.pid, command=after.command, before_pid=earlier.pid, changes=tuple(ordered), totals=total)
    usual = _USUAL_OF_CHANGES if by is None else _USUAL_OF_GROUP_CHANGES
    out.write(table, "changes", ordered, VmaChange, usual, total, measure="uss", label=lambda row: row.name)
    if earlier.pid != after.pid:
        out.note(f"{path} is of process {earlier.pid} ({earlier.command})")
    out.note(f"{len(changes):,} changes")
