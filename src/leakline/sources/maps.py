"""/proc/PID/maps and smaps (fs/proc/task_mmu.c)."""

from __future__ import annotations

import re

from leakline.errors import ParseError
from leakline.model.memory import MemoryUsage
from leakline.model.vma import Vma, VmaUsage
from leakline.sources.parsing import kilobytes, text

_VMA = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)(?: +(.*))?", re.DOTALL)
_FIELD = re.compile(rb"([A-Z][A-Za-z_]+):\s+(.*)", re.DOTALL)


def _vma(line: bytes) -> Vma | None:
    match = _VMA.fullmatch(line)
    if match is None:
        return None
    start, end, perms, offset, major, minor, inode, path = match.groups()
    vma = Vma(
        start=int(start, 16),
        end=int(end, 16),
        perms=perms.decode(),
        offset=int(offset, 16),
        device=(int(major, 16), int(minor, 16)),
        inode=int(inode),
        # The kernel escapes a newline, and nothing else (a genuine `\012` cannot be told apart).
        path=None if not path else text(path.replace(rb"\012", b"\n")),
    )
    if vma.end <= vma.start:
        raise ParseError(f"maps: a mapping that ends before it begins: {line[:80]!r}")
    return vma


def parse_maps(data: bytes) -> list[Vma]:
    """The mappings of /proc/PID/maps, in order of their addresses.

    Raises:
        ParseError: a line has another form.

    """
    vmas = []
    for line in data.split(b"\n"):
        if not line:
            continue
        vma = _vma(line)
        if vma is None:
            raise ParseError(f"maps: not a mapping: {line[:80]!r}")
        vmas.append(vma)
    return vmas


def _usage(fields: dict[bytes, bytes], what: str) -> MemoryUsage:
    def required(key: bytes) -> int:
        if key not in fields:
            raise ParseError(f"{what}: no {key.decode()}")
        return kilobytes(fields[key], what)

    def optional(key: bytes) -> int | None:
        return kilobytes(fields[key], what) if key in fields else None

    return MemoryUsage(
        rss=required(b"Rss"),
        pss=required(b"Pss"),
        shared_clean=required(b"Shared_Clean"),
        shared_dirty=required(b"Shared_Dirty"),
        private_clean=required(b"Private_Clean"),
        private_dirty=required(b"Private_Dirty"),
        anonymous=required(b"Anonymous"),
        lazy_free=optional(b"LazyFree"),
        swap=required(b"Swap"),
        swap_pss=optional(b"SwapPss"),
    )


def parse_smaps_rollup(data: bytes) -> MemoryUsage:
    """The sums of /proc/PID/smaps_rollup.

    Raises:
        ParseError: it is cut short, or of another form.

    """
    head, _, rest = data.partition(b"\n")
    if _vma(head) is None:
        raise ParseError(f"smaps_rollup: not a range: {head[:80]!r}")
    return _usage(_fields(rest.split(b"\n"), "smaps_rollup"), "smaps_rollup")


def _fields(lines: list[bytes], what: str, known: dict[bytes, tuple[bytes, bytes]] | None = None) -> dict[bytes, bytes]:
    """`Key: value` lines; `known` remembers lines, which come again and again in smaps."""
    fields = {}
    for line in lines:
        pair = known.get(line) if known is not None else None
        if pair is None:
            if not line:
                continue
            match = _FIELD.fullmatch(line)
            if match is None:
                raise ParseError(f"{what}: not a field: {line[:80]!r}")
            pair = match[1], match[2]
            if known is not None:
                known[line] = pair
        fields[pair[0]] = pair[1]
    return fields


def parse_smaps(data: bytes) -> list[VmaUsage]:
    """The mappings of /proc/PID/smaps with what each holds.

    Raises:
        ParseError: it is cut short, or of another form.

    """
    blocks: list[tuple[Vma, list[bytes]]] = []
    for line in data.split(b"\n"):
        # Addresses are in small letters, and keys begin with a capital.
        if line[:1] in _CAPITALS:
            if not blocks:
                raise ParseError(f"smaps: not a mapping: {line[:80]!r}")
            blocks[-1][1].append(line)
        elif line:
            vma = _vma(line)
            if vma is None:
                raise ParseError(f"smaps: not a mapping: {line[:80]!r}")
            blocks.append((vma, []))
    known: dict[bytes, tuple[bytes, bytes]] = {}
    return [_vma_usage(vma, _fields(lines, "smaps", known)) for vma, lines in blocks]


_CAPITALS = frozenset(bytes([letter]) for letter in range(ord("A"), ord("Z") + 1))


def _vma_usage(vma: Vma, fields: dict[bytes, bytes]) -> VmaUsage:
    def optional(key: bytes) -> int | None:
        return kilobytes(fields[key], "smaps") if key in fields else None

    return VmaUsage(
        vma=vma,
        usage=_usage(fields, "smaps"),
        thp=optional(b"AnonHugePages"),
        locked=optional(b"Locked"),
        flags=tuple(text(flag) for flag in fields.get(b"VmFlags", b"").split()),
    )
