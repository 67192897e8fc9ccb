"""The malloc family of one process, recorded by native/bpf/heap.bpf.c."""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from leakline.errors import NotPossible
from leakline.model.trace import Allocation, AllocationTrace, StackTop
from leakline.native.parts import BPF
from leakline.sources.libbpf import UPROBE_MULTI, UPROBE_SESSION, BpfObject
from leakline.sources.procfs import ProcFs, translated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Stacks = Literal["copied", "frame-pointers", "caller"]
_STACKS: tuple[Stacks, ...] = ("caller", "frame-pointers", "copied")
# What each function's probe needs to know of it (the order of the enum in heap.bpf.c).
_FREE, _SIZE_FIRST, _SIZE_SECOND, _PRODUCT, _REALLOC, _RESULT_STORED = range(6)
_KIND_OF = {
    "free": _FREE,
    "malloc": _SIZE_FIRST,
    "calloc": _PRODUCT,
    "realloc": _REALLOC,
    "memalign": _SIZE_SECOND,
    "aligned_alloc": _SIZE_SECOND,
    "posix_memalign": _RESULT_STORED,
    "valloc": _SIZE_FIRST,
    "pvalloc": _SIZE_FIRST,
}
FUNCTIONS = tuple(_KIND_OF)
_PROGRAMS = ("on_session", "on_entry", "on_return")
# From the cheapest to what Linux 5.15 has: one program for entry and return, many probes in a link, one probe in each.
_WAYS = (UPROBE_SESSION, UPROBE_MULTI, 0)
_ALLOCATED, _FREED, _LOST, _STACKS_LOST = range(4)
_STACK_DEPTH = 64
_NO_STACK = 0xFFFFFFFF
_SETTINGS = struct.Struct("<10Q")
_ALLOCATION = struct.Struct("<QQQII")
_COPY_WORDS = 512
# The registers of struct top's `preserved`: rbx, r12 to r15, by DWARF number (System V ABI for x86-64, figure 3.36).
_PRESERVED = (3, 12, 13, 14, 15)
_TOP_HEAD = struct.Struct(f"<4Q{len(_PRESERVED)}QiI")
_TOP_WORDS = struct.Struct(f"<{_COPY_WORDS}Q")


class ProbedFunction(msgspec.Struct, frozen=True, kw_only=True):
    """A function of the malloc family, and where it is probed."""

    name: str
    offset: int
    """In the file."""


class RecordingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is recorded of each allocation, and of which."""

    min_size: int = 0
    sampled_bytes: int = 0
    """On average one allocation in so many bytes is recorded, and frees are not; 0: every allocation and free."""
    stacks: Stacks = "copied"


EVERYTHING = RecordingOptions()


class HeapRecorder:
    """Records allocations of a process from `attach` to `close`, by the cheapest probes that this kernel has."""

    def __init__(self, ways: Sequence[int] = _WAYS) -> None:
        self._ways = list(ways)
        self._way, self._object = _load(self._ways)
        self._options = RecordingOptions()
        self._began_ns = 0

    @property
    def probes(self) -> str:
        """Which kind of probes these are, in the kernel's words."""
        return {UPROBE_SESSION: "uprobe_session", UPROBE_MULTI: "uprobe_multi"}.get(self._way, "uprobe")

    def close(self) -> None:
        """Take the probes out and give everything back; safe against SIGKILL at any moment."""
        self._object.close()

    def attach(
        self,
        pid: int,
        library: bytes,
        functions: Sequence[ProbedFunction],
        code: Sequence[tuple[int, int]],
        options: RecordingOptions,
    ) -> None:
        """Put the probes in.

        Args:
            pid: whose calls are recorded.
            library: the file that the process maps; its path as we see it.
            functions: where to probe.
            code: [start, end) of what may hold return addresses: the program's, and that of all libraries.
            options: what to record.

        Raises:
            NotPossible: this kernel takes none of the probes that we know.
            PermissionNeeded: we may not.

        """
        self._options = options
        # bpf_get_ns_current_pid_tgid() knows a thread by the numbers of its own namespace only: a container has another than we.
        procfs = ProcFs()
        own_pid = procfs.status(pid).own_pid or pid
        with translated(pid, "read the namespaces"):
            namespace = os.stat(procfs.root / str(pid) / "ns/pid")
        ranges = [number for start, end in (*code, (0, 0), (0, 0))[:2] for number in (start, end - start)]
        settings = (
            namespace.st_dev,
            namespace.st_ino,
            own_pid,
            options.min_size,
            options.sampled_bytes,
            _STACKS.index(options.stacks),
        )
        probed: dict[int, int] = {}
        for function in functions:
            kind = _KIND_OF[function.name]
            if kind != _FREE or not options.sampled_bytes:
                probed.setdefault(function.offset, kind)
        while True:
            self._object.map("settings").set(struct.pack("<I", 0), _SETTINGS.pack(*settings, *ranges))
            self._began_ns = time.monotonic_ns()
            try:
                self._link(pid, library, probed)
            except NotPossible:
                # A kernel may take a program, but not its kind of link.
                if not self._ways:
                    raise
                self._object.close()
                self._way, self._object = _load(self._ways)
            else:
                return

    def _link(self, pid: int, library: bytes, probed: Mapping[int, int]) -> None:
        returning = [offset for offset, kind in probed.items() if kind != _FREE]
        if self._way == UPROBE_SESSION:
            self._object.attach_many("on_session", self._way, pid, library, probed, returns=False)
        elif self._way == UPROBE_MULTI:
            # The return first: an entry without its return would leave a call open.
            self._object.attach_many("on_return", self._way, pid, library, dict.fromkeys(returning, 0), returns=True)
            self._object.attach_many("on_entry", self._way, pid, library, probed, returns=False)
        else:
            for offset in returning:
                self._object.attach("on_return", pid, library, offset, 0, returns=True)
            for offset, kind in probed.items():
                self._object.attach("on_entry", pid, library, offset, kind, returns=False)

    def read(self) -> AllocationTrace:
        """What was allocated since `attach`, and is not freed where frees are seen."""
        ended = time.monotonic_ns()
        stacks = _Stacks(self._object, self._options.stacks)
        allocations = []
        for key, value in self._object.map("allocations").entries(8, _ALLOCATION.size).items():
            size, time_ns, caller, tid, place = _ALLOCATION.unpack(value)
            stack, top = stacks.of(caller, place)
            address = int.from_bytes(key, "little")
            allocations.append(Allocation(address=address, size=size, time_ns=time_ns, tid=tid, stack=stack, top=top))
        return AllocationTrace(
            engine="bpf",
            began_ns=self._began_ns,
            ended_ns=ended,
            allocations=tuple(sorted(allocations, key=lambda a: a.time_ns)),
            sees_frees=not self._options.sampled_bytes,
            sampled_bytes=self._options.sampled_bytes or None,
            seen=self._counted(_ALLOCATED),
            lost=self._counted(_LOST),
            stacks_lost=self._counted(_STACKS_LOST),
        )

    def recorded(self) -> int:
        """How many allocations were recorded since `attach`, freed ones too."""
        return self._counted(_ALLOCATED)

    def _counted(self, which: int) -> int:
        cpus = self._object.cpus()
        raw = self._object.map("counters").get(struct.pack("<I", which), 8 * cpus)
        return 0 if raw is None else sum(struct.unpack(f"<{cpus}Q", raw))


