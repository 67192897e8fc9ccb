"""The signal that left a core dump, explained."""

from __future__ import annotations

import os
import signal
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import msgspec

from leakline.analysis.address_space import AddressSpace
from leakline.errors import NotPossible, ParseError
from leakline.formats.core import parse_core
from leakline.model.faults import FaultCounts, FaultReport, NotSeen
from leakline.model.finding import Cost, Target
from leakline.model.names import readable
from leakline.session.crashing import Scene, explain_crash
from leakline.sources.core_image import core_build_ids, core_memory, core_vmas, map_core, same_file
from leakline.sources.signal_stops import REGISTER_NAMES, parse_siginfo
from leakline.symbols.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from leakline.formats.core import CoreFile
    from leakline.model.vma import Vma
    from leakline.native.heap import MemoryCopy

_NT_SIGINFO, _NT_PRSTATUS, _SIGINFO_SIZE = 0x53494749, 1, 128
_AT_ENTRY, _AT_RANDOM, _AT_VDSO = 9, 25, 33  # include/uapi/linux/auxvec.h
_NAMES: dict[int, Literal["SIGSEGV", "SIGBUS"]] = {signal.SIGSEGV: "SIGSEGV", signal.SIGBUS: "SIGBUS"}


def explain_core(path: Path, say: Callable[[str], None]) -> FaultReport:
    """Read a core dump, and explain the SIGSEGV or SIGBUS that left it.

    Raises:
        InvalidRequest: it cannot be opened.
        ParseError: it is none, or damaged.
        NotPossible: it was left by something else.

    """
    began = time.monotonic_ns()
    name = readable(str(path))
    data = map_core(path)
    core = parse_core(memoryview(data), name)
    info = _signal(core, name)
    copy = core_memory(core, data)
    vmas = _named(core_vmas(core), core)
    build_ids = core_build_ids(core, copy, vmas)
    local = _LocalFiles(build_ids)
    thread = core.threads[0]
    pid = core.pid or thread.tid
    command = readable(os.fsdecode(core.command or b"?"))
    resolver = Resolver(vmas, local.open_as, b"")
    scene = Scene(
        pid=pid,
        tid=thread.tid,
        command=command,
        signal=_NAMES[info.number],
        code=info.code,
        address=info.address,
        sender=info.sender if info.code <= 0 else None,
        registers=dict(zip(REGISTER_NAMES, thread.registers, strict=True)),
        handled=False,
        space=AddressSpace(vmas),
        resolver=resolver,
        read=lambda address, size: _read(copy, vmas, local, address, size),
        stack_limit=None,
        size_of_file=local.size,
    )
    group = explain_crash(scene)
    for problem in sorted({*resolver.problems, *local.problems}):
        say(f"symbols: {problem}")
    program = next((v for v in vmas if v.is_file and core.auxiliary.get(_AT_ENTRY, 0) in v), None)
    why = "a core dump holds what was, not how it came to be"
    return FaultReport(
        target=Target(pid=pid, command=command, executable=None if program is None else readable(program.path or "")),
        seconds=0.0,
        counts=FaultCounts(minor=None, major=None),
        seen=FaultCounts(minor=None, major=None),
        lost=0,
        every=1,
        by="line",
        faults=(group,),
        timeline=(),
        interval=1.0,
        processes=(),
        access_is="decoded",
        not_seen=(NotSeen(what="faults that were served", count=None, why=why),),
        status=None,
        cost=Cost(target_stopped_ns=0, duration_ns=time.monotonic_ns() - began),
    )


class _LocalFiles:
    """The mapped files as they lie on this machine, if they are the same."""

    def __init__(self, build_ids: dict[int, str]) -> None:
        self._build_ids = build_ids
        self._known: dict[tuple[str, str | None], bytes | None] = {}
        self.problems: set[str] = set()

    def open_as(self, vma: Vma) -> bytes | None:
        """A path by which a mapping's file can be opened."""
        if vma.path is None or not vma.is_file:
            return None
        key = vma.path, self._build_ids.get(vma.start)
        if key not in self._known:
            self._known[key] = same_file(*key)
            if self._known[key] is None:
                wanted = "" if key[1] is None else f" with build-id {key[1]}"
                self.problems.add(f"{readable(vma.path)}{wanted} is not on this machine")
        return self._known[key]

    @staticmethod
    def size(vma: Vma) -> int | None:
        """As the file is now: nobody wrote down how it was."""
        if vma.path is None:
            return None
        with suppress(OSError, ValueError):
            return os.stat(os.fsencode(vma.path)).st_size
        return None


class _Info(msgspec.Struct, frozen=True):
    number: int
    code: int
    address: int
    sender: int


def _signal(core: CoreFile, name: str) -> _Info:
    data = core.note(b"CORE", _NT_SIGINFO)
    if data is None or len(data) < _SIGINFO_SIZE:
        hint = (
            "The kernel writes the signal (NT_SIGINFO) since Linux 3.7; gcore and `scan --save` write no signal, as there was none."
        )
        raise NotPossible(f"{name} does not tell which signal left it", hint=hint)
    try:
        info = _Info(*parse_siginfo(data))
    except struct.error as error:
        raise ParseError(f"{name} is a damaged core file: {error}") from error
    if info.number not in _NAMES:
        known = signal.Signals(info.number).name if info.number in signal.valid_signals() and info.number < 32 else str(info.number)
        raise NotPossible(
            f"{name} was left by {known}, which is no fault of memory",
            hint="`gdb PROGRAM CORE` shows where; an abort (SIGABRT) has often said why on stderr.",
        )
    return info


def _read(copy: MemoryCopy, vmas: list[Vma], local: _LocalFiles, address: int, size: int) -> bytes:
    """From the core file; what it left out, as it does with code, from the file that was mapped."""
    found = copy.read(address, size)
    if found:
        return found
    vma = next((v for v in vmas if address in v), None)
    path = None if vma is None or "w" in vma.perms else local.open_as(vma)
    if vma is None or path is None:
        return b""
    with suppress(OSError), open(path, "rb") as file:
        return os.pread(file.fileno(), min(size, vma.end - address), address - vma.start + vma.offset)
    return b""


def _named(vmas: list[Vma], core: CoreFile) -> list[Vma]:
    """With the names that /proc/PID/maps would give to what a core file has no names for."""
    names = {"[stack]": core.auxiliary.get(_AT_RANDOM), "[vdso]": core.auxiliary.get(_AT_VDSO)}
    found = []
    for vma in vmas:
        name = next((n for n, address in names.items() if vma.path is None and address is not None and address in vma), None)
        found.append(vma if name is None else msgspec.structs.replace(vma, path=name))
    return found
