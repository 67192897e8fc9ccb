"""Allocations that were seen as they happened."""

from __future__ import annotations

from typing import Literal

import msgspec


class StackTop(msgspec.Struct, frozen=True, kw_only=True):
    """Registers and stack as they are at a function's first instruction."""

    stack_pointer: int
    frame_pointer: int
    """rbp, whatever the program uses it for."""
    words: tuple[int, ...]
    """From the stack pointer up; the first is the return address."""
    registers: tuple[tuple[int, int], ...] = ()
    """Others that are known: DWARF number and value."""


class Allocation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One recorded allocation."""

    address: int
    size: int | None
    """As requested; None where only the result was seen."""
    time_ns: int
    """CLOCK_MONOTONIC."""
    tid: int
    """In the process's own PID namespace."""
    stack: tuple[int, ...]
    """Return addresses, the allocator's caller first."""
    exact: int = 1
    """How many of them are exact; those behind come from frame pointers, which may skip a caller."""
    top: StackTop | None = None
    """From which more of them can be told."""
    cut: Literal["no call frame information", "too deep"] | None = None
    """Why the stack ends before the program's outermost frame; None where it does not, or the engine cannot tell."""


class AllocationTrace(msgspec.Struct, frozen=True, kw_only=True):
    """What a recorder saw."""

    engine: Literal["bpf", "breakpoint", "agent"]
    began_ns: int
    ended_ns: int
    allocations: tuple[Allocation, ...]
    """Those that were not freed before the end, as far as the engine sees frees."""
    sees_frees: bool
    """Without, what was freed meanwhile is still among the allocations."""
    seen: int
    """Allocations that were met, freed ones too."""
    lost: int
    """Events that got no place: that many allocations or frees are missing."""
    sampled_bytes: int | None = None
    """One allocation in so many bytes, on average, is among them; None: each one."""
    stacks_lost: int = 0
    """Allocations of which only the caller is known, because there was no place for their stack."""

    @property
    def duration_seconds(self) -> float:
        """How long it recorded."""
        return (self.ended_ns - self.began_ns) / 1e9
