"""Amounts of memory, in bytes. What a kernel does not report is None."""

from __future__ import annotations

import msgspec


class MemoryUsage(msgspec.Struct, frozen=True, gc=False):
    """What a process, or one of its mappings, holds: the sums of /proc/PID/smaps_rollup (Linux 4.14) or smaps."""

    rss: int
    pss: int
    shared_clean: int
    shared_dirty: int
    private_clean: int
    private_dirty: int
    anonymous: int
    lazy_free: int | None
    """Marked MADV_FREE: still resident, but the kernel may take it at any time (Linux 4.12)."""
    swap: int
    swap_pss: int | None
    """Linux 4.3."""

    @property
    def uss(self) -> int:
        """What would come back if the process ended."""
        return self.private_clean + self.private_dirty


class SystemMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of /proc/meminfo that leakline uses."""

    total: int
    free: int
    available: int | None
    """MemAvailable, Linux 3.14."""
    swap_total: int
    swap_free: int
