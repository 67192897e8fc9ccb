"""Page faults: how a process gets its pages, and why it died. These records are the JSON that other programs rely on."""

from __future__ import annotations

from typing import Literal

import msgspec

from leakline.model.finding import Cost, Target
from leakline.model.mappings import VmaKind
from leakline.model.stack import Frame, SourceLocation

FaultKind = Literal["minor", "major", "segv", "sigbus"]
Access = Literal["read", "write", "exec"]
FaultCause = Literal[
    "first-touch",
    "zero-page",
    "copy-on-write",
    "page-cache",
    "read-from-disk",
    "swap-in",
    "userfaultfd",
    "write-notify",
    "numa",
    "spurious",
    "no-vma",
    "forbidden",
    "stack-overflow",
    "not-an-address",
    "end-of-file",
    "no-memory",
    "hardware",
    "misaligned",
    "sent",
    "unknown",
]
# What is known of a page: never met, the kernel's page of zeros, written and the process's own, a file's or shared memory's,
# shared copy on write with a relative, in swap.
ABSENT, ZERO, WRITTEN, FILE, SHARED, SWAPPED = range(6)


class FaultCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Page faults that were served; None where they were not counted."""

    minor: int | None
    major: int | None


class FaultVma(msgspec.Struct, frozen=True, kw_only=True):
    """The mapping as it was at the moment of the fault."""

    start: int
    end: int
    perms: str
    kind: VmaKind
    path: str | None


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping near an address that has none."""

    side: Literal["below", "above"]
    distance: int
    """Bytes between the address and the mapping; 0 right behind its end."""
    vma: FaultVma


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A member of a structure that was reached for through a pointer."""

    pointer: str
    """The variable."""
    type: str
    member: str
    offset: int


class Repetition(msgspec.Struct, frozen=True, kw_only=True):
    """Frames that repeat themselves on a stack."""

    depth: int
    """Calls on the stack, as far as it could be walked."""
    functions: tuple[str, ...]
    """The cycle, innermost first."""
    times: int


class Crash(msgspec.Struct, frozen=True, kw_only=True):
    """A SIGSEGV or SIGBUS, as far as it can be told."""

    signal: Literal["SIGSEGV", "SIGBUS"]
    fatal: bool
    """Whether the process ended by it; a handler of its own may have gone on."""
    handled: bool
    """Whether the program had a handler for it, which ran."""
    code: str
    """si_code by its name: SEGV_MAPERR, SEGV_ACCERR, BUS_ADRERR..."""
    pid: int
    tid: int
    command: str
    instruction: str | None
    """Disassembled."""
    instruction_address: int
    registers: dict[str, int]
    neighbours: tuple[Neighbour, ...]
    symbol: str | None = None
    """The function or object that the address lies in."""
    text: str | None = None
    """Characters that stand at the address, where it lies in a program's constants: a string literal."""
    field: Field | None = None
    was: FaultVma | None = None
    """What was mapped there before."""
    repetition: Repetition | None = None
    stack_limit: int | None = None
    """RLIMIT_STACK, or the size of the thread's stack."""
    file_size: int | None = None
    """Of the file behind the mapping, when the signal came (SIGBUS)."""


class FaultGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Faults of one kind."""

    kind: FaultKind
    cause: FaultCause
    access: Access | None
    """None where it is not known."""
    count: int
    """With --every N, N for each sample."""
    bytes: int
    """Memory that they took: a page each, or a huge page; nothing where the page was there already."""
    huge: int | None
    """How many mapped a transparent huge page; None where that was not seen."""
    by: Literal["program", "kernel"]
    """Whether the program touched the page, or the kernel for it, as read(2) does."""
    address: int | None
    """Of the first of them; None where a signal was sent and there was no fault."""
    vma: FaultVma | None
    """None where there is none, or where several groups were joined."""
    threads: int
    """How many threads made them."""
    tid: int | None
    """The thread, with --by thread."""
    location: SourceLocation | None
    location_is: Literal["recorded", "inferred"] | None
    stack: tuple[Frame, ...]
    explanation: str
    crash: Crash | None = None


class FaultMoment(msgspec.Struct, frozen=True, kw_only=True):
    """Faults in one stretch of time, by cause; major ones under their cause too."""

    seconds: float
    """From the beginning to the end of this stretch."""
    counts: dict[str, int]


class FaultedProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One of the processes that were watched: the target, or a child of it."""

    pid: int
    command: str
    minor: int
    """Of those that were seen."""
    major: int


class NotSeen(msgspec.Struct, frozen=True, kw_only=True):
    """Faults that could not be looked at."""

    what: str
    count: int | None
    why: str


class FaultReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a process got its pages: `leakline.faults/1`."""

    schema: Literal["leakline.faults/1"] = "leakline.faults/1"
    target: Target
    seconds: float
    counts: FaultCounts
    """The kernel's own, of the target alone (/proc/PID/stat)."""
    seen: FaultCounts
    """Those that events told of, of the target and its children."""
    lost: int
    """Records that got no place in the buffers."""
    every: int
    by: Literal["line", "vma", "cause", "thread"]
    faults: tuple[FaultGroup, ...]
    timeline: tuple[FaultMoment, ...]
    interval: float
    """Seconds of each stretch of the timeline."""
    processes: tuple[FaultedProcess, ...]
    access_is: Literal["recorded", "decoded"] | None
    """`recorded` from the processor's error codes, `decoded` from the instruction."""
    not_seen: tuple[NotSeen, ...]
    status: int | None
    """Of a program that was started: its exit status, 128 + N where signal N ended it."""
    cost: Cost


class FaultReports(msgspec.Struct, frozen=True, kw_only=True):
    """Several targets."""

    schema: Literal["leakline.faults/1"] = "leakline.faults/1"
    targets: tuple[FaultReport, ...]
