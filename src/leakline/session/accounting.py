"""Where memory is: one look at all processes, at the mappings of one, at the whole machine."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import msgspec

from leakline.analysis import accounting
from leakline.analysis.system_owners import owners_of
from leakline.analysis.vma_kind import describe_mappings, may_hold_chunks, with_chunks
from leakline.errors import LeaklineError, NotPossible, ParseError
from leakline.model.accounting import Coverage, ProcessMemory, ProcessTable
from leakline.model.mappings import VmaTable
from leakline.model.names import readable
from leakline.model.system import ProcessSums, ShmemFile, SystemTable
from leakline.session.targets import require_readable
from leakline.sources.cgroupfs import read_cgroups
from leakline.sources.mapping_table import MappingTableReader
from leakline.sources.process_table import ProcessTableReader
from leakline.sources.procfs import ProcFs
from leakline.sources.remote_memory import resident_bytes
from leakline.sources.shmem_files import read_shmem_files
from leakline.sources.system_files import read_huge_pools, read_nodes, read_swap_areas, read_zswap

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from leakline.model.accounting import Group
    from leakline.sources.machine import Machine

SHMEM_FILES = "leakline-shmem.json"
Part = Literal["processes", "cgroups", "shmem", "numa", "zones"]


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
        max_map_count=ProcFs(machine.proc).max_map_count(),
        pss_is_estimate=estimated,
    )


def read_mapping_groups(machine: Machine) -> tuple[list[Group], Coverage]:
    """The mappings of all processes, by name."""
    return MappingTableReader(machine).read()


def read_mappings(machine: Machine, pid: int) -> VmaTable:
    """The mappings of one process, in order of address.

    Raises:
        LeaklineError: it may not be read, or is gone.

    """
    procfs = ProcFs(machine.proc)
    require_readable(procfs, pid, live=machine.live)
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


def read_system(machine: Machine, parts: Collection[Part] = ()) -> SystemTable:
    """Where the machine's memory is.

    Args:
        machine: which.
        parts: what to look at besides the owners.

    Raises:
        NotPossible: a part cannot be had here.

    """
    procfs = ProcFs(machine.proc)
    amounts, pages = procfs.amounts(), procfs.per_cpu_pages()
    sums = _process_sums(machine, amounts) if "processes" in parts else None
    return SystemTable(
        mem_total=amounts["MemTotal"],
        mem_free=amounts["MemFree"],
        mem_available=amounts.get("MemAvailable"),
        owners=owners_of(amounts, None if pages is None else pages * machine.page_size),
        swap_total=amounts.get("SwapTotal", 0),
        swap_free=amounts.get("SwapFree", 0),
        swap_areas=read_swap_areas(machine),
        zswap=read_zswap(machine, amounts),
        hugetlb=read_huge_pools(machine),
        commit_limit=amounts.get("CommitLimit"),
        committed=amounts.get("Committed_AS"),
        pressure=procfs.pressure(),
        processes=sums,
        cgroups=tuple(read_cgroups(machine, _members(machine))) if "cgroups" in parts else None,
        shmem_files=tuple(shmem_files(machine)) if "shmem" in parts else None,
        numa=read_nodes(machine) if "numa" in parts else None,
        zones=procfs.zones(machine.page_size) if "zones" in parts else None,
    )


def _process_sums(machine: Machine, amounts: dict[str, int]) -> ProcessSums:
    rows, coverage = ProcessTableReader(machine).read()

    def sum_of(*fields: str) -> int | None:
        known = [value for row in rows for field in fields if (value := getattr(row, field)) is not None]
        return sum(known) if known else None

    return ProcessSums(
        pss=sum_of("pss"),
        pss_anon=sum_of("pss_anon"),
        pss_file_and_shmem=sum_of("pss_file", "pss_shmem"),
        anon_pages=amounts.get("AnonPages"),
        mapped=amounts.get("Mapped"),
        coverage=coverage,
    )


def _members(machine: Machine) -> Counter[str]:
    rows, _ = ProcessTableReader(machine, ["cgroup"]).read()
    return Counter(row.cgroup for row in rows if row.cgroup is not None)


def shmem_files(machine: Machine) -> list[ShmemFile]:
    """Files in memory; of a captured machine, as they were listed when it was captured.

    Raises:
        NotPossible: the capture has no such list.
        ParseError: it is damaged.

    """
    if machine.live:
        return read_shmem_files(machine.proc)
    path = machine.proc.parent / SHMEM_FILES
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[ShmemFile])
    except OSError as error:
        raise NotPossible(
            "this capture does not tell which files were in memory", hint="`leakline snapshot` writes captures that do."
        ) from error
    except msgspec.MsgspecError as error:
        raise ParseError(f"{SHMEM_FILES}: {error}") from error
