"""Checks of a process that runs under leakline's agent: while it runs, and when it ends."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.diagnosis import find_lost, rank
from leakline.analysis.outstanding import find_outstanding
from leakline.errors import LeaklineError, NotSupported
from leakline.model.finding import AgentCost, NotJudged, Report, Target
from leakline.session.attributing import attribute, outstanding
from leakline.session.imaging import Imager
from leakline.session.reporting import build_report
from leakline.session.scanning import BETWEEN_SCANS_SECONDS, Scanner
from leakline.session.searching import Details, search
from leakline.session.symbolising import resolver_for, with_sites, with_stacks
from leakline.session.targets import describe, require_stoppable
from leakline.sources.agent import find_agent
from leakline.sources.ptrace import ThreadState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leakline.model.finding import Finding
    from leakline.model.heap import HeapScan
    from leakline.model.stack import Frame
    from leakline.model.vma import VmaUsage
    from leakline.session.imaging import Hold, Standing
    from leakline.session.interruption import Interruption
    from leakline.sources.agent import Agent, AgentState
    from leakline.sources.heap_image import HeapImage
    from leakline.sources.procfs import ProcFs

    Say = Callable[[str], None]

# Words of struct user_regs_struct (arch/x86/include/asm/user_64.h) that a function hands back as they were.
_KEPT_REGISTERS = {"rbx": 5, "rbp": 4, "r12": 3, "r13": 2, "r14": 1, "r15": 0}
_RSP, _FS_BASE, _REGISTERS = 19, 21, 27


def require_agent(procfs: ProcFs, pid: int) -> Agent:
    """The agent in a process.

    Raises:
        NotSupported: there is none, or it records nothing there.
        TargetGone: the process has ended.
        PermissionNeeded: it belongs to somebody else.

    """
    require_stoppable(procfs, pid)
    agent = find_agent(procfs, pid, procfs.maps(pid))
    name = describe(procfs, pid).command
    if agent is None:
        raise NotSupported(f"not supported: process {pid} ({name}) does not run under leakline's agent", hint=_hint(procfs, pid))
    state = agent.state()
    if state.phase == "off":
        raise NotSupported(
            f"not supported: the agent in process {pid} ({name}) records nothing: {state.why_off}",
            hint=f"`leakline scan {pid}` looks at the heap without it.",
        )
    return agent


def _hint(procfs: ProcFs, pid: int) -> str:
    for child in procfs.pids():
        with suppress(LeaklineError):
            if procfs.stat(child).ppid == pid and find_agent(procfs, child, procfs.maps(child)) is not None:
                return f"Its child {child} ({describe(procfs, child).command}) does: `leakline check {child}`."
    return f"`leakline scan {pid}` finds its lost blocks without; or start it by `leakline run -- COMMAND`."


def check_now(procfs: ProcFs, pid: int, details: Details, *, interruption: Interruption, say: Say) -> Report:
    """Look twice into a process that runs on, and into its descendants that run under the agent too: these become `children`.

    Raises:
        NotSupported: it does not run under the agent.
        TargetGone: it ended.
        PermissionNeeded: it belongs to somebody else.
        NotPossible: it does not stop.

    """
    agent = require_agent(procfs, pid)
    if agent.state().other_allocator:
        began = time.monotonic_ns()
        return _outstanding(procfs, describe(procfs, pid), agent, agent.state(), started_ns=began, began_ns=began, say=say)
    report = _look_twice(procfs, pid, details, interruption, say)
    children = []
    for child in _followed(procfs, pid):
        try:
            children.append(_look_twice(procfs, child, details, interruption, say))
        except LeaklineError as error:
            say(f"skipped: {error.message}")
    return msgspec.structs.replace(report, children=tuple(children))


def _followed(procfs: ProcFs, pid: int) -> list[int]:
    """Descendants with an agent that records."""
    parents = {}
    for other in procfs.pids():
        with suppress(LeaklineError):
            parents[other] = procfs.stat(other).ppid
    family, found = {pid}, []
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    for child in sorted(family - {pid}):
        with suppress(LeaklineError):
            agent = find_agent(procfs, child, procfs.maps(child))
            if agent is not None and agent.state().phase == "recording" and not agent.state().other_allocator:
                found.append(child)
    return found


def _look_twice(procfs: ProcFs, pid: int, details: Details, interruption: Interruption, say: Say) -> Report:
    began = time.monotonic_ns()
    target, scanner, scans = describe(procfs, pid), Scanner(procfs, pid, details=details), []
    for number in range(2):
        if number:
            interruption.wait(BETWEEN_SCANS_SECONDS)
        scans.append(scanner.scan())
        say(f"process {pid} ({target.command}): it stood still for {scans[-1].stopped_ns / 1e6:.1f} ms")
    return report_of(procfs, target, scanner, scans, [], began, say)


def report_of(
    procfs: ProcFs, target: Target, scanner: Scanner, scans: Sequence[HeapScan], more: Sequence[Finding], began_ns: int, say: Say
) -> Report:
    """A report on looks into a process that runs on.

    Args:
        procfs: where it is.
        target: the process.
        scanner: what looked.
        scans: its last looks.
        more: findings besides those that the looks make.
        began_ns: CLOCK_MONOTONIC when all this began.
        say: hears of symbols that cannot be read.

    """
    trace = scanner.trace
    frames: dict[int, tuple[Frame, ...]] = {}
    if trace is not None:
        placed, frames = with_stacks(procfs, target.pid, trace.allocations, say)
        trace = msgspec.structs.replace(trace, allocations=placed)
    census = scans[-1].census
    if census is not None and not census.sites:
        census = with_sites(procfs, target.pid, census, scanner.stacks(census), say)
        scans = [*scans[:-1], msgspec.structs.replace(scans[-1], census=census)]
    findings = rank([*find_lost(scans, trace, frames), *more])
    agent, mappings = find_agent(procfs, target.pid, procfs.maps(target.pid)), procfs.smaps(target.pid)
    report = build_report(None, target, scans, findings, began_ns=began_ns, after=mappings)
    return report if agent is None else _with_cost(report, agent, mappings, None)


def check_at_end(
    procfs: ProcFs, target: Target, agent: Agent, details: Details, *, started_ns: int, hold: Hold | None, say: Say
) -> Report:
    """Look into a process that waits at its end.

    Args:
        procfs: where it is.
        target: the process.
        agent: in it.
        details: what is wanted.
        started_ns: CLOCK_MONOTONIC when the process was started.
        hold: how to hold it still, where somebody else of us traces it; None for the usual stop.
        say: hears of symbols that cannot be read.

    Raises:
        LeaklineError: it cannot be looked at.

    """
    began = time.monotonic_ns()
    state = agent.state()
    if state.other_allocator:
        report = _outstanding(procfs, target, agent, state, started_ns=started_ns, began_ns=began, say=say)
        return _with_cost(report, agent, procfs.smaps(target.pid), time.monotonic_ns() - began)
    image = _as_it_began_to_wait(Imager(procfs, target.pid, hold=hold).take(leave_out=state.own), state)
    report = _check(procfs, target, agent, image, details, ended_by=None, started_ns=started_ns, began_ns=began, say=say)
    return _with_cost(report, agent, procfs.smaps(target.pid), time.monotonic_ns() - began)


def check_dying(
    procfs: ProcFs, target: Target, agent: Agent, standing: Standing, details: Details, *, signal: int, started_ns: int, say: Say
) -> Report:
    """Look into a process that a signal ends, while all of its threads stand still for the last time.

    Args:
        procfs: where it is.
        target: the process.
        agent: in it.
        standing: its threads.
        details: what is wanted.
        signal: which.
        started_ns: CLOCK_MONOTONIC when the process was started.
        say: hears of symbols that cannot be read.

    Raises:
        LeaklineError: it cannot be looked at.

    """
    began = time.monotonic_ns()
    image = Imager(procfs, target.pid).take(leave_out=agent.state().own, standing=standing)
    report = _check(procfs, target, agent, image, details, ended_by=signal, started_ns=started_ns, began_ns=began, say=say)
    return _with_cost(report, agent, procfs.smaps(target.pid), time.monotonic_ns() - began)


def _check(
    procfs: ProcFs,
    target: Target,
    agent: Agent,
    image: HeapImage,
    details: Details,
    *,
    ended_by: int | None,
    started_ns: int,
    began_ns: int,
    say: Say,
) -> Report:
    records = agent.records(image.copy.runs, bounds=True)
    scan = search(image, resolver_for(procfs, target.pid, image.vmas), began_ns, details, records)
    scan, trace = attribute(agent, scan, started_ns, began_ns)
    scan = msgspec.structs.replace(scan, at_end=ended_by is None, ended_by=ended_by)
    placed, frames = with_stacks(procfs, target.pid, trace.allocations, say)
    trace = msgspec.structs.replace(trace, allocations=placed)
    return build_report(procfs, target, [scan], find_lost([scan], trace, frames), began_ns=began_ns)


def _outstanding(
    procfs: ProcFs, target: Target, agent: Agent, state: AgentState, *, started_ns: int, began_ns: int, say: Say
) -> Report:
    """Under an allocator of which only the calls are known: what was not freed, lost or not."""
    trace = outstanding(agent, started_ns, began_ns)
    placed, frames = with_stacks(procfs, target.pid, trace.allocations, say)
    trace = msgspec.structs.replace(trace, allocations=placed)
    why = f"{state.why_off}: what was not freed is known, but not which of it is lost"
    gaps = [NotJudged(name="the heap", bytes=None, share=None, why=why)]
    report = build_report(procfs, target, [], find_outstanding(trace, [], frames), began_ns=began_ns, gaps=gaps)
    return msgspec.structs.replace(report, bytes_are="requested")


def without_check(target: Target, why: str, began_ns: int) -> Report:
    """What is said of a process that could not be checked."""
    gap = NotJudged(name="the heap", bytes=None, share=None, why=why)
    return build_report(None, target, [], [], began_ns=began_ns, gaps=[gap])


def _with_cost(report: Report, agent: Agent, mappings: Sequence[VmaUsage], held_ns: int | None) -> Report:
    counts, own = agent.counts(), agent.state().own
    memory = sum(u.usage.rss for u in mappings if any(start <= u.vma.start and u.vma.end <= end for start, end in own))
    cost = AgentCost(
        allocations=counts.allocations,
        memo_hits=counts.memo_hits,
        memo_misses=counts.memo_misses,
        memory_bytes=memory,
        held_at_end_ns=held_ns,
    )
    return msgspec.structs.replace(report, cost=msgspec.structs.replace(report.cost, agent=cost))


def _as_it_began_to_wait(image: HeapImage, state: AgentState) -> HeapImage:
    """With the thread that waits as it was before: on its own stack, with the registers that its callers may use."""

    def before(thread: ThreadState) -> ThreadState:
        if thread.tid != state.waiting_tid:
            return thread
        registers = [0] * _REGISTERS
        for place, value in zip(_KEPT_REGISTERS.values(), state.waiting_registers, strict=True):
            registers[place] = value
        registers[_RSP], registers[_FS_BASE] = state.waiting_stack_pointer, thread.thread_pointer
        return ThreadState(tid=thread.tid, registers=tuple(registers), xsave=b"", has_red_zone=False)

    return msgspec.structs.replace(image, threads=tuple(map(before, image.threads)))
