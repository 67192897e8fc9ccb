"""One look at all processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.analysis import accounting
from leakline.errors import NotPossible
from leakline.model.accounting import Coverage, ProcessMemory, ProcessTable
from leakline.sources.process_table import ProcessTableReader

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from leakline.model.accounting import Group
    from leakline.sources.machine import Machine


def read_processes(
    machine: Machine, demanded: Collection[str] = (), *, gentle: bool = False
) -> tuple[list[ProcessMemory], Coverage]:
    """All processes.

    Args:
        machine: whose.
        demanded: columns that take another file of each process: page_tables, vmas, cgroup, container, started.
        gentle: RSS and swap only, and no process stands still for longer than a moment.

    Raises:
        NotPossible: gentle, and the machine is a captured one, or its kernel cannot be asked gently.

    """
    if gentle and not machine.live:
        raise NotPossible("--gentle asks a live kernel", hint="Leave it out: a captured machine does not mind.")
    return ProcessTableReader(machine, demanded, gentle=gentle).read()


def read_process(machine: Machine, pid: int, demanded: Collection[str] = ()) -> ProcessMemory:
    """One process.

    Raises:
        TargetGone: there is none, or it has no memory of its own.

    """
    return ProcessTableReader(machine, demanded).read_one(pid)


def process_table(machine: Machine, rows: Sequence[ProcessMemory], coverage: Coverage) -> ProcessTable:
    """The rows with their sums."""
    estimated = machine.kernel_option("NO_PAGE_MAPCOUNT")
    return ProcessTable(
        processes=tuple(rows),
        totals=accounting.total("total", rows),
        coverage=coverage,
        max_map_count=machine.max_map_count(),
        pss_is_estimate=estimated,
    )


def read_mapping_groups(machine: Machine) -> tuple[list[Group], Coverage]:
    """The mappings of all processes, by name."""
    from leakline.sources.mapping_table import MappingTableReader

    return MappingTableReader(machine).read()
