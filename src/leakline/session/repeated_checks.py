"""Looks into a process under leakline's agent, again and again while it runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.heap_growth import CensusAt, growing
from leakline.session.agent_checks import report_of
from leakline.session.scanning import Scanner
from leakline.session.symbolising import with_sites

if TYPE_CHECKING:
    from collections.abc import Callable

    from leakline.model.finding import Finding, Report, Target
    from leakline.model.heap import HeapScan
    from leakline.session.imaging import Hold
    from leakline.session.searching import Details
    from leakline.sources.procfs import ProcFs

_MOST_LOOKS = 256


class RepeatedCheck:
    """What was seen of one process so far.

    Args:
        procfs: where it is.
        target: the process.
        details: what is wanted besides the lost blocks.
        hold: how to hold it still, where somebody else of us traces it; None for the usual stop.

    Raises:
        LeaklineError: it cannot be looked at.

    """

    def __init__(self, procfs: ProcFs, target: Target, details: Details, hold: Hold | None) -> None:
        self._procfs = procfs
        self._target = target
        self._began_ns = 0
        self._shows_census = details.census
        self._scanner = Scanner(procfs, target.pid, details=msgspec.structs.replace(details, census=True), hold=hold)
        self._scans: list[HeapScan] = []
        self._censuses: list[CensusAt] = []

    def look(self, *, is_first: bool) -> None:
        """Look once: the second look of a pair says what both call lost.

        Raises:
            LeaklineError: it ended, or does not stop.

        """
        if is_first:
            self._began_ns = time.monotonic_ns()
        self._scans = [*self._scans[-1:], self._scanner.scan()]

    def report(self, say: Callable[[str], None]) -> Report:
        """What the last two looks agree on, and what has been growing since the first of all.

        Raises:
            LeaklineError: it ended.

        """
        last = self._scans[-1]
        if last.census is not None:
            census = with_sites(self._procfs, self._target.pid, last.census, self._scanner.stacks(last.census), say)
            if len(self._censuses) == _MOST_LOOKS:
                self._censuses = self._censuses[::2]  # the first stays
            self._censuses.append(CensusAt(last.time_ns / 1e9, census))
            last = msgspec.structs.replace(last, census=census if self._shows_census else None)
        scans = [*self._scans[:-1], last]
        return report_of(self._procfs, self._target, self._scanner, scans, self.growing(), self._began_ns, say)

    def growing(self) -> list[Finding]:
        """What has become more and more, as far as the looks tell."""
        return growing(self._censuses)
