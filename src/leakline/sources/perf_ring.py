"""The memory into which the kernel writes perf events (perf_event_open(2), struct perf_event_mmap_page)."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

_HEAD = 1024  # offset of data_head; data_tail follows
_RECORD = struct.Struct("<IHH")  # struct perf_event_header: type, misc, size


class PerfRing:
    """One buffer.

    Args:
        fd: an event's.
        pages: a power of two.

    Raises:
        OSError: that much is not allowed.

    """

    def __init__(self, fd: int, pages: int) -> None:
        self._memory = mmap.mmap(fd, (1 + pages) * mmap.PAGESIZE)
        self.size = pages * mmap.PAGESIZE

    def take(self) -> bytes:
        """What is new, in whole records."""
        head, tail = struct.unpack_from("<QQ", self._memory, _HEAD)
        if head == tail:
            return b""
        first, last, start = tail % self.size, head % self.size, mmap.PAGESIZE
        if first < last:
            data = self._memory[start + first : start + last]
        else:
            data = self._memory[start + first : start + self.size] + self._memory[start : start + last]
        struct.pack_into("<Q", self._memory, _HEAD + 8, head)
        return data

    def records(self) -> Iterator[tuple[int, bytes]]:
        """The type and the body of each new record."""
        data, at = self.take(), 0
        while at + _RECORD.size <= len(data):
            kind, _, size = _RECORD.unpack_from(data, at)
            if size < _RECORD.size:
                return
            yield kind, data[at + _RECORD.size : at + size]
            at += size

    def close(self) -> None:
        """Give it back."""
        self._memory.close()
