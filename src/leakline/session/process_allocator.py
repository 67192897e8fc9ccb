"""Which file's malloc serves a process: libc's, a library's that replaces it, or the program's own."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from leakline.errors import NotPossible, NotSupported, ParseError
from leakline.formats.elf import Elf, Symbol
from leakline.formats.x86 import cheap_offset
from leakline.model.vma import Vma
from leakline.session.process_libc import living_maps
from leakline.sources.allocators.recognise import is_libc, require_64_bits
from leakline.sources.bpf import FUNCTIONS, ProbedFunction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.sources.procfs import ProcFs

_LOADER = re.compile(r"/ld-[^/]*\.so[^/]*$")
_CODE_BYTES = 48


class ProcessAllocator(msgspec.Struct, frozen=True, kw_only=True):
    """The malloc family of a process."""

    name: str
    """Of its file."""
    path: bytes
    """By which its file can be opened, in the process's own mount namespace."""
    functions: tuple[ProbedFunction, ...]
    code: tuple[tuple[int, int], tuple[int, int]]
    """Where return addresses can point: [start, end) of the program's code, and of all libraries'."""


def find_allocator(procfs: ProcFs, pid: int) -> ProcessAllocator:
    """The allocator that answers the process's calls.

    The first definition of malloc in the order of symbol search counts: the program's own, else a library's that is not libc,
    else libc's (System V gABI, "Dynamic Linking", symbol interposition).

    Raises:
        NotSupported: nothing that it maps has a malloc by name.
        NotPossible: the file was replaced, and only root can read the one that is mapped.
        TargetGone: it has ended.

    """
    vmas = living_maps(procfs, pid)
    files: dict[tuple[str, int], Vma] = {}
    for vma in vmas:
        if vma.is_file and vma.path is not None:
            files.setdefault((vma.path, vma.inode), vma)
    replaced = None
    for vma in _in_search_order(procfs, pid, vmas, list(files.values())):
        path = procfs.mapped_file(pid, vma)
        if path is None:
            replaced = replaced or vma
            continue
        functions = _functions(path)
        if functions is not None:
            name = (vma.path or "").rsplit("/", 1)[-1]
            return ProcessAllocator(name=name, path=path, functions=functions, code=_code(vmas, vmas[0]))
    if replaced is not None:
        raise NotPossible(
            f"a library of process {pid} was replaced on disk while it runs",
            hint="Run as root: then leakline reads the file that is mapped.",
        )
    raise NotSupported(
        "not supported: nothing in this process has a function malloc by name: it is static and stripped, or has a heap of its own",
        hint="`leakline trace --via faults` shows which lines touch new memory, whatever the allocator.",
    )


def require_64_bit_program(procfs: ProcFs, pid: int) -> None:
    """Refuse a process whose code and stacks our parts cannot read.

    Raises:
        NotSupported: it runs a 32-bit program.

    """
    with suppress(OSError, ParseError), open(procfs.root / str(pid) / "exe", "rb") as file:
        require_64_bits(Elf(file, f"the program of process {pid}"))


def _in_search_order(procfs: ProcFs, pid: int, vmas: Sequence[Vma], files: Sequence[Vma]) -> list[Vma]:
    program = _program(procfs, pid, vmas)
    libraries = [vma for vma in files if vma.inode != (program.inode if program else None) and not _LOADER.search(vma.path or "")]
    executable = [vma for vma in libraries if any(v.inode == vma.inode and "x" in v.perms for v in vmas)]
    executable.sort(key=lambda vma: is_libc(vma))
    return ([program] if program else []) + executable


def _program(procfs: ProcFs, pid: int, vmas: Sequence[Vma]) -> Vma | None:
    with suppress(OSError):
        inode = (procfs.root / str(pid) / "exe").stat().st_ino
        return next((vma for vma in vmas if vma.is_file and vma.inode == inode), None)
    return None


def _functions(path: bytes) -> tuple[ProbedFunction, ...] | None:
    """The malloc family of a file, each where a probe is cheapest; None where it has no malloc."""
    try:
        with Elf.open(path, path.decode(errors="backslashreplace")) as elf:
            require_64_bits(elf)
            named = elf.exported_functions(FUNCTIONS) or ({} if elf.has_interpreter else elf.named_functions(FUNCTIONS))
            if "malloc" not in named:
                return None
            return tuple(f for name, symbol in named.items() if (f := _probed(elf, name, symbol)) is not None)
    except (ParseError, OSError):
        return None


def _probed(elf: Elf, name: str, symbol: Symbol) -> ProbedFunction | None:
    offset = elf.offset_of_address(symbol.address)
    if offset is None:
        return None
    return ProbedFunction(
        name=name, offset=offset + cheap_offset(elf.bytes_at(offset, min(symbol.size or _CODE_BYTES, _CODE_BYTES)))
    )


def _code(vmas: Sequence[Vma], program: Vma) -> tuple[tuple[int, int], tuple[int, int]]:
    code = [vma for vma in vmas if "x" in vma.perms and vma.path != "[vsyscall]"]
    own = [vma for vma in code if vma.path == program.path]
    others = [vma for vma in code if vma.path != program.path]

    def span(parts: Sequence[Vma]) -> tuple[int, int]:
        return (parts[0].start, parts[-1].end) if parts else (0, 0)

    return span(own), span(others)
