"""The library's way in: what the commands do, as functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.session.diagnosing import Diagnosis
from leakline.session.interruption import Interruption
from leakline.session.looking import look
from leakline.sources.procfs import ProcFs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.model.finding import Report


def _silent(_text: str) -> None:
    return


def diagnose(pids: Sequence[int], *, budget_seconds: float = 60.0) -> list[Report]:
    """Climb the ladder for running processes, and return one report for each.

    Args:
        pids: processes that run now; they go on running.
        budget_seconds: at most; a certain answer ends it earlier.

    Raises:
        LeaklineError: none of them could be looked at; the class says why, the hint what to do.

    """
    return Diagnosis(ProcFs(), Interruption(), _silent, budget_seconds).run(pids)


def scan(pid: int, *, looks: int = 2) -> Report:
    """Find the heap blocks of a running process that no pointer leads to.

    Args:
        pid: a process that runs now; it stands still for some milliseconds at each look.
        looks: what two of them agree on is of high confidence.

    Raises:
        LeaklineError: it could not be looked at; the class says why, the hint what to do.

    """
    return look(ProcFs(), pid, looks=looks, interruption=Interruption(), say=_silent)
