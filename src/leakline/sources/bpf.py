"""BPF through libbpf.so.1 by ctypes: the malloc family of one process, recorded by native/bpf/heap.bpf.c."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from leakline.errors import NotPossible, PermissionNeeded
from leakline.model.trace import Allocation, AllocationTrace, StackTop
from leakline.native.parts import BPF, part_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Entry program of each function of the family, and whether a return probe belongs to it.
_PROBES: tuple[tuple[str, str, bool], ...] = (
    ("free", "on_free", False),
    ("malloc", "on_malloc", True),
    ("calloc", "on_calloc", True),
    ("realloc", "on_realloc", True),
    ("memalign", "on_memalign", True),
    ("aligned_alloc", "on_memalign", True),
    ("posix_memalign", "on_posix_memalign", True),
    ("valloc", "on_malloc", True),
    ("pvalloc", "on_malloc", True),
)
FUNCTIONS = tuple(name for name, _, _ in _PROBES)
_ALLOCATED, _FREED, _LOST = range(3)
_STACK_DEPTH = 64
_MOST_STEPS = 1_000_000  # twice what the map can hold
_STACK_WORDS = 32
_ALLOCATION = struct.Struct(f"<QQIiQQ{_STACK_WORDS}Q")


class _UprobeOptions(ctypes.Structure):
    """struct bpf_uprobe_opts of libbpf 1.1; newer libraries accept the shorter size."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("ref_ctr_offset", ctypes.c_size_t),
        ("bpf_cookie", ctypes.c_uint64),
        ("retprobe", ctypes.c_bool),
        ("func_name", ctypes.c_char_p),
    )


@cache
def load_libbpf() -> ctypes.CDLL:
    """The installed libbpf.

    Raises:
        NotPossible: there is none.

    """
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise NotPossible("libbpf is not installed", hint="sudo apt-get install libbpf1") from error
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    signatures: dict[str, tuple[type | None, list[type]]] = {
        "bpf_object__open_file": (pointer, [text, pointer]),
        "bpf_object__load": (ctypes.c_int, [pointer]),
        "bpf_object__close": (None, [pointer]),
        "bpf_object__find_program_by_name": (pointer, [pointer, text]),
        "bpf_object__find_map_fd_by_name": (ctypes.c_int, [pointer, text]),
        "bpf_program__attach_uprobe_opts": (pointer, [pointer, ctypes.c_int, text, size, pointer]),
        "bpf_link__destroy": (ctypes.c_int, [pointer]),
        "bpf_map_update_elem": (ctypes.c_int, [ctypes.c_int, pointer, pointer, ctypes.c_uint64]),
        "bpf_map_lookup_elem": (ctypes.c_int, [ctypes.c_int, pointer, pointer]),
        "bpf_map_get_next_key": (ctypes.c_int, [ctypes.c_int, pointer, pointer]),
        "libbpf_num_possible_cpus": (ctypes.c_int, []),
        "libbpf_set_print": (pointer, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print(None)  # it would write to our stderr; we report errno
    return library


def _failure(what: str) -> NotPossible | PermissionNeeded:
    number = ctypes.get_errno()
    if number in (1, 13):  # EPERM, EACCES
        hint = "Run as root; CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE together would do too."
        return PermissionNeeded(f"{what}: no permission", hint=hint)
    return NotPossible(f"{what}: {os.strerror(number)}")


class _Map:
    def __init__(self, library: ctypes.CDLL, obj: int, name: str) -> None:
        self._library = library
        self._fd = library.bpf_object__find_map_fd_by_name(obj, name.encode())
        if self._fd < 0:
            raise NotPossible(f"leakline's {BPF} has no map {name}", hint="Install leakline again (`make setup`).")

    def set(self, key: bytes, value: bytes) -> None:
        if self._library.bpf_map_update_elem(self._fd, key, value, 0):
            raise _failure("cannot write a BPF map")

    def get(self, key: bytes, size: int) -> bytes | None:
        value = ctypes.create_string_buffer(size)
        return None if self._library.bpf_map_lookup_elem(self._fd, key, value) else value.raw

    def entries(self, key_size: int, size: int, most: int) -> dict[bytes, bytes]:
        """All entries; those that come or go meanwhile may be missing."""
        found: dict[bytes, bytes] = {}
        key: bytes | None = None
        following = ctypes.create_string_buffer(key_size)
        # The kernel begins anew where the last key was deleted meanwhile: entries may come twice, but not for ever.
        for _ in range(most):
            if self._library.bpf_map_get_next_key(self._fd, key, following):
                break
            key = following.raw
            value = self.get(key, size)
            if value is not None:
                found[key] = value
        return found


class _Guardian:
    """A child that holds our descriptors, so that their last close is its own, at its end.

    A process that is killed while it closes a uprobe leaves the breakpoint in the target's code for ever: the kernel's
    remove_breakpoint() gives up when SIGKILL is pending (kernel/events/uprobes.c; get_user_pages() returns EINTR). Descriptors that
    are closed by a process's end are not met by that. So the child closes last: it ends when we let it, or when we are gone.
    """

    def __init__(self) -> None:
        waiting, self._holding = os.pipe()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(waiting)
            os.close(self._holding)
            raise
        if self._pid == 0:
            try:
                os.close(self._holding)
                os.setsid()
                signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()))
                os.read(waiting, 1)
            finally:
                os._exit(0)
        os.close(waiting)

    def dismiss(self) -> None:
        """Let it end, and wait until the kernel has taken the probes out."""
        os.close(self._holding)
        with suppress(ChildProcessError):  # SIGCHLD is ignored: the kernel has reaped it, once it was gone
            os.waitpid(self._pid, 0)


