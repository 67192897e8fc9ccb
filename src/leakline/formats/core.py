"""ELF core files: a process's memory and registers, as the kernel, gdb's gcore and leakline write them.

Sources: the gABI 4.1; fs/binfmt_elf.c and include/uapi/linux/elf.h of Linux 6.12; struct elf_prstatus and elf_prpsinfo of x86-64.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import IO

import msgspec

from leakline.errors import ParseError
from leakline.model.registers import NAMES

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_NOTE = struct.Struct("<III")
_IDENTITY = b"\x7fELF\x02\x01\x01" + bytes(9)
_CORE, _X86_64, _LOAD, _NOTE_SEGMENT = 4, 62, 1, 4
_PN_XNUM = 0xFFFF
_NT_PRSTATUS, _NT_PRPSINFO, _NT_AUXV, _NT_FILE, _NT_X86_XSTATE, _NT_GNU_BUILD_ID = 1, 3, 6, 0x46494C45, 0x202, 3
_PRSTATUS_SIZE, _PRSTATUS_PID, _PRSTATUS_REGISTERS, _REGISTERS = 336, 32, 112, len(NAMES)
_PRPSINFO_SIZE, _PRPSINFO_PID, _PRPSINFO_NAME = 136, 24, 40
_PAGE = 4096
_USER_END = 1 << 56  # five-level page tables
_COPY_STEP = 16 << 20


class CoreSegment(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of the process, and where its bytes lie in the file."""

    start: int
    end: int
    offset: int
    size: int
    """Bytes that are in the file, fewer than the memory has where it was not written, or the file was cut short."""
    missing: int
    """Bytes that should be in the file and are not."""
    flags: int
    """Bits: 1 executable, 2 writable, 4 readable."""


class CoreThread(msgspec.Struct, frozen=True, kw_only=True):
    """A thread's registers."""

    tid: int
    registers: tuple[int, ...]
    """struct user_regs_struct, 27 words."""
    xsave: bytes


