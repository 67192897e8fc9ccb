"""Page faults as they come: each judged with the mapping and the page as they were, and counted with its stack."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.address_space import AddressSpace
from leakline.analysis.fault_causes import CODE_FETCH, CODE_WRITE, Judge, PageStates, Touch
from leakline.errors import LeaklineError
from leakline.formats.perf_records import CodeSample, Ended, FaultSample, Forked, Mapped, Renamed
from leakline.model.faults import SHARED, FaultedProcess
from leakline.model.names import readable
from leakline.model.vma import Vma
from leakline.sources.page_states import HUGE, HugePages, huge_pages_wanted, numa_balancing, page_states
from leakline.sources.parsing import text
from leakline.symbols.disassembling import LONGEST, disassemble
from leakline.symbols.fault_stacks import StackWalker
from leakline.symbols.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from leakline.formats.instructions import Instruction
    from leakline.formats.perf_records import Record
    from leakline.model.faults import Access, FaultCause, FaultVma
    from leakline.sources.fault_events import FaultEvents
    from leakline.sources.procfs import ProcFs

_NAMELESS = (b"", b"//anon")
_HUGE_CAUSES = ("first-touch", "zero-page", "copy-on-write")
_ASK_SECONDS = 0.5
_GROWING = ("first-touch", "copy-on-write")
_PAGE = 4096


class Stack(msgspec.Struct, frozen=True):
    """Addresses of one process's code, to be looked up by one resolver."""

    resolver: int
    """Index of the resolver."""
    addresses: tuple[int, ...]
    exact: int


class RawGroup(msgspec.Struct):
    """Faults that are the same in all but the page."""

    major: bool
    cause: FaultCause
    access: Access | None
    in_kernel: bool
    vma: FaultVma | None
    stack: Stack | None
    address: int
    tid: int | None
    count: int = 0
    kept: int = 0
    """Of these, pages that had become the process's own again, and were not copied."""
    huge: int = 0
    huge_known: int = 0
    threads: set[int] = msgspec.field(default_factory=set)


class _Process:
    def __init__(self, pid: int, command: str, space: AddressSpace, judge: Judge) -> None:
        self.pid, self.command, self.space, self.judge = pid, command, space, judge
        self.minor = self.major = 0
        self.parent = 0
        """Of a child that has not begun another program yet."""
        self.copied = False
        """Whether it has copied a page."""
        self.family = {pid}
        """Processes that may share its pages, copy on write."""
        self.walker: StackWalker | None = None
        self.resolver = -1
        self.code_changed = True
        self.refreshed = False
        self.flags: dict[int, tuple[str, ...]] | None = None
        self.huge: HugePages | None = None
        self.provided = False
        """Whether it has a descriptor of userfaultfd(2)."""
        self.ended = False
        """Its first thread has."""

    def counted(self) -> FaultedProcess:
        """What it has made until now."""
        return FaultedProcess(pid=self.pid, command=readable(self.command), minor=self.minor, major=self.major)


def opener(procfs: ProcFs, pid: int) -> Callable[[Vma], bytes | None]:
    """How to open the file of a mapping: by its own path where it is the same file, so that it outlives the process."""

    def open_as(vma: Vma) -> bytes | None:
        if vma.path is not None:
            path = os.fsencode(vma.path)
            with suppress(OSError, ValueError):
                if os.stat(path).st_ino == vma.inode:
                    return path
        return procfs.mapped_file(pid, vma)

    return open_as


def root_folder(procfs: ProcFs, pid: int) -> bytes:
    """The process's root folder; our own where it sees the same files, so that it outlives the process."""
    with suppress(OSError):
        if os.readlink(procfs.root / str(pid) / "ns/mnt") == os.readlink(procfs.root / "self/ns/mnt"):
            return os.readlink(os.fsencode(procfs.root / str(pid) / "root")).rstrip(b"/")
    return os.fsencode(procfs.root / str(pid) / "root")