class HeapRecorder:
    """Records allocations of a process from `attach` to `close`.

    The probes are perf events of ours: if we die, the kernel takes them out.
    """

    def __init__(self) -> None:
        self._library = load_libbpf()
        self._links: list[int] = []
        self._object = self._library.bpf_object__open_file(os.fsencode(part_path(BPF)), None)
        if not self._object:
            raise _failure("cannot open the BPF object")
        if self._library.bpf_object__load(self._object):
            failure = _failure("cannot load the BPF programs")
            self._library.bpf_object__close(self._object)
            raise failure
        self._began_ns = 0

    def close(self) -> None:
        """Take the probes out and give everything back; safe against SIGKILL at any moment."""
        guardian = None
        with suppress(OSError):  # no process to be had: then we close by ourselves
            guardian = _Guardian() if self._links else None
        try:
            while self._links:
                self._library.bpf_link__destroy(self._links.pop())
            if self._object:
                opened, self._object = self._object, None
                self._library.bpf_object__close(opened)
        finally:
            if guardian is not None:
                guardian.dismiss()

    def attach(self, pid: int, library: bytes, offset_of: Mapping[str, int], min_size: int = 0) -> None:
        """Put the probes on a library that the process maps; `offset_of` tells where in the file each function begins."""
        namespace = os.stat("/proc/self/ns/pid")
        settings = struct.pack("<4Q", namespace.st_dev, namespace.st_ino, pid, min_size)
        _Map(self._library, self._object, "settings").set(struct.pack("<I", 0), settings)
        self._began_ns = time.monotonic_ns()
        done = set()
        for function, program, returns in _PROBES:
            offset = offset_of.get(function)
            if offset is None or offset in done:
                continue
            done.add(offset)
            # The return first: an entry without its return would leave a call open.
            if returns:
                self._probe(pid, library, offset, "on_return", returns=True)
            self._probe(pid, library, offset, program, returns=False)

    def _probe(self, pid: int, library: bytes, offset: int, program: str, *, returns: bool) -> None:
        found = self._library.bpf_object__find_program_by_name(self._object, program.encode())
        options = _UprobeOptions(sz=ctypes.sizeof(_UprobeOptions), retprobe=returns)
        link = self._library.bpf_program__attach_uprobe_opts(found, pid, library, offset, ctypes.byref(options))
        if not link:
            raise _failure(f"cannot probe {os.fsdecode(library)}")
        self._links.append(link)

    def read(self) -> AllocationTrace:
        """What was allocated since `attach` and is not freed."""
        ended = time.monotonic_ns()
        stacks = _Map(self._library, self._object, "stacks")
        known: dict[int, tuple[int, ...]] = {}
        allocations = []
        for key, value in _Map(self._library, self._object, "allocations").entries(8, _ALLOCATION.size, _MOST_STEPS).items():
            size, time_ns, tid, stack_id, sp, bp, *words = _ALLOCATION.unpack(value)
            if stack_id not in known:
                known[stack_id] = self._stack(stacks, stack_id)
            allocations.append(
                Allocation(
                    address=int.from_bytes(key, "little"),
                    size=size,
                    time_ns=time_ns,
                    tid=tid,
                    stack=_behind(words[0], known[stack_id]),
                    top=StackTop(stack_pointer=sp, frame_pointer=bp, words=tuple(words)),
                )
            )
        counter = self._counter()
        return AllocationTrace(
            engine="bpf",
            began_ns=self._began_ns,
            ended_ns=ended,
            allocations=tuple(sorted(allocations, key=lambda a: a.time_ns)),
            sees_frees=True,
            seen=counter(_ALLOCATED),
            lost=counter(_LOST),
        )

    def _stack(self, stacks: _Map, stack_id: int) -> tuple[int, ...]:
        raw = stacks.get(struct.pack("<i", stack_id), 8 * _STACK_DEPTH) if stack_id >= 0 else None
        return () if raw is None else tuple(address for address in struct.unpack(f"<{_STACK_DEPTH}Q", raw) if address)

    def _counter(self) -> Callable[[int], int]:
        counters = _Map(self._library, self._object, "counters")
        cpus = self._library.libbpf_num_possible_cpus()

        def total(which: int) -> int:
            raw = counters.get(struct.pack("<I", which), 8 * cpus)
            return 0 if raw is None else sum(struct.unpack(f"<{cpus}Q", raw))

        return total


def _behind(caller: int, stack: tuple[int, ...]) -> tuple[int, ...]:
    """The caller, which is exact, and behind it the walk by frame pointers, if that begins there."""
    return stack if stack[:1] == (caller,) else (caller,)
