"""Looks into a live heap, and how sure one is of what several of them say."""

from __future__ import annotations

import os
import time
import zlib
from typing import TYPE_CHECKING

import msgspec

from leakline.model.heap import HeapScan, LostBlock
from leakline.session.attributing import attribute
from leakline.session.imaging import STOP_DEADLINE_SECONDS, Imager
from leakline.session.searching import Details, search
from leakline.session.symbolising import resolver_for
from leakline.sources.agent import find_agent

if TYPE_CHECKING:
    from leakline.model.heap import Census
    from leakline.model.trace import AllocationTrace
    from leakline.session.imaging import Hold
    from leakline.sources.heap_image import HeapImage
    from leakline.sources.procfs import ProcFs
    from leakline.sources.ptrace import ThreadState

# malloc may be at work in a process that runs on: then look again.
_ATTEMPTS = 10
_BETWEEN_COPIES_SECONDS = 0.05
BETWEEN_SCANS_SECONDS = 0.3


class Scanner:
    """Looks into the heap of one process, as often as wanted.

    Args:
        procfs: where it is.
        pid: which.
        stop_deadline: seconds in which each thread must stop.
        max_pause: seconds that it may stand still at a time; None for as long as it takes.
        details: what is wanted besides the lost blocks.
        hold: how to hold it still, where somebody else of us traces it; None for the usual stop.

    Raises:
        NotSupported: it is no 64-bit, dynamically linked program on a glibc that leakline knows.

    """

    def __init__(
        self,
        procfs: ProcFs,
        pid: int,
        *,
        stop_deadline: float = STOP_DEADLINE_SECONDS,
        max_pause: float | None = None,
        details: Details | None = None,
        hold: Hold | None = None,
    ) -> None:
        self._procfs = procfs
        self._details = details or Details()
        self._imager = Imager(procfs, pid, stop_deadline=stop_deadline, max_pause=max_pause, hold=hold)
        self._agent = find_agent(procfs, pid, self._imager.vmas)
        self.trace: AllocationTrace | None = None
        """Who allocated what the last look calls lost, where leakline's agent recorded it."""
        self.image: HeapImage | None = None
        """The process as the last look found it."""

    def expected_pause_ns(self) -> tuple[int, int]:
        """How long a look would hold the process still, and the bytes that it copies."""
        return self._imager.expected_pause_ns()

    def scan(self) -> HeapScan:
        """Look once.

        Raises:
            TargetGone: it ended meanwhile.
            NotPossible: it did not stop in time, or would have stood still for too long.

        """
        began = time.monotonic_ns()
        self.image = None  # two copies at a time would be one too many
        self.image = self._imager.take(leave_out=self._agent.state().own if self._agent is not None else ())
        return self._search(self.image, began)

    def scan_running(self, looks: int) -> HeapScan:
        """Look several times while the process runs on: what all looks call lost, with the same content, is possible at most.

        Only the registers are read by stops, of one thread at a time, at the first look and at the last: a block that one of these
        looks finds held is not called lost, whatever the looks between them say.

        Raises:
            TargetGone: it ended meanwhile.
            NotPossible: a thread did not stop in time.

        """
        began = time.monotonic_ns()
        agreed: dict[int, tuple[LostBlock, int]] | None = None
        scans: list[HeapScan] = []
        threads: tuple[ThreadState, ...] = ()
        attempts = stopped_ns = 0
        while len(scans) < looks:
            if attempts:
                time.sleep(_BETWEEN_COPIES_SECONDS)
            attempts += 1
            if not threads or len(scans) == looks - 1:
                threads, stood = self._imager.glance()
                stopped_ns += stood
            self.image = None
            self.image = self._imager.take_running(threads, leave_out=self._agent.state().own if self._agent is not None else ())
            scan = self._search(self.image, began)
            if scan.problems and attempts < _ATTEMPTS:
                continue  # malloc was at work: its lists did not fit together
            scans.append(scan)
            found = _with_digests(scan, self.image)
            agreed = found if agreed is None else {a: f for a, f in agreed.items() if _same(f, found.get(a))}
        lost = tuple(msgspec.structs.replace(block, kind="possible", leader=block.address) for block, _ in (agreed or {}).values())
        return msgspec.structs.replace(scans[-1], lost=lost, stopped_ns=stopped_ns, looks=looks)

    def stacks(self, census: Census) -> dict[int, tuple[int, ...]]:
        """The return addresses of a census's sites, by their numbers."""
        numbers = {group.site for group in census.groups if group.site is not None}
        return {} if self._agent is None or not numbers else self._agent.stacks(numbers)

    def _search(self, image: HeapImage, began_ns: int) -> HeapScan:
        records = self._agent.records(image.copy.runs) if self._agent is not None and self._details.census else None
        scan = search(image, resolver_for(self._procfs, image.pid, image.vmas), began_ns, self._details, records)
        if self._agent is None:
            return scan
        started = self._procfs.stat(image.pid).start_ticks / os.sysconf("SC_CLK_TCK")
        started_ns = began_ns - int((time.clock_gettime(time.CLOCK_BOOTTIME) - started) * 1e9)
        scan, self.trace = attribute(self._agent, scan, started_ns, began_ns)
        return scan


def _with_digests(scan: HeapScan, image: HeapImage) -> dict[int, tuple[LostBlock, int]]:
    """Each lost block with a checksum of what it holds."""
    return {block.address: (block, zlib.crc32(image.copy.view(block.address, block.size))) for block in scan.lost}


def _same(before: tuple[LostBlock, int], now: tuple[LostBlock, int] | None) -> bool:
    """Whether it is the same block: at one address many follow each other."""
    return now is not None and (before[0].size, before[1]) == (now[0].size, now[1])
