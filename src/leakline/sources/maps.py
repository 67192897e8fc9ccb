"""/proc/PID/maps and smaps (fs/proc/task_mmu.c)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

import msgspec

from leakline.errors import NotPossible, ParseError
from leakline.model.memory import MemoryUsage
from leakline.model.vma import Vma, VmaUsage
from leakline.sources.parsing import kilobytes, pieces_of, text

_PERMS = (b"r-", b"w-", b"x-", b"ps")
_HEXADECIMAL = b"0123456789abcdef"

_Tail = tuple[str, int, tuple[int, int], int, str | None]


def path_of(name: bytes) -> str:
    """The path or name of a mapping."""
    # The kernel escapes a newline, and nothing else (a genuine `\012` cannot be told apart).
    return text(name.replace(rb"\012", b"\n"))


class _Tails(dict[bytes, _Tail]):
    """Permissions, offset, device, inode and path: what follows the addresses. Many mappings have the same."""

    def __missing__(self, tail: bytes) -> _Tail:
        # Not by a regular expression: to compile it takes as long as to read a hundred mappings.
        words = tail.split(b" ", 4)
        if len(words) < 4 or len(words[0]) != 4 or not words[3].isdigit():
            raise ParseError(f"maps: not a mapping: {tail[:80]!r}")
        perms, offset, device, inode = words[:4]
        major, _, minor = device.partition(b":")
        if any(letter not in known for letter, known in zip(perms, _PERMS, strict=True)) or not all(
            number and not number.strip(_HEXADECIMAL) for number in (offset, major, minor)
        ):
            raise ParseError(f"maps: not a mapping: {tail[:80]!r}")
        path = words[4].lstrip(b" ") if len(words) > 4 else b""
        name = path_of(path) if path else None
        found = self[tail] = perms.decode(), int(offset, 16), (int(major, 16), int(minor, 16)), int(inode), name
        return found


def _bounds(addresses: bytes, line: bytes) -> tuple[int, int]:
    first, _, last = addresses.partition(b"-")
    if not (first.isalnum() and last.isalnum()):
        raise ParseError(f"maps: not a mapping: {line[:80]!r}")
    try:
        start, end = int(first, 16), int(last, 16)
    except ValueError as error:
        raise ParseError(f"maps: not a mapping: {line[:80]!r}") from error
    if end <= start:
        raise ParseError(f"maps: a mapping that ends before it begins: {line[:80]!r}")
    return start, end


def _vma(line: bytes, tails: _Tails) -> Vma:
    addresses, _, tail = line.partition(b" ")
    start, end = _bounds(addresses, line)
    perms, offset, device, inode, path = tails[tail]
    return Vma(start, end, perms, offset, device, inode, path)


def parse_maps(data: bytes) -> list[Vma]:
    """The mappings of /proc/PID/maps, in order of their addresses.

    Raises:
        ParseError: a line has another form.

    """
    tails = _Tails()
    return [_vma(line, tails) for line in data.split(b"\n") if line]


class _Lines(dict[bytes, tuple[bytes, int]]):
    """`Key:   123 kB` lines as key and bytes; the same lines come again and again. Other fields count as -1."""

    def __missing__(self, line: bytes) -> tuple[bytes, int]:
        key, colon, value = line.partition(b":")
        if not (colon and len(key) > 1 and key[:1].isupper() and key.replace(b"_", b"").isalpha() and value[:1].isspace()):
            raise ParseError(f"smaps: not a field: {line[:80]!r}")
        value = value.lstrip()
        pair = self[line] = key, kilobytes(value, "smaps") if value.endswith(b" kB") else -1
        return pair


class SmapsAmounts(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What the lines below a mapping's first one say, in bytes; None where this kernel does not. Equal lines share one object."""

    usage: MemoryUsage
    thp: int | None
    locked: int | None
    hugetlb: int | None
    private_hugetlb: int | None
    ksm: int | None


class _Bodies(dict[bytes, SmapsAmounts]):
    """Amounts by the lines below a mapping's first one: many mappings hold the same."""

    def __init__(self) -> None:
        super().__init__()
        self._lines = _Lines()

    def __missing__(self, body: bytes) -> SmapsAmounts:
        amounts = _amounts(body.split(b"\n"), self._lines)
        shared, private = amounts.get(b"Shared_Hugetlb"), amounts.get(b"Private_Hugetlb")
        hugetlb = None if shared is None or private is None else shared + private
        thp, locked, ksm = amounts.get(b"AnonHugePages"), amounts.get(b"Locked"), amounts.get(b"KSM")
        found = self[body] = SmapsAmounts(_usage(amounts), thp, locked, hugetlb, private, ksm)
        return found