def _load(ways: list[int]) -> tuple[int, BpfObject]:
    """The object for the first of the ways that this kernel loads; that one and those before it are taken off the list."""
    while True:
        way = ways.pop(0)
        programs = {"on_session": way} if way == UPROBE_SESSION else {"on_entry": way, "on_return": way}
        try:
            return way, BpfObject(BPF, programs, [name for name in _PROGRAMS if name not in programs])
        except NotPossible:
            if not ways:
                raise


class _Stacks:
    """Stacks by their place in the maps, each read once."""

    def __init__(self, loaded: BpfObject, kind: Stacks) -> None:
        self._by_id, self._tops = loaded.map("stacks"), loaded.map("tops")
        self._kind = kind
        self._known: dict[tuple[int, int], tuple[tuple[int, ...], StackTop | None]] = {}

    def of(self, caller: int, place: int) -> tuple[tuple[int, ...], StackTop | None]:
        """Return addresses as far as they are known here, and the copied top from which more can be told."""
        key = caller, place
        if key not in self._known:
            self._known[key] = self._read(caller, place)
        return self._known[key]

    def _read(self, caller: int, place: int) -> tuple[tuple[int, ...], StackTop | None]:
        if place == _NO_STACK or self._kind == "caller":
            return (caller,), None
        if self._kind == "frame-pointers":
            return _behind(caller, self._by_frame_pointers(place)), None
        raw = self._tops.get(struct.pack("<I", place), _TOP_HEAD.size + _TOP_WORDS.size)
        if raw is None:
            return (caller,), None
        sp, bp, _, read, *preserved, stack_id, _ = _TOP_HEAD.unpack_from(raw)
        words = _TOP_WORDS.unpack_from(raw, _TOP_HEAD.size)
        # As it was when the allocator was entered: its return address stood just below.
        known = min(read, _COPY_WORDS)
        top = StackTop(
            stack_pointer=sp - 8,
            frame_pointer=bp,
            words=(caller, *words[:known]),
            registers=tuple(zip(_PRESERVED, preserved, strict=True)),
        )
        return _behind(caller, self._by_frame_pointers(stack_id)), top

    def _by_frame_pointers(self, stack_id: int) -> tuple[int, ...]:
        if not 0 <= stack_id < 1 << 31:
            return ()
        raw = self._by_id.get(struct.pack("<I", stack_id), 8 * _STACK_DEPTH)
        return () if raw is None else tuple(address for address in struct.unpack(f"<{_STACK_DEPTH}Q", raw) if address)


def _behind(caller: int, stack: tuple[int, ...]) -> tuple[int, ...]:
    """The caller, which is exact, and behind it the walk by frame pointers, if that begins there."""
    return stack if stack[:1] == (caller,) else (caller,)
