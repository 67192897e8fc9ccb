"""Recording allocations of a live process: by BPF, or by hardware breakpoints where BPF is not allowed."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Literal, Protocol, Self

from leakline.analysis.diagnosis import fits
from leakline.errors import NotPossible, NotSupported, PermissionNeeded
from leakline.model.trace import Allocation, AllocationTrace, StackTop
from leakline.session.process_allocator import find_allocator
from leakline.session.process_libc import find_functions, find_libc
from leakline.sources.bpf import EVERYTHING, HeapRecorder, RecordingOptions
from leakline.sources.breakpoints import MOST_BREAKPOINTS, Breakpoints, Hit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from leakline.session.interruption import Interruption
    from leakline.sources.procfs import ProcFs

Via = Literal["auto", "bpf", "breakpoint"]
_POLL_SECONDS = 0.05
_SITES_AFTER_SECONDS = 1.0
_STACK_WORDS = 64
# How a call's arguments (rdi, rsi, rdx) tell the requested size.
_SIZE_OF: dict[str, Callable[[tuple[int, int, int]], int]] = {
    "malloc": lambda a: a[0],
    "calloc": lambda a: a[0] * a[1],
    "realloc": lambda a: a[1],
    "posix_memalign": lambda a: a[2],
}


class Recorder(Protocol):
    """Records allocations while it is entered."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """Take every probe out."""

    def wait(self, seconds: float) -> None:
        """Let time pass, at most until Ctrl-C."""

    def trace(self) -> AllocationTrace:
        """What was recorded so far."""


class BpfRecorder:
    """Every allocation and free, by BPF.

    Raises:
        PermissionNeeded: it takes root, or CAP_BPF and CAP_PERFMON.
        NotPossible: this kernel or this installation has no BPF.

    """

    def __init__(self, procfs: ProcFs, pid: int, interruption: Interruption, options: RecordingOptions) -> None:
        self._interruption = interruption
        self.samples = bool(options.sampled_bytes)
        allocator = find_allocator(procfs, pid)
        self._recorder = HeapRecorder()
        try:
            self._recorder.attach(pid, allocator.path, allocator.functions, allocator.code, options)
        except BaseException:
            self._recorder.close()
            raise
        self.description = f"{self._recorder.probes} on {allocator.name}"

    def recorded(self) -> int:
        """How many allocations were recorded so far, freed ones too."""
        return self._recorder.recorded()

    def __enter__(self) -> Self:
        """Nothing more to do: the probes are in."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the probes out."""
        self.close()

    def close(self) -> None:
        """Take the probes out."""
        self._recorder.close()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._interruption.wait(seconds)

    def trace(self) -> AllocationTrace:
        """What is allocated since the beginning and not freed."""
        return self._recorder.read()


