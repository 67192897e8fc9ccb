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


class _Lines(dict[bytes, tuple[bytes, int]]):
    """`Key:   123 kB` lines as key and bytes; the same lines come again and again. Other fields count as -1."""

    def __missing__(self, line: bytes) -> tuple[bytes, int]:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise ParseError(f"smaps: not a field: {line[:80]!r}")
        key, value = match.groups()
        pair = self[line] = key, kilobytes(value, "smaps") if value.endswith(b" kB") else -1
        return pair


def _usage(amounts: dict[bytes, int]) -> MemoryUsage:
    try:
        return MemoryUsage(
            rss=amounts[b"Rss"],
            pss=amounts[b"Pss"],
            shared_clean=amounts[b"Shared_Clean"],
            shared_dirty=amounts[b"Shared_Dirty"],
            private_clean=amounts[b"Private_Clean"],
            private_dirty=amounts[b"Private_Dirty"],
            anonymous=amounts[b"Anonymous"],
            lazy_free=amounts.get(b"LazyFree"),
            swap=amounts[b"Swap"],
            swap_pss=amounts.get(b"SwapPss"),
        )
    except KeyError as error:
        raise ParseError(f"smaps: no {error.args[0].decode()}") from error


def parse_smaps_rollup(data: bytes) -> MemoryUsage:
    """The sums of /proc/PID/smaps_rollup.

    Raises:
        ParseError: it is cut short, or of another form.

    """
    head, _, rest = data.partition(b"\n")
    if _vma(head) is None:
        raise ParseError(f"smaps_rollup: not a range: {head[:80]!r}")
    return _usage(_amounts(rest.split(b"\n"), _Lines()))


def _amounts(lines: list[bytes], known: _Lines) -> dict[bytes, int]:
    amounts = dict(map(known.__getitem__, filter(None, lines)))
    return amounts if min(amounts.values(), default=0) >= 0 else {key: value for key, value in amounts.items() if value >= 0}


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
    known = _Lines()
    return [_vma_usage(vma, lines, known) for vma, lines in blocks]


_CAPITALS = frozenset(bytes([letter]) for letter in range(ord("A"), ord("Z") + 1))


def _vma_usage(vma: Vma, lines: list[bytes], known: _Lines) -> VmaUsage:
    flags = lines.pop() if lines and lines[-1].startswith(b"VmFlags:") else b""
    amounts = _amounts(lines, known)
    return VmaUsage(
        vma=vma,
        usage=_usage(amounts),
        thp=amounts.get(b"AnonHugePages"),
        locked=amounts.get(b"Locked"),
        flags=tuple(text(flags).split()[1:]),
    )
