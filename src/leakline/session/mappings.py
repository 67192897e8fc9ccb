"""One look at the mappings of a process."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from leakline.analysis import accounting
from leakline.analysis.vma_kind import describe_mappings, may_hold_chunks, with_chunks
from leakline.errors import LeaklineError
from leakline.model.mappings import VmaTable
from leakline.model.names import readable
from leakline.session.targets import require_readable
from leakline.sources.procfs import ProcFs
from leakline.sources.residency import resident_bytes

if TYPE_CHECKING:
    from leakline.sources.machine import Machine


def read_mappings(machine: Machine, pid: int) -> VmaTable:
    """The mappings of one process, in order of address.

    Raises:
        LeaklineError: it may not be read, or is gone.

    """
    procfs = ProcFs(machine.proc)
    require_readable(procfs, pid, probe=False)
    usages = procfs.smaps(pid)
    rows = describe_mappings(usages, procfs.stack_pointers(pid))
    if machine.live:
        with suppress(LeaklineError):  # where its memory may not be read, or it has ended meanwhile, they stay `anon`
            rows = with_chunks(rows, resident_bytes(machine.proc, pid, [row.start for row in may_hold_chunks(rows)], 16))
    return VmaTable(
        pid=pid,
        command=readable(procfs.stat(pid).command),
        vmas=tuple(rows),
        groups=None,
        totals=accounting.total_mappings("total", rows),
        max_map_count=procfs.max_map_count(),
    )