class BreakpointRecorder:
    """The results of the call sites that make blocks of certain usable sizes, without any privilege. Frees are not seen.

    First, breakpoints at the allocator's entries tell which call sites ask for such sizes; then breakpoints at the return of
    those sites tell which addresses they get: only there the target pays from then on.

    Raises:
        PermissionNeeded: perf_event_open is not allowed on this process.
        NotPossible: there are no hardware breakpoints here.

    """

    def __init__(self, procfs: ProcFs, pid: int, interruption: Interruption, sizes: Collection[int]) -> None:
        self._procfs = procfs
        self._pid = pid
        self._interruption = interruption
        self._sizes = frozenset(sizes)
        functions = find_functions(find_libc(procfs, pid), list(_SIZE_OF))
        self._entries = {f.address: f.name for f in functions.values()}
        self._sites: Counter[int] = Counter()
        self._at_sites = False
        self._seen = self._lost = 0
        self._allocations: dict[int, Allocation] = {}
        self._began_ns = time.monotonic_ns()
        self._breakpoints = Breakpoints(pid, procfs.threads(pid), list(self._entries))

    def __enter__(self) -> Self:
        """Nothing more to do: the breakpoints are in."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the breakpoints out."""
        self._breakpoints.close()

    def wait(self, seconds: float) -> None:
        """Let time pass; move the breakpoints once it is known where to."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._interruption.asked:
            self._interruption.wait(min(_POLL_SECONDS, left))
            self._collect()
            if not self._at_sites and self._sites and time.monotonic_ns() - self._began_ns > _SITES_AFTER_SECONDS * 1e9:
                self._move()

    def _collect(self) -> None:
        hits = self._breakpoints.hits()
        self._seen += len(hits)
        for hit in hits:
            if self._at_sites:
                if hit.result:
                    self._allocations[hit.result] = _returned(hit)
                continue
            requested = _SIZE_OF[self._entries[hit.address]](hit.arguments)
            if hit.stack and any(fits(requested, size) for size in self._sizes):
                self._sites[hit.stack[0]] += 1

    def _move(self) -> None:
        self._lost += self._breakpoints.lost
        self._breakpoints.close()
        chosen = [address for address, _ in self._sites.most_common(MOST_BREAKPOINTS)]
        self._breakpoints = Breakpoints(self._pid, self._procfs.threads(self._pid), chosen, _STACK_WORDS)
        self._at_sites = True
        self._began_ns = time.monotonic_ns()

    def trace(self) -> AllocationTrace:
        """The addresses that the sites got since the breakpoints are there."""
        self._collect()
        return AllocationTrace(
            engine="breakpoint",
            began_ns=self._began_ns,
            ended_ns=time.monotonic_ns(),
            allocations=tuple(self._allocations.values()),
            sees_frees=False,
            seen=self._seen,
            lost=self._lost + self._breakpoints.lost,
        )


def _returned(hit: Hit) -> Allocation:
    behind = hit.callchain[1:] if hit.callchain[:1] == (hit.address,) else ()
    # As it was when the allocator was entered: its return address stood just below.
    words = (hit.address, *hit.stack)
    top = StackTop(stack_pointer=hit.stack_pointer - 8, frame_pointer=hit.frame_pointer, words=words)
    return Allocation(address=hit.result, size=None, time_ns=hit.time_ns, tid=hit.tid, stack=(hit.address, *behind), top=top)


def open_recorder(
    procfs: ProcFs,
    pid: int,
    interruption: Interruption,
    say: Callable[[str], None],
    *,
    lost_sizes: Callable[[], Collection[int]],
    via: Via = "auto",
    options: RecordingOptions = EVERYTHING,
) -> Recorder:
    """The best recorder that is allowed here: BPF, else breakpoints.

    Args:
        procfs: where the process is.
        pid: its number.
        interruption: ends a wait.
        say: hears which recorder it is, and why.
        lost_sizes: tells the usable sizes of lost blocks, for breakpoints, which are few and must know what to look for.
        via: which one to use.
        options: of which allocations what is recorded (BPF).

    Raises:
        PermissionNeeded: none is allowed; the hint says what would help.
        NotPossible: none works here, or nothing is lost that breakpoints could look for.

    """
    if via != "breakpoint":
        try:
            recorder = BpfRecorder(procfs, pid, interruption, options)
        except NotSupported:
            raise
        except (PermissionNeeded, NotPossible) as error:
            if via == "bpf":
                raise
            say(f"no BPF ({error.message}); trying hardware breakpoints, which need no privilege")
        else:
            what = "every allocation and free" if not options.sampled_bytes else "every allocation"
            say(f"recording by BPF ({recorder.description}): {what} costs the target a microsecond or some until this ends")
            return recorder
    sizes = lost_sizes()
    if not sizes:
        hint = "Try again later; as root, --via bpf records every allocation."
        raise NotPossible("nothing is lost yet, so there is no size of block to look for", hint=hint)
    breakpoints = BreakpointRecorder(procfs, pid, interruption, sizes)
    say("recording by hardware breakpoints: first on the allocator, then on the call sites that make such blocks")
    return breakpoints
