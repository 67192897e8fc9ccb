"""What a diagnosis would do, and what that would cost the target."""

from __future__ import annotations

from typing import Literal

import msgspec

from leakline.model.finding import Target


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One rung of the ladder."""

    name: str
    does: str
    when: str
    """What it takes for this step to be done."""
    seconds: float | None
    """About how long it takes; None where the steps before decide."""
    pause_ns: int | None
    """How long the target would stand still; 0: not at all; None where that is not known."""
    cpu_ns_per_allocation: float | None
    """What each pair of malloc and free would cost the target while the step lasts; None where it costs them nothing."""
    possible: bool
    why_not: str | None
    """Why it is not possible here, and what would help."""


class TargetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The steps for one target."""

    target: Target
    steps: tuple[Step, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`leakline diagnose --dry-run --json`."""

    schema: Literal["leakline.plan/1"] = "leakline.plan/1"
    budget_seconds: float
    max_pause_seconds: float | None
    targets: tuple[TargetPlan, ...]
