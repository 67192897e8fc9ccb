"""Looks into a process under leakline's agent, again and again while it runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from leakline.analysis.site_growth import SiteHistory, growing_site_finding, growing_sites
from leakline.session.agent_checks import report_of
from leakline.session.scanning import Scanner
from leakline.session.symbolising import resolver_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from leakline.model.finding import Finding, Report, Target
    from leakline.model.heap import HeapScan
    from leakline.session.imaging import Hold
    from leakline.session.searching import Details
    from leakline.sources.agent import Agent
    from leakline.sources.procfs import ProcFs


class RepeatedCheck:
    """What was seen of one process so far.

    Args:
        procfs: where it is.
        target: the process.
        agent: in it.
        details: what is wanted besides the lost blocks.
        hold: how to hold it still, where somebody else of us traces it; None for the usual stop.

    Raises:
        LeaklineError: it cannot be looked at.

    """

    def __init__(self, procfs: ProcFs, target: Target, agent: Agent, details: Details, hold: Hold | None) -> None:
        self._procfs = procfs
        self._target = target
        self._agent = agent
        self._began_ns = 0
        self._scanner = Scanner(procfs, target.pid, details=details, by_site=True, hold=hold)
        self._scans: list[HeapScan] = []
        self._history = SiteHistory()

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
        self._history.add(time.monotonic(), self._scanner.held_by_site)
        return report_of(self._procfs, self._target, self._scanner, self._scans, self.growing(), self._began_ns, say)

    def growing(self) -> list[Finding]:
        """The sites that held more and more, as far as that can be told; their frames while the process is there."""
        sites = growing_sites(self._history)
        if not sites:
            return []
        stacks = {site: self._agent.stack(site) for site in sites}
        frames = resolver_for(self._procfs, self._target.pid).frames({address for stack in stacks.values() for address in stack})
        return [
            growing_site_finding(series, trend, [frame for address in stacks[site] for frame in frames.get(address, ())])
            for site, (series, trend) in sites.items()
        ]
