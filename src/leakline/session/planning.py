"""What a diagnosis would do for a target, without doing it: by what works here, and what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.errors import LeaklineError
from leakline.model.plan import Plan, Step, TargetPlan
from leakline.session.probe_cost import pair_cost_ns
from leakline.session.process_allocator import find_allocator
from leakline.session.scanning import Scanner
from leakline.session.targets import describe, require_stoppable
from leakline.sources.bpf import EVERYTHING, RecordingOptions
from leakline.sources.breakpoints import Breakpoints
from leakline.sources.fault_events import FaultEvents, FaultOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.session.diagnosing import DiagnosisOptions
    from leakline.sources.procfs import ProcFs

_SAMPLE = RecordingOptions(sampled_bytes=512 << 10)


def plan(procfs: ProcFs, pids: Sequence[int], options: DiagnosisOptions) -> Plan:
    """What would be done.

    Raises:
        LeaklineError: a target cannot be looked at at all.

    """
    costs = _probe_costs(procfs)
    targets = []
    for pid in pids:
        require_stoppable(procfs, pid)
        steps = (_measure(options), _scan(procfs, pid, options), *_record(procfs, pid, costs), _faults(procfs, pid))
        targets.append(TargetPlan(target=describe(procfs, pid), steps=steps))
    return Plan(budget_seconds=options.budget, max_pause_seconds=options.max_pause, targets=tuple(targets))


def _measure(options: DiagnosisOptions) -> Step:
    does = "reads smaps_rollup and smaps, and counts descriptors, threads and children, several times"
    return _step("measure", does, "always", seconds=options.window)


def _scan(procfs: ProcFs, pid: int, options: DiagnosisOptions) -> Step:
    when = "always; twice more once allocations were recorded"
    try:
        pause, size = Scanner(procfs, pid).expected_pause_ns()
    except LeaklineError as error:
        return _impossible("scan", "looks for heap blocks that no pointer leads to", when, error)
    does = f"copies {size / (1 << 20):,.1f} MiB and looks for heap blocks that no pointer leads to"
    if options.max_pause is not None and pause > options.max_pause * 1e9:
        does += ", while it runs on: a stop would be longer than allowed, so what is found is possible at most"
        pause = 0
    return _step("scan", does, when, pause_ns=pause)


def _probe_costs(procfs: ProcFs) -> dict[str, float | LeaklineError]:
    costs: dict[str, float | LeaklineError] = {}
    for name, options in (("record", EVERYTHING), ("sample", _SAMPLE)):
        try:
            costs[name] = pair_cost_ns(procfs, options)
        except LeaklineError as error:
            costs[name] = error
    return costs


def _record(procfs: ProcFs, pid: int, costs: dict[str, float | LeaklineError]) -> list[Step]:
    steps = []
    for name, does, when in (
        ("record", "records every allocation and free by BPF", "blocks are lost, or the heap grows"),
        ("sample", "records one allocation in many by BPF, and no free", "instead of that, where it allocates very often"),
    ):
        cost = costs[name]
        try:
            allocator = find_allocator(procfs, pid)
            if isinstance(cost, LeaklineError):
                raise cost
        except LeaklineError as error:
            steps.append(_impossible(name, does, when, error))
            continue
        steps.append(_step(name, f"{does}, in {allocator.name}", when, cost=round(cost, 1)))
    if not steps[0].possible:
        steps.append(_breakpoints(procfs, pid))
    return steps


def _breakpoints(procfs: ProcFs, pid: int) -> Step:
    does = "records the call sites that make blocks of the lost sizes, by hardware breakpoints"
    when = "blocks are lost, and there is no BPF"
    try:
        address = next(vma.start for vma in procfs.maps(pid) if "x" in vma.perms)
        with Breakpoints(pid, procfs.threads(pid)[:1], [address]):
            pass
    except (LeaklineError, StopIteration) as error:
        return _impossible("breakpoints", does, when, error)
    return _step("breakpoints", does, when)


def _faults(procfs: ProcFs, pid: int) -> Step:
    does, when = "names the lines that touch new pages", "it grows outside malloc's heap, or nothing else can tell the line"
    try:
        FaultEvents(pid, lambda: procfs.threads(pid), FaultOptions()).close()
    except LeaklineError as error:
        return _impossible("faults", does, when, error)
    return _step("faults", does, when)


def _step(name: str, does: str, when: str, *, cost: float | None = None, pause_ns: int = 0, seconds: float | None = None) -> Step:
    return Step(
        name=name,
        does=does,
        when=when,
        seconds=seconds,
        pause_ns=pause_ns,
        cpu_ns_per_allocation=cost,
        possible=True,
        why_not=None,
    )


def _impossible(name: str, does: str, when: str, error: Exception) -> Step:
    why = f"{error.message}. {error.hint}" if isinstance(error, LeaklineError) else "it maps no code"
    return Step(
        name=name,
        does=does,
        when=when,
        seconds=None,
        pause_ns=None,
        cpu_ns_per_allocation=None,
        possible=False,
        why_not=why,
    )
