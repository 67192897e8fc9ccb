"""What a look into a live heap found."""

from __future__ import annotations

from typing import Literal

import msgspec

LeakKind = Literal["definite", "indirect", "possible"]


class LostBlock(msgspec.Struct, frozen=True, kw_only=True):
    """A block that no root leads to (definite, indirect), or only pointers to its inside do (possible)."""

    address: int
    size: int
    """Usable bytes: what malloc_usable_size(3) tells, up to 24 more than was asked for."""
    kind: LeakKind
    leader: int
    """Address of the definite block it hangs on; its own if it hangs on none."""
    content: str | None
    """The symbol that its first word points to (a C++ vtable, an ops table), if any."""


class BlockTotal(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks and their usable bytes."""

    blocks: int
    bytes: int


class HeapScan(msgspec.Struct, frozen=True, kw_only=True):
    """One look at all blocks of a process."""

    time_ns: int
    """CLOCK_MONOTONIC, when the target went on."""
    allocator: str
    """As recognised, such as `glibc 2.36`."""
    lost: tuple[LostBlock, ...]
    """Definite, indirect and possible blocks."""
    reachable: BlockTotal
    retained_free: int
    """Bytes that are free but kept by the allocator."""
    heap_ranges: tuple[tuple[int, int], ...]
    """The memory that belongs to the allocator: what grows elsewhere, this look cannot judge."""
    stopped_ns: int
    """How long the target's threads stood still."""
    duration_ns: int
    copied: int
    """Bytes of the target's memory that were looked at."""
    threads: int
    looks: int = 1
    """Copies that agree on what is lost: more than one where nothing stood still for them."""
    problems: tuple[str, ...] = ()
    """What was unreadable or corrupt: the blocks there are in neither group."""

    def total(self, kind: LeakKind) -> BlockTotal:
        """Sum over one kind."""
        sizes = [block.size for block in self.lost if block.kind == kind]
        return BlockTotal(blocks=len(sizes), bytes=sum(sizes))
