"""Findings for tests."""

from __future__ import annotations

from typing import Any

from leakline.analysis.fingerprint import fingerprint
from leakline.model.finding import (
    Cost,
    Evidence,
    Finding,
    KindTotal,
    Report,
    RetainedFree,
    Subject,
    Summary,
    Target,
)
from leakline.model.stack import Frame


def frame(function: str, line: int = 6, file: str = "/src/a.c") -> Frame:
    return Frame(function=function, file=file, line=line, module="app", address=0x10)


def finding(**fields: Any) -> Finding:
    stack = fields.get("stack", (frame("lose"), frame("main")))
    defaults: dict[str, Any] = {
        "kind": "definite",
        "subject": Subject(type="heap", name="[heap]"),
        "bytes": 100,
        "blocks": 2,
        "indirect_bytes": 0,
        "indirect_blocks": 0,
        "rate_bytes_per_second": None,
        "rate_interval": None,
        "confidence": "high",
        "fingerprint": fingerprint("lost", stack, 50, None),
        "location": stack[0].location if stack else None,
        "location_is": "recorded" if stack else None,
        "stack": stack,
        "evidence": (Evidence(method="checker", text="it says so", values={}),),
    }
    return Finding(**(defaults | fields))


def report(
    findings: tuple[Finding, ...] = (),
    *,
    command: str = "app",
    pid: int = 7,
    definite: tuple[int, int] | None = (0, 0),
    indirect: tuple[int, int] | None = (0, 0),
    possible: tuple[int, int] | None = (0, 0),
    **fields: Any,
) -> Report:
    def total(amounts: tuple[int, int] | None) -> KindTotal | None:
        return None if amounts is None else KindTotal(bytes=amounts[0], blocks=amounts[1])

    defaults: dict[str, Any] = {
        "target": Target(pid=pid, command=command, executable=None),
        "bytes_are": "requested",
        "summary": Summary(definite=total(definite), indirect=total(indirect), possible=total(possible), reachable=None),
        "findings": findings,
        "retained_free": RetainedFree(bytes=None),
        "not_judged": (),
        "cost": Cost(target_stopped_ns=0, duration_ns=0),
    }
    return Report(**(defaults | fields))