class _Flags(dict[bytes, tuple[str, ...]]):
    """The words of a VmFlags line."""

    def __missing__(self, line: bytes) -> tuple[str, ...]:
        words = self[line] = tuple(text(line).split())
        return words


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
    _vma(head, _Tails())
    return _usage(_amounts(rest.split(b"\n"), _Lines()))


def _amounts(lines: list[bytes], known: _Lines) -> dict[bytes, int]:
    amounts = dict(map(known.__getitem__, filter(None, lines)))
    return amounts if min(amounts.values(), default=0) >= 0 else {key: value for key, value in amounts.items() if value >= 0}


class _Rests(dict[bytes, tuple[_Tail, SmapsAmounts]]):
    """What follows a mapping's addresses, down to its VmFlags: neighbours are often alike."""

    def __init__(self) -> None:
        super().__init__()
        self.tails = _Tails()
        self.bodies = _Bodies()

    def __missing__(self, rest: bytes) -> tuple[_Tail, SmapsAmounts]:
        tail, _, body = rest.partition(b"\n")
        found = self[rest] = self.tails[tail], self.bodies[body]
        return found


class SmapsReader:
    """Reads smaps files; what one taught serves the next."""

    def __init__(self) -> None:
        self._rests = _Rests()
        self._flags = _Flags()

    def mappings(self, pieces: Iterable[bytes]) -> Iterator[tuple[Vma, SmapsAmounts, tuple[str, ...]]]:
        """Each mapping, its amounts and its VmFlags.

        Args:
            pieces: the file, cut anywhere: what a large process has is never held whole.

        Raises:
            ParseError: it is cut short, or of another form.

        """
        block, known, flags = b"", self._rests, self._flags
        has_flags = False
        for piece in pieces:
            first, *parts = (block + piece if block else piece).split(b"\nVmFlags:")
            block = first
            for part in parts:
                words, newline, following = part.partition(b"\n")
                if not newline:
                    block += b"\nVmFlags:" + part
                    break
                addresses, _, rest = block.partition(b" ")
                start, end = _bounds(addresses, block)
                (perms, offset, device, inode, path), amounts = known[rest]
                yield Vma(start, end, perms, offset, device, inode, path), amounts, flags[words]
                block, has_flags = following, True
        if not has_flags:
            yield from self._without_flags(block)
        elif block:
            raise ParseError(f"smaps: it ends in the middle: {block[-80:]!r}")

    def _without_flags(self, data: bytes) -> Iterator[tuple[Vma, SmapsAmounts, tuple[str, ...]]]:
        """Before Linux 3.8. Addresses are in small letters, and keys begin with a capital."""
        head, lines = b"", list[bytes]()
        for line in [*data.rstrip(b"\n").split(b"\n"), b""]:
            if line[:1].isupper():
                lines.append(line)
                continue
            if head or lines:
                yield _vma(head, self._rests.tails), self._rests.bodies[b"\n".join(lines)], ()
            head, lines = line, []

    def cut(self, mappings: Iterable[tuple[int, ...]], texts: Iterable[tuple[bytes, bytes]]) -> list[VmaUsage]:
        """Mappings that are cut already, each with the index of its text.

        Raises:
            ParseError: a text has another form.

        """
        tails, bodies = [], []
        for rest, words in texts:
            tail, a = self._rests[rest]
            tails.append(tail)
            bodies.append((a.usage, a.thp, a.locked, a.hugetlb, a.private_hugetlb, a.ksm, self._flags[words]))
        return [VmaUsage(Vma(start, end, *tails[index]), *bodies[index]) for start, end, index in mappings]


def read_smaps(path: str) -> list[VmaUsage]:
    """The mappings of a smaps file, with what each holds.

    Raises:
        OSError: what the kernel answers.
        ParseError: it is cut short, or of another form.

    """
    from leakline.native.blocks import read_blocks

    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with suppress(NotPossible):
            blocks = read_blocks(file)
            if blocks is not None:
                return SmapsReader().cut(*blocks)
    finally:
        os.close(file)
    # The kernel gives a page of smaps at a time (fs/seq_file.c).
    return parse_smaps(pieces_of(path, 1 << 14))


def parse_smaps(pieces: Iterable[bytes]) -> list[VmaUsage]:
    """The mappings of /proc/PID/smaps, cut into pieces anywhere, with what each holds.

    Raises:
        ParseError: it is cut short, or of another form.

    """
    # By position: by name a record of many fields takes ten times as long to make, and there are thousands.
    return [
        VmaUsage(vma, a.usage, a.thp, a.locked, a.hugetlb, a.private_hugetlb, a.ksm, flags)
        for vma, a, flags in SmapsReader().mappings(pieces)
    ]
