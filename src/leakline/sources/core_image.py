"""Images of processes in files: core dumps of the kernel and of gdb, and leakline's own, which are core files too."""

from __future__ import annotations

import mmap
import os
import time
from contextlib import suppress
from itertools import pairwise
from typing import IO, TYPE_CHECKING

import msgspec

from leakline.errors import InvalidRequest, LeaklineError, NotPossible, ParseError
from leakline.formats.core import CoreFile, CoreMapping, CoreThread, Note, build_id, notes_of, parse_core, write_core
from leakline.formats.elf import Elf
from leakline.model.finding import Target
from leakline.model.names import readable
from leakline.model.ranges import subtract
from leakline.model.vma import Vma
from leakline.native.heap import MemoryCopy
from leakline.sources.allocators.glibc import ArenaLayout, GlibcVersion, find_main_arena, main_top, parse_version
from leakline.sources.allocators.recognise import require_glibc
from leakline.sources.heap_image import HeapImage
from leakline.sources.ptrace import ThreadState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_OWNER, _OURS = b"leakline", 1
_AT_ENTRY, _AT_RANDOM, _AT_VDSO = 9, 25, 33  # include/uapi/linux/auxvec.h
_PAGE = 4096
_CUT = "are missing, because the file is cut short"
_FLAGS_OF = {f"{r}{w}{x}": 4 * (r == "r") + 2 * (w == "w") + (x == "x") for r in "r-" for w in "w-" for x in "x-"}
_PERMS_OF = {flags: f"{perms}p" for perms, flags in _FLAGS_OF.items()}


class _SavedVma(msgspec.Struct, frozen=True, array_like=True):
    start: int
    end: int
    perms: str
    offset: int
    device: tuple[int, int]
    inode: int
    path: bytes | None


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    """The note that leakline adds to a core file of its own."""

    version: int
    target: Target
    vmas: tuple[_SavedVma, ...]
    held: tuple[int, ...]
    unread: int
    libc: tuple[tuple[int, int], int]
    glibc: tuple[int, int]
    stopped_ns: int
    build_ids: dict[str, str]
    """By the start of a mapping, in hexadecimal digits."""


class StoredImage(msgspec.Struct, frozen=True, kw_only=True):
    """A process in a file."""

    image: HeapImage
    target: Target
    build_ids: Mapping[int, str]
    """Of mapped files, where known, by the start of a mapping."""

    def file_of(self, vma: Vma) -> bytes | None:
        """The mapped file, if it lies on this machine and is the same."""
        if vma.path is None or not vma.is_file:
            return None
        return same_file(vma.path, self.build_ids.get(vma.start))


def same_file(path: str, wanted: str | None) -> bytes | None:
    """The file at a path, if it lies here and has the build-id that is wanted."""
    try:
        with Elf.open(path, path) as elf:
            return os.fsencode(path) if wanted is None or elf.build_id == wanted else None
    except (OSError, LeaklineError):
        return None


def open_image(path: Path) -> StoredImage:
    """Read a core file.

    Raises:
        InvalidRequest: it cannot be opened.
        ParseError: it is none, or damaged.
        NotPossible: the libc that the program ran with is not here.
        NotSupported: the program is none whose heap leakline reads.

    """
    name = readable(str(path))
    data = map_core(path)
    core = parse_core(memoryview(data), name)
    copy = core_memory(core, data)
    threads = tuple(ThreadState(tid=t.tid, registers=t.registers, xsave=t.xsave) for t in core.threads)
    missing = sum(segment.missing for segment in core.segments)
    ours = core.note(_OWNER, _OURS)
    return _ours(ours, name, copy, threads, missing) if ours else _foreign(core, name, copy, threads, missing)


def core_build_ids(core: CoreFile, copy: MemoryCopy, vmas: Sequence[Vma]) -> dict[int, str]:
    """Build-ids of mapped files, as far as the core file holds their first pages, by the start of each mapping."""
    found = {m.path: build for m in core.mappings if not m.offset and (build := build_id(copy.read(m.start, _PAGE)))}
    return {v.start: found[path] for v in vmas if v.path and (path := os.fsencode(v.path)) in found}


def core_memory(core: CoreFile, data: mmap.mmap) -> MemoryCopy:
    """The memory that a core file holds."""
    runs = [segment for segment in core.segments if segment.size]
    return MemoryCopy(data, [(s.start, s.start + s.size) for s in runs], [s.offset for s in runs])