class CoreMapping(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping of a file (NT_FILE)."""

    start: int
    end: int
    offset: int
    """In the file, in bytes."""
    path: bytes


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One note: whose, of what type, and what it says."""

    owner: bytes
    type: int
    data: bytes


class CoreFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a core file says besides the memory itself."""

    segments: tuple[CoreSegment, ...]
    """Sorted by address."""
    threads: tuple[CoreThread, ...]
    """That which the signal hit is the first."""
    mappings: tuple[CoreMapping, ...]
    auxiliary: Mapping[int, int]
    """The auxiliary vector (getauxval(3))."""
    pid: int | None
    command: bytes | None
    notes: tuple[Note, ...]

    def note(self, owner: bytes, kind: int) -> bytes | None:
        """What the first note of that owner and type says."""
        return next((note.data for note in self.notes if (note.owner, note.type) == (owner, kind)), None)


def parse_core(data: bytes | memoryview, name: str) -> CoreFile:
    """Read a core file of a 64-bit x86 process.

    Args:
        data: the file, mapped.
        name: what to call it in errors.

    Raises:
        ParseError: it is none.

    """
    if bytes(data[:4]) != _IDENTITY[:4]:
        raise ParseError(f"{name} is no core file", hint=_hint(bytes(data[:6])))
    try:
        return _parse(data, name)
    except (struct.error, IndexError, ValueError) as error:
        raise ParseError(f"{name} is a damaged core file: {error}") from error


def _hint(start: bytes) -> str | None:
    if start[:4] == b"\x28\xb5\x2f\xfd" or start[:6] == b"\xfd7zXZ\x00" or start[:4] == b"\x04\x22\x4d\x18":
        return "It is compressed: `coredumpctl dump PID -o FILE`, `unzstd`, `unxz` or `unlz4` unpack it."
    return None


def _parse(data: bytes | memoryview, name: str) -> CoreFile:
    identity, kind, machine, _, _, at, sections_at, _, _, entry_size, count, *_ = _HEADER.unpack_from(data)
    if identity[4:6] != _IDENTITY[4:6] or machine != _X86_64:
        raise ParseError(f"{name} is of another machine than 64-bit x86", hint="leakline reads x86-64.")
    if kind != _CORE:
        raise ParseError(f"{name} is an ELF file, and no core file", hint="A program that runs is scanned by its PID.")
    if entry_size != _PROGRAM_HEADER.size:
        raise ParseError(f"{name} is a damaged core file: program headers of {entry_size} bytes")
    if count == _PN_XNUM:
        count = struct.unpack_from("<I", data, sections_at + 44)[0]  # sh_info of section 0
    if at + count * entry_size > len(data):
        raise ParseError(f"{name} is cut short: it ends within its headers")
    segments: list[CoreSegment] = []
    notes: list[Note] = []
    for flags_and_places in _PROGRAM_HEADER.iter_unpack(data[at : at + count * entry_size]):
        kind, flags, offset, address, _, file_size, memory_size, _ = flags_and_places
        if kind == _NOTE_SEGMENT:
            notes += _notes(data[offset : offset + file_size])
        elif kind == _LOAD and 0 < memory_size <= _USER_END - address:  # not the kernel's [vsyscall]
            wanted = min(file_size, memory_size)
            present = max(0, min(wanted, len(data) - offset))
            segments.append(
                CoreSegment(
                    start=address,
                    end=address + memory_size,
                    offset=offset,
                    size=present,
                    missing=wanted - present,
                    flags=flags,
                )
            )
    segments.sort(key=lambda segment: segment.start)
    if any(before.end > after.start for before, after in pairwise(segments)):
        raise ParseError(f"{name} is a damaged core file: two of its segments overlap")
    threads = tuple(_threads(notes))
    if not threads:
        raise ParseError(f"{name} is a core file without a thread")
    information = next((n.data for n in notes if n.type == _NT_PRPSINFO and len(n.data) >= _PRPSINFO_SIZE), None)
    return CoreFile(
        segments=tuple(segments),
        threads=threads,
        mappings=tuple(_mappings(next((n.data for n in notes if n.type == _NT_FILE), b""))),
        auxiliary=_auxiliary(next((n.data for n in notes if n.type == _NT_AUXV), b"")),
        pid=None if information is None else struct.unpack_from("<i", information, _PRPSINFO_PID)[0],
        command=None if information is None else information[_PRPSINFO_NAME : _PRPSINFO_NAME + 16].partition(b"\0")[0],
        notes=tuple(notes),
    )


def _notes(data: bytes | memoryview) -> Iterator[Note]:
    at = 0
    while at + _NOTE.size <= len(data):
        name_size, size, kind = _NOTE.unpack_from(data, at)
        at += _NOTE.size
        name = bytes(data[at : at + name_size])
        at += -(-name_size // 4) * 4
        content = bytes(data[at : at + size])
        if len(content) < size:
            return  # cut short
        at += -(-size // 4) * 4
        yield Note(owner=name.rstrip(b"\0"), type=kind, data=content)


def _threads(notes: Sequence[Note]) -> Iterator[CoreThread]:
    """A thread's notes follow each other, NT_PRSTATUS first."""
    thread: CoreThread | None = None
    for note in notes:
        if note.type == _NT_PRSTATUS and note.owner == b"CORE" and len(note.data) >= _PRSTATUS_SIZE:
            if thread is not None:
                yield thread
            tid = struct.unpack_from("<i", note.data, _PRSTATUS_PID)[0]
            registers = struct.unpack_from(f"<{_REGISTERS}Q", note.data, _PRSTATUS_REGISTERS)
            thread = CoreThread(tid=tid, registers=registers, xsave=b"")
        elif note.type == _NT_X86_XSTATE and thread is not None:
            thread = msgspec.structs.replace(thread, xsave=note.data)
    if thread is not None:
        yield thread


def _mappings(data: bytes) -> Iterator[CoreMapping]:
    if len(data) < 16:
        return
    count, page = struct.unpack_from("<2Q", data)
    if count > len(data) // 24:
        raise ValueError("a table of files that is longer than its note")
    names = data[16 + 24 * count :].split(b"\0")
    for index in range(count):
        start, end, offset = struct.unpack_from("<3Q", data, 16 + 24 * index)
        if start < end and index < len(names):
            yield CoreMapping(start=start, end=end, offset=offset * page, path=names[index])


def _auxiliary(data: bytes) -> dict[int, int]:
    return dict(struct.iter_unpack("<2Q", data[: len(data) // 16 * 16]))


def build_id(start_of_file: bytes) -> str | None:
    """The build-id of an ELF file of which only the first page is known, as core files hold it."""
    try:
        identity, _, _, _, _, at, _, _, _, entry_size, count, *_ = _HEADER.unpack_from(start_of_file)
        if identity[:6] != _IDENTITY[:6] or entry_size != _PROGRAM_HEADER.size:
            return None
        for index in range(count):
            kind, _, offset, _, _, size, *_ = _PROGRAM_HEADER.unpack_from(start_of_file, at + index * entry_size)
            if kind != _NOTE_SEGMENT:
                continue
            for note in _notes(start_of_file[offset : offset + size]):
                if note.owner == b"GNU" and note.type == _NT_GNU_BUILD_ID:
                    return note.data.hex()
    except struct.error:
        return None
    return None


def notes_of(
    pid: int, command: bytes, threads: Sequence[CoreThread], auxiliary: bytes, mappings: Sequence[CoreMapping]
) -> list[Note]:
    """The notes that debuggers expect in a core file.

    Args:
        pid: the process.
        command: its name, up to 15 bytes.
        threads: its registers.
        auxiliary: /proc/PID/auxv.
        mappings: of files.

    """
    information = bytearray(_PRPSINFO_SIZE)
    struct.pack_into("<i", information, _PRPSINFO_PID, pid)
    information[_PRPSINFO_NAME : _PRPSINFO_NAME + len(command[:15])] = command[:15]
    table = struct.pack("<2Q", len(mappings), _PAGE)
    table += b"".join(struct.pack("<3Q", m.start, m.end, m.offset // _PAGE) for m in mappings)
    table += b"".join(m.path + b"\0" for m in mappings)
    notes = []
    for number, thread in enumerate(threads):
        status = bytearray(_PRSTATUS_SIZE)
        struct.pack_into("<i", status, _PRSTATUS_PID, thread.tid)
        struct.pack_into(f"<{_REGISTERS}Q", status, _PRSTATUS_REGISTERS, *thread.registers)
        notes.append(Note(owner=b"CORE", type=_NT_PRSTATUS, data=bytes(status)))
        if not number:
            notes.append(Note(owner=b"CORE", type=_NT_PRPSINFO, data=bytes(information)))
            notes.append(Note(owner=b"CORE", type=_NT_AUXV, data=auxiliary))
            notes.append(Note(owner=b"CORE", type=_NT_FILE, data=table))
        notes.append(Note(owner=b"LINUX", type=_NT_X86_XSTATE, data=thread.xsave))
    return notes


def write_core(stream: IO[bytes], notes: Sequence[Note], segments: Sequence[tuple[int, int, memoryview]]) -> None:
    """Write a core file.

    Args:
        stream: where to.
        notes: what it says.
        segments: (start, flags, bytes) of the memory, sorted by address.

    """
    packed = b"".join(_packed(note) for note in notes)
    extended = len(segments) + 1 >= _PN_XNUM
    headers_at = _HEADER.size + (64 if extended else 0)
    notes_at = headers_at + _PROGRAM_HEADER.size * (len(segments) + 1)
    at = -(-(notes_at + len(packed)) // _PAGE) * _PAGE
    count = _PN_XNUM if extended else len(segments) + 1
    sections = (_HEADER.size, 64, 1) if extended else (0, 0, 0)
    places = headers_at, sections[0], 0, _HEADER.size, _PROGRAM_HEADER.size, count, sections[1], sections[2], 0
    stream.write(_HEADER.pack(_IDENTITY, _CORE, _X86_64, 1, 0, *places))
    if extended:
        stream.write(struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, len(segments) + 1, 0, 0))
    stream.write(_PROGRAM_HEADER.pack(_NOTE_SEGMENT, 0, notes_at, 0, 0, len(packed), 0, 4))
    offset = at
    for start, flags, data in segments:
        stream.write(_PROGRAM_HEADER.pack(_LOAD, flags, offset, start, 0, len(data), len(data), _PAGE))
        offset += len(data)
    stream.write(packed)
    stream.write(bytes(at - notes_at - len(packed)))
    for _, _, data in segments:
        for first in range(0, len(data), _COPY_STEP):
            stream.write(data[first : first + _COPY_STEP])


def _packed(note: Note) -> bytes:
    owner = note.owner + b"\0"
    return b"".join(
        (
            _NOTE.pack(len(owner), len(note.data), note.type),
            owner + bytes(-len(owner) % 4),
            note.data + bytes(-len(note.data) % 4),
        )
    )
