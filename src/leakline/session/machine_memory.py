"""One look at the whole machine."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

import msgspec

from leakline.analysis.system_owners import owners_of
from leakline.errors import NotPossible, ParseError
from leakline.model.system import ProcessSums, ShmemFile, SystemTable
from leakline.sources.cgroupfs import read_cgroups
from leakline.sources.process_table import ProcessTableReader
from leakline.sources.procfs import ProcFs
from leakline.sources.shmem_files import read_shmem_files
from leakline.sources.system_files import read_huge_pools, read_nodes, read_swap_areas, read_zswap

if TYPE_CHECKING:
    from collections.abc import Collection

    from leakline.sources.machine import Machine

SHMEM_FILES = "leakline-shmem.json"
Part = Literal["processes", "cgroups", "shmem", "numa", "zones"]


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
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ParseError(f"{SHMEM_FILES}: {error}") from error
