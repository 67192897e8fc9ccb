"""The libc that serves a process, and the file it was mapped from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from leakline.errors import NotPossible, NotSupported, ParseError, TargetGone
from leakline.formats.elf import Elf
from leakline.model.vma import Vma
from leakline.sources.allocators.recognise import require_glibc
from leakline.sources.procfs import translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.sources.procfs import ProcFs


class ProcessLibc(msgspec.Struct, frozen=True, kw_only=True):
    """A process's glibc."""

    vma: Vma
    """Its first mapping."""
    path: bytes
    """By which its file can be opened, in the process's own mount namespace."""


class LibcFunction(msgspec.Struct, frozen=True, kw_only=True):
    """Where a function begins."""

    name: str
    offset: int
    """In the file."""
    address: int
    """In the process."""


def living_maps(procfs: ProcFs, pid: int, vmas: list[Vma] | None = None) -> list[Vma]:
    """The mappings of a process that has some.

    Args:
        procfs: where it is.
        pid: which.
        vmas: its mappings, where they are known already.

    Raises:
        NotSupported: its first thread has ended, and others live on.
        TargetGone: it has no memory any more.

    """
    vmas = procfs.maps(pid) if vmas is None else vmas
    if not vmas and procfs.living_thread(pid) != pid:
        hint = "`leakline maps` and `ps` show its memory all the same."
        raise NotSupported(f"not supported: the first thread of process {pid} has ended, and others live on", hint=hint)
    if not vmas:
        raise TargetGone(f"process {pid} has no memory any more")
    return vmas


def find_libc(procfs: ProcFs, pid: int, vmas: list[Vma] | None = None) -> ProcessLibc:
    """The glibc that a process maps.

    Args:
        procfs: where it is.
        pid: which.
        vmas: its mappings, where they are known already.

    Raises:
        NotSupported: it is a 32-bit or static program, or another allocator serves it.
        NotPossible: libc's file was replaced, and only root can read the one that is mapped.

    """
    vmas = living_maps(procfs, pid, vmas)
    try:
        with translated(pid, "read the program"), open(procfs.root / str(pid) / "exe", "rb") as file:
            libc = require_glibc(vmas, Elf(file, f"the program of process {pid}"))
    except ParseError:
        libc = require_glibc(vmas, None)
    path = procfs.mapped_file(pid, libc)
    if path is None:
        raise NotPossible(
            f"the libc of process {pid} was replaced on disk while it runs",
            hint="Run as root: then leakline reads the file that is mapped.",
        )
    return ProcessLibc(vma=libc, path=path)


def find_functions(libc: ProcessLibc, names: Sequence[str]) -> dict[str, LibcFunction]:
    """Those of the named functions that this libc has.

    Raises:
        NotSupported: it has no malloc.

    """
    found = {}
    with Elf.open(libc.path, "libc") as elf:
        symbols = elf.symbols()
        bias = elf.load_bias(libc.vma.start, libc.vma.offset)
        for name in names:
            symbol = symbols.named(name)
            offset = None if symbol is None else elf.offset_of_address(symbol.address)
            if symbol is not None and offset is not None and bias is not None:
                found[name] = LibcFunction(name=name, offset=offset, address=symbol.address + bias)
    if "malloc" not in found:
        raise NotSupported("not supported: a libc without the symbol malloc")
    return found
