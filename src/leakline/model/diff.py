"""What differs between two sets of findings: `leakline.diff/1`."""

from __future__ import annotations

from typing import Literal

import msgspec

from leakline.model.finding import FindingKind, KindTotal
from leakline.model.stack import Frame, SourceLocation

ChangeKind = Literal["new", "grown", "shrunk", "gone", "same"]


class FindingChange(msgspec.Struct, frozen=True, kw_only=True):
    """One leak, before and after."""

    change: ChangeKind
    """`grown` and `shrunk` are by more than a tenth of the bytes before; else `same`."""
    fingerprint: str
    command: str | None
    """Of the program; None for the kernel."""
    kind: FindingKind
    location: SourceLocation | None
    stack: tuple[Frame, ...]
    """As it is after, or was before where it is gone."""
    before: KindTotal | None
    """Without what hangs on the blocks; None where it is new."""
    after: KindTotal | None
    """None where it is gone."""
    bytes: int
    """More than before; less, if negative."""
    blocks: int


class DiffReport(msgspec.Struct, frozen=True, kw_only=True):
    """All changes, those of most concern first: new, grown, shrunk, gone, same; within these the most bytes first."""

    schema: Literal["leakline.diff/1"] = "leakline.diff/1"
    before: str
    """The file."""
    after: str
    differs: bool
    """Whether anything is new, grown, shrunk or gone."""
    bytes: int
    """More than before, of all findings together."""
    blocks: int
    changes: tuple[FindingChange, ...]
    not_judged: tuple[str, ...]
    """What one of the two could not see: a difference may come from that."""