def map_core(path: Path) -> mmap.mmap:
    """A core file, mapped.

    Raises:
        InvalidRequest: it cannot be opened.

    """
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is empty"
        raise InvalidRequest(
            f"cannot read {readable(str(path))}: {why}", hint="Give a core file, or what `scan --save` wrote."
        ) from error


def _ours(note: bytes, name: str, copy: MemoryCopy, threads: tuple[ThreadState, ...], missing: int) -> StoredImage:
    try:
        saved = msgspec.json.decode(note, type=_Saved)
        build_ids = {int(start, 16): text for start, text in saved.build_ids.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise ParseError(f"{name} is damaged: {error}") from error
    if saved.version != 1:
        raise ParseError(f"{name} was written by another version of leakline", hint="Read it with that, or a newer one.")
    vmas = tuple(
        Vma(v.start, v.end, v.perms, v.offset, v.device, v.inode, None if v.path is None else os.fsdecode(v.path))
        for v in saved.vmas
    )
    version = GlibcVersion(*saved.glibc)
    if not _sound(vmas) or any(not 0 <= value < 1 << 64 for value in saved.held) or saved.unread < 0:
        raise ParseError(f"{name} is damaged: mappings that no process has")
    if not version.is_known:
        raise ParseError(f"{name} is damaged, or of a newer leakline: glibc {version}")
    image = HeapImage(
        pid=saved.target.pid,
        vmas=vmas,
        copy=copy,
        threads=threads,
        held=saved.held,
        unread=saved.unread + missing,
        unread_because=_CUT if missing else "could not be read",
        libc=saved.libc,
        version=version,
        time_ns=time.monotonic_ns(),
        stopped_ns=0,
    )
    return StoredImage(image=image, target=saved.target, build_ids=build_ids)


def _sound(vmas: Sequence[Vma]) -> bool:
    edges = [edge for vma in vmas for edge in (vma.start, vma.end)]
    rising = all(before <= after for before, after in pairwise(edges))
    whole = all(vma.start < vma.end and vma.perms[:3] in _FLAGS_OF and vma.perms[3:] in ("p", "s") for vma in vmas)
    return rising and whole and all(0 <= edge < 1 << 64 for edge in edges)


def _foreign(core: CoreFile, name: str, copy: MemoryCopy, threads: tuple[ThreadState, ...], missing: int) -> StoredImage:
    if not core.mappings:
        hint = "The kernel writes one since Linux 3.7, and so does gdb's gcore."
        raise NotPossible(f"{name} has no table of the files that were mapped (NT_FILE)", hint=hint)
    vmas = core_vmas(core)
    build_ids = core_build_ids(core, copy, vmas)
    entry = core.auxiliary.get(_AT_ENTRY)
    program = next((vma for vma in vmas if entry is not None and vma.is_file and entry in vma), None)
    libc = _libc(name, vmas, program, build_ids)
    local = None if libc.path is None else same_file(libc.path, build_ids.get(libc.start))
    if local is None:
        known = build_ids.get(libc.start)
        raise NotPossible(
            f"the libc that wrote {name} is not here: {readable(libc.path or '')}" + (f", build-id {known}" if known else ""),
            hint="Scan it on the machine where the program ran, or in a container with the same libc.",
        )
    with open(local, "rb") as file:
        version = parse_version(file.read())
    identity = libc.device, libc.inode
    vmas = _named(vmas, core, copy, version.arena, [vma for vma in vmas if (vma.device, vma.inode) == identity])
    pid = core.pid or threads[0].tid
    return StoredImage(
        image=HeapImage(
            pid=pid,
            vmas=tuple(vmas),
            copy=copy,
            threads=threads,
            held=(),
            unread=missing,
            unread_because=_CUT,
            libc=identity,
            version=version,
            time_ns=time.monotonic_ns(),
            stopped_ns=0,
        ),
        target=Target(
            pid=pid,
            command=readable(os.fsdecode(core.command or b"?")),
            executable=None if program is None or program.path is None else readable(program.path),
        ),
        build_ids=build_ids,
    )


def _libc(name: str, vmas: list[Vma], program: Vma | None, build_ids: Mapping[int, str]) -> Vma:
    path = None if program is None or program.path is None else same_file(program.path, build_ids.get(program.start))
    if path is not None:
        with suppress(OSError, ParseError), Elf.open(path, name) as elf:
            return require_glibc(vmas, elf)
    return require_glibc(vmas, None)


def core_vmas(core: CoreFile) -> list[Vma]:
    """The mappings, as far as a core file tells them: device and inode are a number for each file."""
    numbers: dict[bytes, int] = {}
    files = sorted(core.mappings, key=lambda mapping: mapping.start)
    vmas = []
    for mapping in files:
        number = numbers.setdefault(mapping.path, len(numbers) + 1)
        perms = _PERMS_OF[next((s.flags & 7 for s in core.segments if s.start <= mapping.start < s.end), 4)]
        path = os.fsdecode(mapping.path)
        vmas.append(Vma(mapping.start, mapping.end, perms, mapping.offset, (0, 1), number, path))
    taken = [(mapping.start, mapping.end) for mapping in files]
    for segment in core.segments:
        for start, end in subtract([(segment.start, segment.end)], taken):
            vmas.append(Vma(start, end, _PERMS_OF[segment.flags & 7], 0, (0, 0), 0, None))
    return sorted(vmas, key=lambda vma: vma.start)


def _named(vmas: list[Vma], core: CoreFile, copy: MemoryCopy, layout: ArenaLayout, libc: Sequence[Vma]) -> list[Vma]:
    """With the names that /proc/PID/maps would give: [stack] holds AT_RANDOM's bytes, [heap] the main arena's top chunk."""
    main = find_main_arena(copy, layout, libc)
    names = {
        "[stack]": core.auxiliary.get(_AT_RANDOM),
        "[vdso]": core.auxiliary.get(_AT_VDSO),
        "[heap]": None if main is None else main_top(copy, layout, main),
    }
    found = []
    for vma in vmas:
        name = next((n for n, address in names.items() if vma.path is None and address is not None and address in vma), None)
        found.append(vma if name is None else msgspec.structs.replace(vma, path=name))
    return found


def save_image(
    stream: IO[bytes], image: HeapImage, target: Target, auxiliary: bytes, open_as: Callable[[Vma], bytes | None]
) -> None:
    """Write an image as a core file, which debuggers read too; a note of leakline's says what core files have no place for.

    Args:
        stream: where to.
        image: the process.
        target: which it is.
        auxiliary: /proc/PID/auxv.
        open_as: a path by which a mapping's file can be opened, None if there is none.

    """
    saved = _Saved(
        version=1,
        target=target,
        vmas=tuple(
            _SavedVma(v.start, v.end, v.perms, v.offset, v.device, v.inode, None if v.path is None else os.fsencode(v.path))
            for v in image.vmas
        ),
        held=image.held,
        unread=image.unread,
        libc=image.libc,
        glibc=(image.version.major, image.version.minor),
        stopped_ns=image.stopped_ns,
        build_ids=_build_ids(image.vmas, open_as),
    )
    files = [v for v in image.vmas if v.is_file and v.path is not None]
    mappings = [CoreMapping(start=v.start, end=v.end, offset=v.offset, path=os.fsencode(v.path or "")) for v in files]
    threads = [CoreThread(tid=t.tid, registers=t.registers, xsave=t.xsave) for t in image.threads]
    notes = notes_of(image.pid, os.fsencode(target.command), threads, auxiliary, mappings)
    notes.append(Note(owner=_OWNER, type=_OURS, data=msgspec.json.encode(saved)))
    segments = [
        (start, _FLAGS_OF[vma.perms[:3]], image.copy.view(start, end - start))
        for vma in image.vmas
        for start, end in image.copy.pieces(vma.start, vma.end)
    ]
    write_core(stream, notes, segments)


def _build_ids(vmas: Sequence[Vma], open_as: Callable[[Vma], bytes | None]) -> dict[str, str]:
    known: dict[str, str | None] = {}
    found = {}
    for vma in vmas:
        if not vma.is_file or vma.path is None:
            continue
        if vma.path not in known:
            known[vma.path] = None
            path = open_as(vma) if "/dev/" not in vma.path else None
            with suppress(OSError, LeaklineError):
                if path is not None:
                    with Elf.open(path, vma.path) as elf:
                        known[vma.path] = elf.build_id
        build = known[vma.path]
        if build is not None:
            found[f"{vma.start:x}"] = build
    return found
