"""Findings: what leaks, as far as the evidence goes. These records are the JSON that other programs rely on."""

from __future__ import annotations

from typing import Literal

import msgspec

from leakline.model.heap import Census, Why
from leakline.model.stack import Frame, SourceLocation

FindingKind = Literal["definite", "indirect", "possible", "reachable", "growing", "outstanding"]
Confidence = Literal["low", "medium", "high"]
CONFIDENCES: tuple[Confidence, ...] = ("low", "medium", "high")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The process that a report is about."""

    pid: int
    command: str
    executable: str | None
    """None where /proc/PID/exe may not be read."""


class KindTotal(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes and blocks of one kind."""

    bytes: int = 0
    blocks: int = 0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """All blocks of the target by kind; None where nothing looked."""

    definite: KindTotal | None
    indirect: KindTotal | None
    possible: KindTotal | None
    reachable: KindTotal | None


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What the finding is about."""

    type: Literal["heap", "mapping", "fd", "thread", "kernel counter", "process"]
    name: str


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One reason to believe a finding: which method, in words, and its numbers."""

    method: str
    text: str
    values: dict[str, int | float | str]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that leaks, or may."""

    kind: FindingKind
    subject: Subject
    bytes: int
    blocks: int
    indirect_bytes: int
    indirect_blocks: int
    rate_bytes_per_second: float | None
    rate_interval: tuple[float, float] | None
    """90 %."""
    confidence: Confidence
    fingerprint: str
    """The same for the same leak in another run: made of functions, sizes and contents, not of addresses or lines."""
    location: SourceLocation | None
    location_is: Literal["recorded", "inferred"] | None
    """`inferred` where it comes from blocks of equal size and content, or from frames that were not exact."""
    stack: tuple[Frame, ...]
    evidence: tuple[Evidence, ...]


class RetainedFree(msgspec.Struct, frozen=True, kw_only=True):
    """Heap that is free but not given back: no leak."""

    bytes: int | None


class NotJudged(msgspec.Struct, frozen=True, kw_only=True):
    """Memory, or its growth, that this look could not see into."""

    name: str
    bytes: int | None
    share: float | None
    """Of what the process holds (USS + swap)."""
    why: str


class AgentCost(msgspec.Struct, frozen=True, kw_only=True):
    """What leakline's agent did in the target."""

    allocations: int
    """Recorded so far."""
    memo_hits: int
    """Of them, those whose stack was known already."""
    memo_misses: int
    """Those whose stack had to be unwound."""
    memory_bytes: int | None
    """Resident memory of its tables."""
    held_at_end_ns: int | None
    """How long the target waited at its end for the check; None where it has not ended."""


class Suppressed(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule left out."""

    rule: str
    """Its name (valgrind's), or its line: `leak:pattern`, `fingerprint:...`."""
    source: str
    """The file that it stands in, with the line; or the checker that applied it by itself."""
    findings: int | None
    """None where the checker itself left them out."""
    bytes: int
    """What hangs on the blocks not counted."""
    blocks: int


class GrownFinding(msgspec.Struct, frozen=True, kw_only=True):
    """A finding that the baseline has too, with less."""

    fingerprint: str
    location: SourceLocation | None
    before: KindTotal
    now: KindTotal


class KnownFindings(msgspec.Struct, frozen=True, kw_only=True):
    """What is left out because the baseline has it."""

    source: str
    """The baseline's file."""
    findings: int
    bytes: int
    blocks: int
    grown: tuple[GrownFinding, ...]
    """Those of them that are more than a tenth larger now; the largest first."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What the look cost."""

    target_stopped_ns: int
    """How long the target's threads stood still, all stops together."""
    duration_ns: int
    agent: AgentCost | None = None
    """Where the target runs under leakline's agent."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All findings about one target: `leakline.findings/1`."""

    schema: Literal["leakline.findings/1"] = "leakline.findings/1"
    target: Target | None
    bytes_are: Literal["requested", "usable"]
    summary: Summary
    findings: tuple[Finding, ...]
    retained_free: RetainedFree
    not_judged: tuple[NotJudged, ...]
    children: tuple[Report, ...] = ()
    cost: Cost
    why: Why | None = None
    """Who holds the block that --why asks for."""
    census: Census | None = None
    """All blocks by kind, type and size, where they were counted: `scan --json`."""
    suppressed: tuple[Suppressed, ...] = ()
    """What rules left out of the findings and, blocks of their own, out of the summary; the most bytes first."""
    known: KnownFindings | None = None
    """What `--baseline` left out of the findings; None where there was none."""


class Reports(msgspec.Struct, frozen=True, kw_only=True):
    """Findings about several targets."""

    schema: Literal["leakline.findings/1"] = "leakline.findings/1"
    targets: tuple[Report, ...]
