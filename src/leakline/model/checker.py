"""What other leak checkers say, in their own terms."""

from __future__ import annotations

import msgspec

from leakline.model.heap import BlockKind
from leakline.model.stack import Frame


class LeakRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks of one kind from one stack."""

    kind: BlockKind
    bytes: int
    """As requested; what hangs on them not counted."""
    blocks: int
    indirect_bytes: int | None
    """Of the blocks that hang on them; None where the checker does not say."""
    stack: tuple[Frame, ...]
    """The allocator's caller first."""


class LeakTotal(msgspec.Struct, frozen=True, kw_only=True):
    """All blocks of one kind."""

    kind: BlockKind
    bytes: int
    blocks: int


class SuppressedTotal(msgspec.Struct, frozen=True, kw_only=True):
    """What the checker left out itself, by a rule of its own."""

    rule: str
    bytes: int
    blocks: int


class CheckerLog(msgspec.Struct, frozen=True, kw_only=True):
    """One process's report."""

    checker: str
    """Its name and, if it tells, its version."""
    pid: int
    command: str | None
    records: tuple[LeakRecord, ...]
    other_errors: int
    """Errors that are no leaks, such as invalid reads."""
    knows: tuple[BlockKind, ...]
    """The kinds that this checker tells apart: the others are unknown, not none."""
    totals: tuple[LeakTotal, ...] = ()
    """What the log itself sums up; the records may be only a part of it. Empty where it does not."""
    suppressed: tuple[SuppressedTotal, ...] = ()
    modules: tuple[tuple[str, str], ...] = ()
    """The paths of modules, by the names that the frames have."""
    problems: tuple[str, ...] = ()
    """Why it may not be whole."""
