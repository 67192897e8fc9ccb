"""What a diagnosis would do, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.present.text import duration, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leakline.model.plan import Plan, Step


def describe_plan(plan: Plan) -> Iterator[tuple[str, str]]:
    """A headline for each target, and two lines for each step."""
    for number, target in enumerate(plan.targets):
        if number:
            yield "", ""
        yield f"{printable(target.target.command)} (pid {target.target.pid}): what a diagnosis would do", "headline"
        column = max(len(step.name) for step in target.steps)
        for step in target.steps:
            yield f"  {step.name:<{column}}  {printable(step.does)}", "" if step.possible else "dim"
            yield f"  {'':<{column}}  when: {step.when}", "dim"
            if step.possible:
                yield f"  {'':<{column}}  costs the target: {_cost(step)}", "dim"
            else:
                yield f"  {'':<{column}}  not possible: {printable(step.why_not or '')}", "warning"
    pause = "as long as a copy takes" if plan.max_pause_seconds is None else duration(int(plan.max_pause_seconds * 1e9))
    yield "", ""
    yield f"  time at most {plan.budget_seconds:g} s; a pause at most: {pause}", ""


def _cost(step: Step) -> str:
    parts = []
    if step.pause_ns is None:
        parts.append("a pause that is not known beforehand")
    elif step.pause_ns:
        parts.append(f"a pause of about {duration(step.pause_ns)} at a time")
    if step.cpu_ns_per_allocation is not None:
        each = f"{step.cpu_ns_per_allocation / 1000:.1f} us"
        parts.append(f"{each} each pair of malloc and free, while it records (measured here, on a child)")
    if step.seconds is not None:
        parts.append(f"no pause, for {step.seconds:g} s")
    if step.name == "faults":
        parts.append("some microseconds each page that it touches first")
    if step.name == "breakpoints":
        parts.append("a trap for each allocation until the call sites are known, then for theirs")
    return "; ".join(parts) or "nothing that is worth naming"