_Place = tuple[tuple[int, int], int, int]


def _place(space: AddressSpace, pid: int, address: int) -> _Place:
    """Where code stands: in which file, so that it is known in every process; else in which process."""
    vma = space.at(address)
    if vma is None or not vma.is_file:
        return (-1, pid), 0, address
    return vma.device, vma.inode, address - vma.start + vma.offset


def _vma(record: Mapped) -> Vma:
    path = None if record.path in _NAMELESS else text(record.path)
    return Vma(record.start, record.end, record.perms, record.offset if record.inode else 0, record.device, record.inode, path)


class FaultCollector:
    """Takes what events tell of a process and its children, and counts.

    Args:
        procfs: where they are.
        pid: the first process.
        events: from where.
        command: its name.
        every: one sample stands for so many faults.
        interval: seconds of each stretch of time.
        by_thread: keep threads apart.

    """

    def __init__(
        self, procfs: ProcFs, pid: int, events: FaultEvents, command: str, *, every: int, interval: float, by_thread: bool
    ) -> None:
        self._procfs, self._events = procfs, events
        self._every, self._interval_ns, self._by_thread = every, max(int(interval * 1e9), 1), by_thread
        self._numa, self._thp = numa_balancing(), huge_pages_wanted()
        self._processes: dict[int, _Process] = {pid: _Process(pid, command, AddressSpace(), Judge(PageStates(), numa=self._numa))}
        self._gone: list[FaultedProcess] = []
        self._codes: dict[int, CodeSample] = {}
        self._instructions: dict[_Place, Instruction | None] = {}
        self._problems: set[str] = set()
        self.resolvers: list[Resolver] = []
        self.groups: dict[tuple[object, ...], RawGroup] = {}
        self.moments: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._ask_at = 0.0
        self._told: Counter[str] = Counter()
        self.pages: dict[int, tuple[RawGroup, int]] | None = None
        """If not None: of each page of the first process that took memory, who touched it last, and in which stretch of time."""
        self._first = pid
        self.began_ns = 0
        self._huge_faults: dict[tuple[int, int], list[RawGroup]] = {}

    @property
    def problems(self) -> list[str]:
        """What could not be looked up."""
        return sorted(self._problems | {problem for resolver in self.resolvers for problem in resolver.problems})

    def resolver_over(self, pid: int, vmas: Sequence[Vma]) -> Resolver:
        """A resolver over a process's mappings, with the modules that are open already."""
        if self.resolvers:
            return self.resolvers[-1].over(vmas)
        return Resolver(vmas, opener(self._procfs, pid), root_folder(self._procfs, pid))

    def space_of(self, pid: int) -> AddressSpace:
        """The mappings of a process, as far as they are known."""
        process = self._processes.get(pid)
        return AddressSpace() if process is None else process.space

    def look_at(self, pid: int) -> None:
        """Read what a process has already: its mappings and pages."""
        process = self._processes[pid]
        process.space.replace(self._procfs.maps(pid))
        process.code_changed = True
        # Executables and libraries too: a page of them may be there, and become a copy when it is written.
        wanted = [v for v in process.space.vmas if v.perms[1] == "w" or v.perms[3] == "p"]
        for start, states in page_states(self._procfs.root, pid, wanted):
            process.judge.states.fill(start, states)

    def refresh(self, pid: int) -> None:
        """Read a process's mappings anew, as when it has begun another program: no event tells of the stack's."""
        process = self._processes.get(pid)
        if process is not None:
            process.refreshed = False
            self._refreshed(process, 0)
            process.code_changed = True

    def processes(self) -> tuple[FaultedProcess, ...]:
        """Those that made faults, who made the most first."""
        living = [process.counted() for process in self._processes.values()]
        return tuple(sorted((p for p in (*living, *self._gone) if p.minor + p.major), key=lambda p: -(p.minor + p.major)))

    def news(self) -> str:
        """How many faults of which cause came since this was asked last."""
        totals: Counter[str] = Counter()
        for counts in self.moments.values():
            totals.update(counts)
        new = totals - self._told
        self._told = totals
        return "".join(f", {cause} {count:,}" for cause, count in new.most_common())

    def take(self, records: Sequence[Record]) -> None:
        """Count what has come."""
        for process in self._processes.values():
            process.refreshed = False
        self._ask_who_is_provided()
        if not self._events.sees_codes:
            self._learn(records)
        for record in records:
            match record:
                case FaultSample():
                    self._fault(record)
                case CodeSample():
                    self._codes[record.tid] = record
                case Mapped():
                    self._mapped(record)
                case Forked():
                    self._forked(record)
                case Renamed():
                    self._renamed(record)
                case Ended():
                    self._codes.pop(record.tid, None)
                    if record.pid == record.tid and record.pid in self._processes:
                        self._processes[record.pid].ended = True
                        self._processes[record.pid].family.discard(record.pid)
                case _:
                    pass
        self._see_huge()
        self._let_go()

    def _ask_who_is_provided(self) -> None:
        """Look now and then who has a descriptor of userfaultfd(2); the more it takes the more rarely."""
        began = time.monotonic()
        if began < self._ask_at:
            return
        for process in self._processes.values():
            if not process.provided and not process.ended:
                with suppress(LeaklineError):
                    process.provided = self._procfs.has_descriptor(process.pid, "anon_inode:[userfaultfd]")
        now = time.monotonic()
        self._ask_at = now + max(_ASK_SECONDS, 50 * (now - began))

    def _let_go(self) -> None:
        """Forget the mappings and pages of children that have ended."""
        for pid in [p.pid for p in self._processes.values() if p.ended and p.pid != self._first]:
            if not os.path.exists(self._procfs.root / str(pid) / "maps") or not self._has_memory(pid):
                process = self._processes.pop(pid)
                self._close_huge(process)
                self._gone.append(
                    FaultedProcess(pid=pid, command=readable(process.command), minor=process.minor, major=process.major)
                )

    def _has_memory(self, pid: int) -> bool:
        try:
            return bool(self._procfs.maps(pid))
        except LeaklineError:
            return False

    def _mapped(self, record: Mapped) -> None:
        process = self._processes.get(record.pid)
        if process is None:
            return
        vma = _vma(record)
        before = process.space.at(record.start)
        if before is None or (before.inode, before.device) != (vma.inode, vma.device):
            process.judge.states.forget(vma.start, vma.end)
        process.judge.mapped(vma.start, vma.end)
        process.space.add(vma)
        if "x" in vma.perms and vma.inode:
            process.code_changed = True

    def _forked(self, record: Forked) -> None:
        parent = self._processes.get(record.parent)
        if record.pid == record.parent or parent is None:
            return
        judge = Judge(parent.judge.states.fork(), numa=self._numa)
        child = _Process(record.pid, parent.command, parent.space.copy(), judge)
        child.walker, child.resolver, child.code_changed = parent.walker, parent.resolver, parent.code_changed
        child.parent = parent.pid
        child.family = parent.family
        child.family.add(record.pid)
        self._processes[record.pid] = child

    def _renamed(self, record: Renamed) -> None:
        process = self._processes.get(record.pid)
        if process is None:
            return
        if record.pid == record.tid or record.is_exec:
            process.command = text(record.name)
        if record.is_exec:
            parent = self._processes.get(process.parent)
            # The child of a true fork writes to its stack before it can call exec, and copies that page.
            if parent is not None and self._every == 1 and not process.copied:
                parent.judge.states.take_back(process.judge.states)
            process.parent = 0
            process.family.discard(process.pid)
            process.family = {process.pid}
            process.space = AddressSpace()
            process.judge = Judge(PageStates(), numa=self._numa)
            process.code_changed, process.flags = True, None
            self._close_huge(process)

    def _fault(self, sample: FaultSample) -> None:
        process = self._processes.get(sample.pid)
        if process is None:
            return
        if not self.began_ns:
            self.began_ns = sample.time_ns
        vma = process.space.at(sample.address) or self._refreshed(process, sample.address)
        described = None
        if vma is not None:
            described = process.space.describe(vma, None if sample.stack is None else sample.stack.stack_pointer)
        major = self._events.is_major(sample.identifier)
        told = self._codes.pop(sample.tid, None)
        told = told if told is not None and told.address == sample.address else None
        known = None if told is None else told.code
        access = self._access(process, sample, vma, known)
        flags = self._flags(process, vma) if process.provided and vma is not None else ()
        shared = process.judge.states.get(sample.address) == SHARED
        began = None if told is None else told.time_ns
        touch = Touch(sample.time_ns, sample.tid, sample.address, major, access, known, began)
        cause = process.judge.cause(touch, described, flags)
        if major:
            process.major += self._every
        else:
            process.minor += self._every
        group = self._group(process, sample, major, cause, access, described)
        group.count += self._every
        if cause == "copy-on-write" and shared and process.judge.states.forked and process.family == {process.pid}:
            group.kept += self._every
        group.threads.add(sample.tid)
        bucket = max(0, sample.time_ns - self.began_ns) // self._interval_ns
        self.moments[bucket][cause] += self._every
        process.copied |= cause == "copy-on-write"
        if self.pages is not None and cause in _GROWING and process.pid == self._first:
            self.pages[sample.address // _PAGE] = group, bucket
        if self._thp and cause in _HUGE_CAUSES and vma is not None and not vma.is_file and not vma.is_shared:
            chunk = sample.address // HUGE * HUGE
            if chunk >= vma.start and chunk + HUGE <= vma.end:
                self._huge_faults.setdefault((process.pid, chunk), []).append(group)
                return
        group.huge_known += self._every

    def _group(
        self,
        process: _Process,
        sample: FaultSample,
        major: bool,
        cause: FaultCause,
        access: Access | None,
        vma: FaultVma | None,
    ) -> RawGroup:
        stack = None
        # In exec(2) the kernel fills the new stack while the registers are still the old program's.
        lost = sample.in_kernel and sample.stack is not None and process.space.at(sample.stack.instruction_pointer) is None
        if sample.stack is not None and not lost:
            walker = self._walker(process)
            stack = Stack(process.resolver, *walker.frames(sample.stack, sample.callchain))
        elif not sample.in_kernel:
            self._walker(process)
            stack = Stack(process.resolver, (sample.instruction,), 1)
        tid = sample.tid if self._by_thread else None
        place = None if vma is None else (vma.kind, vma.path, vma.perms)
        key = (major, cause, access, sample.in_kernel, place, stack, tid)
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = RawGroup(major, cause, access, sample.in_kernel, vma, stack, sample.address, tid)
        return group

    def _walker(self, process: _Process) -> StackWalker:
        if process.walker is None or process.code_changed:
            process.code_changed = False
            if not any("x" in vma.perms for vma in process.space.vmas):
                self._refreshed(process, 0)
            vmas = [vma for vma in process.space.vmas if vma.is_file or "x" in vma.perms]
            resolver = self.resolver_over(process.pid, vmas)
            process.resolver = len(self.resolvers)
            self.resolvers.append(resolver)
            process.walker = StackWalker(resolver.frame_rule, resolver.is_signal_frame)
        return process.walker

    def _refreshed(self, process: _Process, address: int) -> Vma | None:
        """What /proc says now of an address that events did not tell of: a stack that has grown, a mapping that was moved."""
        if process.refreshed:
            return None
        process.refreshed = True
        with suppress(LeaklineError):
            vmas = self._procfs.maps(process.pid)
            if vmas:
                process.space.replace(vmas)
        return process.space.at(address)

    def _access(self, process: _Process, sample: FaultSample, vma: Vma | None, code: int | None) -> Access | None:
        if code is not None:
            return "exec" if code & CODE_FETCH else "write" if code & CODE_WRITE else "read"
        if sample.in_kernel:
            return None
        if sample.address == sample.instruction:
            return "exec"
        if vma is not None and vma.perms[1] == "-":
            return "read"
        instruction = self._instructions.get(_place(process.space, process.pid, sample.instruction))
        if instruction is None:
            return None
        registers = {"rip": sample.instruction}
        if sample.stack is not None:
            stack = sample.stack
            registers |= {"rsp": stack.stack_pointer, "rbp": stack.frame_pointer}
            registers |= {"rsi": stack.source_index, "rdi": stack.destination_index}
        found = instruction.access_to(sample.address, registers)
        return None if found is None else found.access

    def _learn(self, records: Iterable[Record]) -> None:
        """Disassemble the instructions that were not met before."""
        new: dict[_Place, bytes] = {}
        spaces: dict[int, AddressSpace] = {}
        for record in records:
            if isinstance(record, Forked) and record.pid != record.parent:
                spaces[record.pid] = spaces.get(record.parent, self.space_of(record.parent)).copy()
            elif isinstance(record, Mapped) and record.perms[2] == "x":
                spaces.setdefault(record.pid, self.space_of(record.pid).copy()).add(_vma(record))
            elif isinstance(record, FaultSample) and not record.in_kernel:
                space = spaces.get(record.pid) or self.space_of(record.pid)
                key = _place(space, record.pid, record.instruction)
                if key not in self._instructions and key not in new:
                    new[key] = self._code(record.pid, record.instruction, space)
        if not new:
            return
        try:
            found = disassemble(list(new.values()))
        except LeaklineError as error:
            self._problems.add(error.message)
            found = [None] * len(new)
        self._instructions |= dict(zip(new, found, strict=True))

    def _code(self, pid: int, address: int, space: AddressSpace) -> bytes:
        vma = space.at(address)
        path = None if vma is None or not vma.is_file else opener(self._procfs, pid)(vma)
        if vma is not None and path is not None:
            with suppress(OSError), open(path, "rb") as file:
                return os.pread(file.fileno(), LONGEST, address - vma.start + vma.offset)
        with suppress(OSError):
            memory = os.open(self._procfs.root / str(pid) / "mem", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(memory, LONGEST, address)
            finally:
                os.close(memory)
        return b""

    def _flags(self, process: _Process, vma: Vma) -> tuple[str, ...]:
        """VmFlags, read once for each mapping: they tell where somebody else provides the pages (userfaultfd)."""
        if process.flags is None or vma.start not in process.flags:
            process.flags = process.flags or {}
            process.flags.setdefault(vma.start, ())
            with suppress(LeaklineError):
                process.flags |= {usage.vma.start: usage.flags for usage in self._procfs.smaps(process.pid)}
        return process.flags.get(vma.start, ())

    def _see_huge(self) -> None:
        """Which of the new pages are huge ones."""
        for (pid, chunk), groups in self._huge_faults.items():
            process = self._processes.get(pid)
            if process is None:
                continue
            if process.huge is None:
                with suppress(LeaklineError):
                    process.huge = HugePages(self._procfs.root, pid)
            found = None if process.huge is None else process.huge.at(chunk)
            if found is not None:
                groups[0].huge += self._every if found else 0  # it takes one fault for all of it
                for group in groups:
                    group.huge_known += self._every
        self._huge_faults.clear()

    @staticmethod
    def _close_huge(process: _Process) -> None:
        if process.huge is not None:
            process.huge.close()
            process.huge = None

    def close(self) -> None:
        """Let go of what is held open."""
        for process in self._processes.values():
            self._close_huge(process)
