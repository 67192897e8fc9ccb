"""Faults joined into what people ask for: by line, by mapping, by cause, by thread."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal

import msgspec

from leakline.analysis.locating import answering_frame

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leakline.model.faults import FaultGroup
    from leakline.model.stack import Frame, SourceLocation

By = Literal["line", "vma", "cause", "thread"]


def located(stack: tuple[Frame, ...], exact: int) -> tuple[SourceLocation | None, Literal["recorded", "inferred"] | None]:
    """The place of a stack that answers, and how sure it is.

    Args:
        stack: innermost first.
        exact: how many of its frames are.

    """
    answer = answering_frame(stack)
    if answer is None:
        return None, None
    return stack[answer].location, "inferred" if answer >= exact else "recorded"


def joined(groups: Iterable[FaultGroup], by: By) -> tuple[FaultGroup, ...]:
    """The groups that agree in what is asked for as one, with the most faults first."""
    found: dict[tuple[object, ...], list[FaultGroup]] = defaultdict(list)
    for group in groups:
        found[_key(group, by)].append(group)
    rows = [_one(members, by) for members in found.values()]
    return tuple(sorted(rows, key=lambda group: (group.kind not in ("segv", "sigbus"), -group.count)))


def _key(group: FaultGroup, by: By) -> tuple[object, ...]:
    common = group.kind, group.cause, group.access, group.by, group.crash is not None and id(group)
    place = None if group.vma is None else (group.vma.kind, group.vma.path, group.vma.perms)
    if by == "line":
        return *common, place, tuple((f.function, f.file, f.line, f.module if f.line is None else None) for f in group.stack)
    if by == "vma":
        return *common, place
    if by == "thread":
        return *common, group.tid
    return common


def _one(members: list[FaultGroup], by: By) -> FaultGroup:
    largest = max(members, key=lambda group: group.count)
    if len(members) == 1 and by == "line":
        return largest
    places = {None if g.vma is None else (g.vma.kind, g.vma.path, g.vma.perms) for g in members}
    keeps_stack = by == "line" or largest.crash is not None
    huge = [g.huge for g in members if g.huge is not None]
    return msgspec.structs.replace(
        largest,
        count=sum(g.count for g in members),
        bytes=sum(g.bytes for g in members),
        huge=sum(huge) if huge else None,
        threads=max(g.threads for g in members),
        vma=largest.vma if len(places) == 1 else None,
        location=largest.location if keeps_stack else None,
        location_is=largest.location_is if keeps_stack else None,
        stack=largest.stack if keeps_stack else (),
    )
