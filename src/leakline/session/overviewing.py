"""The live machine for `top`: every process at each tick, with its growth and verdict."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from leakline.errors import LeaklineError
from leakline.model.overview import Overview, ProcessRow
from leakline.session.watching import Watch
from leakline.sources.procfs import ProcFs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leakline.analysis.trend import Settings
    from leakline.model.recording import ProcessIdentity
    from leakline.session.interruption import Interruption
    from leakline.session.sampling import Choice
    from leakline.sources.machine import Machine

_SHARE = 0.0125
"""Of the time, for the sums over mappings: the screen has to live of the rest of three hundredths of a core."""


class LiveOverview:
    """Looks at processes again and again, and judges them on the way.

    Args:
        machine: the live one.
        choice: which processes.
        interruption: ends it.
        settings: warm-up and horizon.
        limit: bytes that each may reach; None finds it.

    """

    def __init__(
        self, machine: Machine, choice: Choice, interruption: Interruption, settings: Settings, limit: int | None = None
    ) -> None:
        self.machine = machine
        self.interruption = interruption
        self._procfs = ProcFs(machine.proc)
        self._choice = choice
        self._watch = Watch(machine, interruption, settings, limit, share=_SHARE)

    def moments(self, interval: float) -> Iterator[Overview]:
        """Look every `interval` seconds, until it is interrupted or all that were named have ended.

        Raises:
            TargetGone: there is no such process.
            PermissionNeeded: one that was named may not be read.

        """
        began = None
        for look, _ in self._watch.looks(self._choice, interval, float("inf")):
            began = look.tick.boottime if began is None else began
            rows = [
                ProcessRow(sampled.identity, sampled.amounts, self._watch.series_of(sampled.identity)[0])
                for sampled in look.processes
                if sampled.amounts is not None
            ]
            memory = None
            with suppress(LeaklineError):
                memory = self._procfs.memory()
            yield Overview(
                time=look.tick.time,
                elapsed=look.tick.boottime - began,
                rows=rows,
                memory=memory,
                unreadable=self._watch.unreadable,
                note=look.refused,
            )

    def history(self, process: ProcessIdentity, points: int) -> Sequence[float]:
        """What a process held so far, in so many points or fewer, the oldest first."""
        return thinned(self._watch.series_of(process)[1], points)


def thinned(values: Sequence[float], points: int) -> list[float]:
    """So many of the values, equally far apart, the last one among them."""
    count = len(values)
    if count <= points or points < 2:
        return list(values[-points:] if points > 0 else ())
    step = (count - 1) / (points - 1)
    return [values[round(place * step)] for place in range(points)]
