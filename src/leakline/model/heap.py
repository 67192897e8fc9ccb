"""What a look into a live heap found."""

from __future__ import annotations

from typing import Literal

import msgspec

from leakline.model.stack import Frame

LeakKind = Literal["definite", "indirect", "possible"]
BlockKind = Literal["definite", "indirect", "possible", "reachable"]
HeldKind = Literal["definite", "indirect", "possible", "reachable", "free", "no block"]


class LostBlock(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A block that no root leads to (definite, indirect), or only pointers to its inside do (possible)."""

    address: int
    size: int
    """Usable bytes: what malloc_usable_size(3) tells, up to 24 more than was asked for."""
    kind: LeakKind
    leader: int
    """Address of the definite block it hangs on; its own if it hangs on none."""
    content: str | None
    """The symbol that its first word points to (a C++ vtable, an ops table), if any."""
    text: str | None = None
    """Printable characters in it, where they were asked for; of one block of each kind, size and content alone."""


class BlockTotal(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks and their usable bytes."""

    blocks: int
    bytes: int


class BlockGroup(msgspec.Struct, frozen=True, gc=False):
    """Blocks of one kind, type, size and site."""

    kind: BlockKind
    type: str | None
    """The symbol that their first word points to; None where it points to none."""
    size: int | None
    """Usable bytes of each; None for blocks of more types and sizes than are told apart."""
    blocks: int
    bytes: int
    site: int | None = None
    """Number of the site that allocated them; None where no recorder ran, or it does not know."""


class AllocationSite(msgspec.Struct, frozen=True, gc=False):
    """A stack that allocated blocks, as leakline's agent recorded it."""

    number: int
    """The same in all scans of one process."""
    stack: tuple[int, ...]
    """Indexes among the census's frames, innermost first."""


class Census(msgspec.Struct, frozen=True, kw_only=True):
    """All blocks at one moment."""

    taken: str
    """When, in UTC (RFC 3339)."""
    groups: tuple[BlockGroup, ...]
    """The largest first."""
    sites: tuple[AllocationSite, ...] = ()
    """Those of the groups."""
    frames: tuple[Frame, ...] = ()
    """Those of the sites, each once."""

    def stacks(self) -> dict[int, tuple[Frame, ...]]:
        """The frames of each site, by its number."""
        known = range(len(self.frames))
        return {site.number: tuple(self.frames[i] for i in site.stack if i in known) for site in self.sites}


class PathStep(msgspec.Struct, frozen=True, kw_only=True):
    """A block, and the word that points into it."""

    address: int
    size: int
    type: str | None
    held_at: int | None
    """Address of the word; None for a register."""
    interior: bool
    """It points past the block's start."""


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a block."""

    asked: int
    address: int | None
    """Of the block that holds the address which was asked for; None if no block does."""
    kind: HeldKind
    root: str | None
    """What holds the first block of the path: a register, a stack, a variable; None where no root leads to the block."""
    path: tuple[PathStep, ...]
    """From the root to the block, which is the last."""
    referrers: tuple[PathStep, ...]
    """Of a block that no root leads to: some of the blocks that point to it, with the word that does."""


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
    requested: bool = False
    """The sizes of lost blocks are those that the program asked for, as leakline's agent recorded them."""
    at_end: bool = False
    """The program had done all that it does, its exit handlers too: what is lost then stays lost."""
    ended_by: int | None = None
    """The signal that was ending the program; it stood still for the last time."""
    looks: int = 1
    """Copies that agree on what is lost: more than one where nothing stood still for them."""
    census: Census | None = None
    why: Why | None = None
    problems: tuple[str, ...] = ()
    """What was unreadable or corrupt: the blocks there are in neither group."""

    def total(self, kind: LeakKind) -> BlockTotal:
        """Sum over one kind."""
        sizes = [block.size for block in self.lost if block.kind == kind]
        return BlockTotal(blocks=len(sizes), bytes=sum(sizes))
