"""`leakline system`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from leakline.cli.tabular import TableOutput, table_options

if TYPE_CHECKING:
    from leakline.model.accounting import SystemTable

_USUAL = ("bytes", "name", "note")


@click.command("system")
@click.option("--processes", is_flag=True, help="Sum PSS over all processes too, against what the kernel counts as theirs.")
@table_options(sort="bytes")
def command(processes: bool, out: TableOutput) -> int:
    """Show where all of the machine's memory is.

    The owners add up to MemTotal, to the byte. One of them is `unexplained`: pages that no counter shows. A kernel leak of raw
    pages moves it by exactly what leaks.
    """
    from leakline.analysis import accounting
    from leakline.analysis.system_owners import owners_of
    from leakline.model.accounting import Owner, SystemTable
    from leakline.sources.process_table import PAGE, ProcessTableReader
    from leakline.sources.procfs import ProcFs

    procfs = ProcFs(out.proc)
    amounts, pages = procfs.amounts(), procfs.per_cpu_pages()
    pss = coverage = None
    if processes:
        rows, coverage = ProcessTableReader(out.proc).read()
        pss = accounting.total("total", rows).pss
    owners = accounting.order(owners_of(amounts, None if pages is None else pages * PAGE), out.sort, ascending=not out.reverse)
    table = SystemTable(
        mem_total=amounts["MemTotal"],
        mem_free=amounts["MemFree"],
        mem_available=amounts.get("MemAvailable"),
        owners=tuple(owners),
        swap_total=amounts.get("SwapTotal", 0),
        swap_free=amounts.get("SwapFree", 0),
        zswapped=amounts.get("Zswapped"),
        commit_limit=amounts.get("CommitLimit"),
        committed=amounts.get("Committed_AS"),
        pressure=procfs.pressure(),
        processes_pss=pss,
        coverage=coverage,
    )
    out.write(table, "owners", owners, Owner, _USUAL, Owner(name="MemTotal", bytes=amounts["MemTotal"], note=""))
    for line in _facts(table):
        out.note(line)
    return 0


def _facts(table: SystemTable) -> list[str]:
    from leakline.present.text import amount

    facts = [f"available without swapping: {amount(table.mem_available)} of {amount(table.mem_total)}"]
    if table.swap_total:
        facts.append(f"swap: {amount(table.swap_total - table.swap_free)} of {amount(table.swap_total)} used")
    facts += [f"memory pressure, {p.kind}: {p.avg10} % of the last 10 s, {p.avg300} % of the last 300 s" for p in table.pressure]
    if table.processes_pss is not None and table.coverage is not None:
        c = table.coverage
        facts.append(f"sum of PSS: {amount(table.processes_pss)} over {c.readable} of {c.seen} processes")
    return facts
