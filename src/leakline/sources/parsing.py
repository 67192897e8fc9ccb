"""What the parsers of /proc share: names and amounts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from leakline.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 16  # /proc/sys refuses to be read in much larger ones (fs/proc/proc_sysctl.c)


def text(data: bytes) -> str:
    """Decode a name; undecodable bytes become surrogates, so that os.fsencode gives the same bytes back."""
    return data.decode("utf-8", "surrogateescape")


def read_whole(path: str) -> bytes:
    """A file of /proc or /sys, which may come in parts of any length; nothing is waited for.

    Raises:
        OSError: what the kernel answers.

    """
    return b"".join(pieces_of(path))


def pieces_of(path: str, size: int = _CHUNK) -> Iterator[bytes]:
    """The same, piece by piece: a file that is larger than the processor's cache is best parsed as it comes."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        while part := os.read(file, size):
            yield part
    finally:
        os.close(file)


def key_values(data: bytes, what: str) -> dict[bytes, bytes]:
    """`Key: value` lines.

    Raises:
        ParseError: a line has no colon.

    """
    pairs = {}
    for line in data.splitlines():
        key, colon, value = line.partition(b":")
        if not colon:
            raise ParseError(f"{what}: a line without a colon: {line[:80]!r}")
        pairs[key] = value.strip()
    return pairs


def kilobytes(value: bytes, what: str) -> int:
    """`123 kB` in bytes (the kernel's kB are KiB).

    Raises:
        ParseError: it is something else.

    """
    number, _, unit = value.partition(b" ")
    if not number.isdigit() or unit.strip() != b"kB":
        raise ParseError(f"{what}: {value[:40]!r} is not an amount in kB")
    return int(number) * 1024


def integer(value: bytes, what: str, base: int = 10) -> int:
    """A whole number.

    Raises:
        ParseError: it is something else.

    """
    try:
        return int(value, base)
    except ValueError as error:
        raise ParseError(f"{what}: {value[:40]!r} is not a number") from error
