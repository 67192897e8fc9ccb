"""Lost blocks with the stacks that allocated them, where the program was started with leakline's agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.diagnosis import fits
from leakline.model.trace import Allocation, AllocationTrace

if TYPE_CHECKING:
    from leakline.model.heap import HeapScan
    from leakline.sources.agent import Agent


def attribute(agent: Agent, scan: HeapScan, began_ns: int, ended_ns: int) -> tuple[HeapScan, AllocationTrace]:
    """The scan with sizes as they were requested, and who allocated what it calls lost.

    Args:
        agent: in the process.
        scan: of it.
        began_ns: CLOCK_MONOTONIC when the process was started.
        ended_ns: when the scan began.

    """
    known = agent.recorded(block.address for block in scan.lost)
    allocations, lost = [], []
    for block in scan.lost:
        found = known.get(block.address)
        if found is None or (found.size is not None and not fits(found.size, block.size, block.address)):
            lost.append(block)  # a record of an earlier block: this one was allocated unseen
            continue
        lost.append(block if found.size is None else msgspec.structs.replace(block, size=found.size))
        allocations.append(
            Allocation(
                address=block.address,
                size=found.size,
                time_ns=began_ns,
                tid=0,
                stack=found.stack,
                exact=len(found.stack),
                cut=found.cut,
            )
        )
    trace = AllocationTrace(
        engine="agent",
        began_ns=began_ns,
        ended_ns=ended_ns,
        allocations=tuple(allocations),
        sees_frees=False,
        seen=agent.counts().allocations,
        lost=0,
    )
    return msgspec.structs.replace(scan, lost=tuple(lost), requested=True), trace


def outstanding(agent: Agent, began_ns: int, ended_ns: int) -> AllocationTrace:
    """All blocks that were not freed, where the agent keeps a table of them.

    Args:
        agent: in the process.
        began_ns: CLOCK_MONOTONIC when the process was started.
        ended_ns: now.

    """
    allocations = tuple(
        Allocation(address=address, size=found.size, time_ns=began_ns, tid=0, stack=found.stack, exact=len(found.stack))
        for address, found in sorted(agent.outstanding().items())
    )
    return AllocationTrace(
        engine="agent",
        began_ns=began_ns,
        ended_ns=ended_ns,
        allocations=allocations,
        sees_frees=True,
        seen=agent.state().allocations,
        lost=0,
    )
