"""/proc/PID/smaps_rollup, read again and again: where a value stood in the last file it is looked for in the next."""

from __future__ import annotations

import os
from operator import itemgetter
from typing import TYPE_CHECKING

from leakline.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Callable

_READ = 1 << 16
# Keys of smaps_rollup that are used; those behind the first eight are younger than the file itself (Linux 4.14).
KEYS = (
    *(b"Rss:", b"Pss:", b"Private_Clean:", b"Private_Dirty:", b"Swap:", b"SwapPss:", b"Locked:", b"AnonHugePages:"),
    *(b"Pss_Anon:", b"Pss_File:", b"Pss_Shmem:", b"LazyFree:", b"Shared_Hugetlb:", b"Private_Hugetlb:", b"KSM:"),
)


class Rollup:
    """Finds the values of smaps_rollup: where they stood in the last file, if the keys stand there again."""

    def __init__(self) -> None:
        self._keys: tuple[bytes, ...] = ()
        self._at_keys: Callable[[list[bytes]], tuple[bytes, ...]] | None = None
        self._at_values: Callable[[list[bytes]], tuple[bytes, ...]] | None = None
        self._present: tuple[int, ...] = ()

    def values(self, data: bytes) -> list[int | None]:
        """Bytes for each of KEYS; None for those that the file does not have."""
        words = data.split()
        if self._at_keys is None or self._at_values is None or not self._fits(words):
            self._learn(words)
        found: list[int | None] = [None] * len(KEYS)
        if self._at_values is None:
            return found
        try:
            for place, value in zip(self._present, self._at_values(words), strict=True):
                found[place] = int(value) << 10
        except (ValueError, IndexError) as error:
            raise ParseError("smaps_rollup: a value is no number") from error
        return found

    def _fits(self, words: list[bytes]) -> bool:
        try:
            return self._at_keys is not None and self._at_keys(words) == self._keys
        except IndexError:
            return False

    def _learn(self, words: list[bytes]) -> None:
        places = [(number, words.index(key)) for number, key in enumerate(KEYS) if key in words]
        if len(places) < 2:
            raise ParseError("smaps_rollup: it has no Rss")
        self._present = tuple(number for number, _ in places)
        self._keys = tuple(KEYS[number] for number, _ in places)
        self._at_keys = itemgetter(*(place for _, place in places))
        self._at_values = itemgetter(*(place + 1 for _, place in places))


def slurp(name: str, folder: int) -> bytes:
    """A file in an open folder of /proc.

    Raises:
        OSError: what the kernel answers; ESRCH or ENOENT where the process has ended.

    """
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        data = os.read(fd, _READ)
        # What seq_file writes may come in parts of any length; a command line comes whole, or fills the buffer.
        if not name.endswith(_LONG) and len(data) < _READ:
            return data
        parts = [data]
        while parts[-1]:
            parts.append(os.read(fd, _READ))
        return b"".join(parts)
    finally:
        os.close(fd)


_LONG = ("maps", "smaps")
