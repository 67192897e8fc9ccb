"""Page faults as text: what killed the program first, then what it had, when, and what was not seen."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from leakline.present.text import UNKNOWN, amount, counted, duration, frame_function, frame_place, place, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leakline.model.faults import Crash, FaultGroup, FaultReport, FaultVma
    from leakline.model.stack import Frame

Line = tuple[str, str]
_WIDTH = 110
_SPARKS = " ▁▂▃▄▅▆▇█"
_MOST_COLUMNS = 60
_SHOWN_REGISTERS = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "eflags"),
)
_REGISTERS_A_LINE = 4


def describe_faults(reports: Sequence[FaultReport], most: int, *, sites: bool) -> Iterator[Line]:
    """All lines of a text report.

    Args:
        reports: one for each target.
        most: rows to show.
        sites: with the stack of each.

    """
    for number, report in enumerate(reports):
        if number:
            yield "", ""
        yield from _describe(report, most, sites=sites)


def _describe(report: FaultReport, most: int, *, sites: bool) -> Iterator[Line]:
    crashes = [group for group in report.faults if group.crash is not None]
    served = [group for group in report.faults if group.crash is None]
    for group in crashes:
        if group.crash is not None:
            yield from _crash(group, group.crash)
            yield "", ""
    if not crashes or report.counts.minor is not None:
        yield _headline(report), "headline"
    if served:
        yield "", ""
        yield from _sites(served[:most]) if sites else _table(served[:most], report.by)
        left_out = served[most:]
        if left_out:
            faults = counted(sum(group.count for group in left_out), "fault")
            yield f"  and {faults} in {counted(len(left_out), 'group')} more (--limit)", "dim"
        yield "", ""
        yield from timeline_lines(report)
        yield from _meanings(served[:most])
    yield from _tail(report)


def _headline(report: FaultReport) -> str:
    counts, seconds = report.counts, max(report.seconds, 1e-9)
    who = f"{printable(report.target.command)} (pid {report.target.pid})"
    if counts.minor is None or counts.major is None:
        return f"{who}: its page faults were not counted"
    rates = f"{counts.minor / seconds:,.0f} and {counts.major / seconds:,.0f} a second"
    return f"{who}: {counts.minor:,} minor and {counts.major:,} major page faults in {seconds:.1f} s ({rates})"


def _memory(vma: FaultVma | None) -> str:
    if vma is None:
        return UNKNOWN
    name = "" if vma.path is None or vma.path.startswith("[") else f" {vma.path.rsplit('/', 1)[-1]}"
    return printable(f"{vma.kind}{name} {vma.perms}")


def _code(group: FaultGroup) -> str:
    if group.location is None:
        return frame_function(group.stack[0]) + " " + frame_place(group.stack[0]) if group.stack else UNKNOWN
    where = place(group.location, group.stack)
    in_function = group.location.function if group.location.line is not None else None
    inferred = " (inferred)" if group.location_is == "inferred" else ""
    return where + (f" {printable(in_function)}" if in_function else "") + inferred


def _table(groups: Sequence[FaultGroup], by: str) -> Iterator[Line]:
    last = {"line": "code", "vma": "", "cause": "", "thread": "thread"}[by]
    heads = ["count", "kind", "cause", "access", "by", "takes", "huge", "mapping", last]
    rows = []
    for group in groups:
        huge = UNKNOWN if group.huge is None else f"{group.huge:,}"
        end = _code(group) if by == "line" else str(group.tid) if by == "thread" and group.tid is not None else ""
        cells = [f"{group.count:,}", group.kind, group.cause, group.access or UNKNOWN, group.by, amount(group.bytes), huge]
        rows.append([*cells, _memory(group.vma), end])
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    right = (0, 5, 6)
    for number, row in enumerate([heads, *rows]):
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        yield f"  {'  '.join(cells)}".rstrip(), "" if number else "headline"


def _sites(groups: Sequence[FaultGroup]) -> Iterator[Line]:
    for number, group in enumerate(groups):
        if number:
            yield "", ""
        yield f"  {_code(group)}", "headline"
        huge = f", {counted(group.huge, 'huge page')}" if group.huge else ""
        who = "by the kernel for it, " if group.by == "kernel" else ""
        threads = f", {counted(group.threads, 'thread')}" if group.threads > 1 else ""
        what = f"{group.cause} ({group.kind}, {who}{group.access or 'access unknown'})"
        yield f"    {counted(group.count, 'fault')}: {what} in {_memory(group.vma)}; takes {amount(group.bytes)}{huge}{threads}", ""
        yield from _stack(group.stack)


def _stack(stack: Sequence[Frame]) -> Iterator[Line]:
    functions = [frame_function(frame) for frame in stack]
    column = min(max(map(len, functions), default=0), 48)
    for number, (function, frame) in enumerate(zip(functions, stack, strict=True)):
        yield f"    {'stack' if number == 0 else '     '}   {function:<{column}}  {frame_place(frame)}", "dim"


def _wrapped(text: str) -> Iterator[Line]:
    for line in textwrap.wrap(printable(text), _WIDTH, break_long_words=False, break_on_hyphens=False):
        yield f"  {line}", ""


def _crash(group: FaultGroup, crash: Crash) -> Iterator[Line]:
    ended = "ended by" if crash.fatal else "met"
    who = f"{printable(crash.command)} (pid {crash.pid}{'' if crash.tid == crash.pid else f', thread {crash.tid}'})"
    at = "" if group.location is None else f" at {place(group.location, group.stack)}"
    if group.location is not None and group.location.line is not None and group.location.function:
        at += f" in {printable(group.location.function)}"
    yield f"{who} {ended} {crash.signal}{at}: {group.cause}", "definite" if crash.fatal else "warning"
    yield from _wrapped(group.explanation)
    yield "", ""
    if group.address is not None:
        yield f"    access       {group.access or 'unknown'} at {group.address:#x} ({crash.code})", ""
    yield f"    instruction  {printable(crash.instruction or 'none could be read')}, at {crash.instruction_address:#x}", ""
    if group.vma is not None:
        yield f"    mapping      {_range(group.vma)}", ""
    for neighbour in crash.neighbours:
        yield f"    {neighbour.side:<11}  {_range(neighbour.vma)}, {_distance(neighbour.distance)} away", ""
    if crash.was is not None:
        yield f"    it was       {_range(crash.was)}", ""
    registers = [(name, crash.registers[name]) for name in _SHOWN_REGISTERS if name in crash.registers]
    for start in range(0, len(registers), _REGISTERS_A_LINE):
        row = "  ".join(f"{name:<6} {value:<18}" for name, value in ((n, f"{v:#x}") for n, v in registers[start : start + 4]))
        yield f"    {'registers' if not start else '':<11}  {row}".rstrip(), "dim"
    yield from _stack(group.stack)
    again = crash.repetition
    if again is not None and again.depth > len(group.stack):
        yield f"            ... {counted(again.depth - len(group.stack), 'more call')}", "dim"


def _sum(report: FaultReport) -> str:
    counts = report.counts
    return UNKNOWN if counts.minor is None or counts.major is None else f"{counts.minor + counts.major:,}"


def _distance(distance: int) -> str:
    return counted(distance, "byte") if distance < 1 << 24 else amount(distance)


def _range(vma: FaultVma) -> str:
    path = "" if vma.path is None else f" {printable(vma.path)}"
    return f"{vma.start:x}-{vma.end:x} {vma.perms} {vma.kind}{path}"


def timeline_lines(report: FaultReport) -> Iterator[Line]:
    """A line of bars for each cause: how many faults in each stretch of time."""
    moments = report.timeline
    if len(moments) < 2:
        return
    step = -(-len(moments) // _MOST_COLUMNS)
    causes: dict[str, list[int]] = {}
    for number, moment in enumerate(moments):
        for cause, count in moment.counts.items():
            causes.setdefault(cause, [0] * -(-len(moments) // step))[number // step] += count
    if not causes:
        return
    largest = max(max(values) for values in causes.values())
    width = max(map(len, causes))
    seconds = report.interval * step
    yield f"  over time, {seconds:g} s a column, at most {counted(largest, 'fault')} in one", "headline"
    for cause, values in sorted(causes.items(), key=lambda item: -sum(item[1])):
        bars = "".join(_SPARKS[0 if not value else 1 + (len(_SPARKS) - 2) * value // largest] for value in values)
        yield f"    {cause:<{width}}  {bars}  {sum(values):,}", ""
    yield "", ""


def _meanings(groups: Sequence[FaultGroup]) -> Iterator[Line]:
    """What each cause means, once."""
    width = max((len(group.cause) for group in groups), default=0)
    seen = set()
    for group in groups:
        if group.cause not in seen and group.by == "program":
            seen.add(group.cause)
            yield f"  {group.cause:<{width}}  {printable(group.explanation)}", "dim"


def _tail(report: FaultReport) -> Iterator[Line]:
    children = [process for process in report.processes if process.pid != report.target.pid]
    if children:
        faults = counted(sum(p.minor + p.major for p in children), "fault")
        who = "a child" if len(children) == 1 else f"{len(children):,} children"
        yield f"  its own faults are {_sum(report)}; {faults} besides by {who} of it", ""
    for gap in report.not_seen:
        count = "" if gap.count is None else f", {gap.count:,}"
        yield f"  not seen: {printable(gap.what)}{count}: {printable(gap.why)}", "warning"
    cost = report.cost
    stood = f"its threads stood still for {duration(cost.target_stopped_ns)} in all; " if cost.target_stopped_ns else ""
    yield f"  cost: {stood}{duration(cost.duration_ns)} altogether", "dim"
