"""What works on a host."""

from __future__ import annotations

from typing import Literal

import msgspec


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """One mechanism: whether it works here, if not why, and what would get it."""

    name: str
    works: bool
    detail: str
    """What was found, or why it does not work."""
    remedy: str | None
    """The command or setting that gets it; None where it works, or where nothing would help."""
    used_by: tuple[str, ...]
    """Commands that do without it, or not at all."""


class DoctorReport(msgspec.Struct, frozen=True, kw_only=True):
    """`leakline doctor --json`."""

    schema: Literal["leakline.doctor/1"] = "leakline.doctor/1"
    version: str
    kernel: str
    machine: str
    uid: int
    target: int | None
    capabilities: tuple[Capability, ...]
