"""Lines of the kernel's code, where the debug information of this very kernel is installed: vmlinux and modules, by build-id."""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from leakline.errors import LeaklineError
from leakline.formats.elf import Elf
from leakline.model.stack import Frame
from leakline.symbols.addr2line import source_lines
from leakline.symbols.debug_files import DEBUG_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NOTE = struct.Struct("<III")
_GNU_BUILD_ID = 3
_KERNEL = "vmlinux"


def build_id_of(notes: bytes) -> str | None:
    """The build-id in ELF notes, as in /sys/kernel/notes and /sys/module/NAME/notes/.note.gnu.build-id; None if there is none."""
    at = 0
    while at + _NOTE.size <= len(notes):
        name_size, size, kind = _NOTE.unpack_from(notes, at)
        name_at = at + _NOTE.size
        data_at = name_at + (name_size + 3 & ~3)
        if kind == _GNU_BUILD_ID and notes[name_at : name_at + name_size] == b"GNU\0" and 0 < size <= len(notes) - data_at:
            return notes[data_at : data_at + size].hex()
        at = data_at + (size + 3 & ~3)
    return None


class _Function(NamedTuple):
    section: str | None
    """Of a module, which is not linked to an address yet; None for the kernel."""
    address: int


class KernelLines:
    """Finds the lines of kernel frames, and the functions that were inlined there.

    Args:
        sys: where this kernel's build-ids are.
        release: `uname -r`.
        debug: where debug information is installed.
        modules: where modules are.

    """

    def __init__(self, sys: Path, release: str, debug: Path = DEBUG_ROOT, modules: Path | None = None) -> None:
        self._sys, self._release, self._debug = sys, release, debug
        self._modules = debug.parents[1] / "lib/modules" if modules is None else modules

    def add_lines(self, stacks: Iterable[tuple[Frame, ...]]) -> dict[tuple[Frame, ...], tuple[Frame, ...]]:
        """Each stack with lines, where they are known; the others as they are."""
        wanted: dict[str, set[Frame]] = defaultdict(set)
        all_stacks = list(stacks)
        for frame in (frame for stack in all_stacks for frame in stack):
            if frame.module is not None and frame.function is not None and frame.offset is not None and frame.line is None:
                wanted[frame.module].add(frame)
        found: dict[Frame, tuple[Frame, ...]] = {}
        for module, frames in wanted.items():
            with suppress(LeaklineError, OSError):
                found |= self._of_module(module, sorted(frames, key=lambda frame: (frame.function or "", frame.offset or 0)))
        return {stack: tuple(line for frame in stack for line in found.get(frame, (frame,))) for stack in all_stacks}

    def debug_file(self, module: str) -> bytes | None:
        """The file with the lines of the kernel or a module that runs; None if it is not installed."""
        notes = self._sys / ("kernel/notes" if module == _KERNEL else f"module/{module}/notes/.note.gnu.build-id")
        try:
            wanted = build_id_of(notes.read_bytes())
        except OSError:
            return None
        if wanted is None:
            return None
        for path in self._candidates(module, wanted):
            with suppress(OSError, LeaklineError):
                if _build_id_of_file(path) == wanted and _has_lines(path):
                    return os.fsencode(path)
        return None

    def _candidates(self, module: str, build_id: str) -> Iterator[Path]:
        yield self._debug / f".build-id/{build_id[:2]}/{build_id[2:]}.debug"
        if module == _KERNEL:
            yield from (self._debug / f"boot/vmlinux-{self._release}", self._debug / f"lib/modules/{self._release}/vmlinux")
            yield from (self._modules / self._release / name for name in ("vmlinux", "build/vmlinux"))
            return
        # A module's name has `_` where its file may have `-`.
        for root in (self._debug / f"lib/modules/{self._release}", self._modules / self._release):
            for folder, _, files in os.walk(root):
                for name in files:
                    if name.partition(".ko")[0].replace("-", "_") == module and ".ko" in name:
                        yield Path(folder) / name

    def _of_module(self, module: str, frames: list[Frame]) -> dict[Frame, tuple[Frame, ...]]:
        path = self.debug_file(module)
        if path is None:
            return {}
        functions = _functions(path)
        by_section: dict[str | None, list[tuple[Frame, int]]] = defaultdict(list)
        for frame in frames:
            places = functions.get(frame.function or "", [])
            if len(places) == 1:  # of two static functions of one name it is not known which one is meant
                by_section[places[0].section].append((frame, places[0].address + (frame.offset or 0)))
        found = {}
        for section, asked in by_section.items():
            # What is printed is where the call returns to: the call lies before it.
            answers = source_lines(path, [address - 1 for _, address in asked], section)
            for (frame, address), lines in zip(asked, answers, strict=True):
                if lines and lines[-1].line is not None:
                    found[frame] = tuple(
                        msgspec.structs.replace(
                            frame,
                            function=line.function or frame.function,
                            file=line.file,
                            line=line.line,
                            address=address,
                            inlined=number < len(lines) - 1,
                        )
                        for number, line in enumerate(lines)
                    )
        return found


def _build_id_of_file(path: Path) -> str | None:
    with Elf.open(os.fsencode(path), str(path)) as elf:
        return elf.build_id or build_id_of(elf.section(".note.gnu.build-id") or b"")


def _has_lines(path: Path) -> bool:
    with Elf.open(os.fsencode(path), str(path)) as elf:
        return elf.has_lines()


def _functions(path: bytes) -> dict[str, list[_Function]]:
    found: dict[str, list[_Function]] = defaultdict(list)
    with Elf.open(path, os.fsdecode(path)) as elf:
        for name, section, address in elf.functions():
            place = _Function(section if elf.type == "ET_REL" else None, address)
            if place not in found[name]:
                found[name].append(place)
    return found
