"""Kernel allocations as they happen: the tracepoints kmem:* through perf_event_open(2), filtered in the kernel.

No reboot, no module, no BPF: it takes root and a kernel with tracepoints. Allocations come with the kernel's stack, frees with
the pointer alone, each kind in a ring of its own: records of frees all have one size, so that numpy reads them at once.
"""

from __future__ import annotations

import errno
import re
import struct
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from leakline.errors import NotPossible, PermissionNeeded
from leakline.sources.kernel_files import KernelFiles
from leakline.sources.perf_events import ATTRIBUTES_SIZE, PerfEvents, online_cpus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from leakline.sources.perf_ring import PerfRing

    Numbers = NDArray[np.uint64]

_TYPE_TRACEPOINT = 2
_TID, _TIME, _CALLCHAIN, _RAW = 1 << 1, 1 << 2, 1 << 5, 1 << 10
_DISABLED, _NO_USER_CALLCHAIN = 1, 1 << 22
_RECORD_LOST, _RECORD_SAMPLE = 2, 9
_MOST_ADDRESS = (1 << 64) - 4096  # above it are the marks between kernel and user part of a chain
_FIELD = re.compile(rb"field:[^;]*?\b(\w+)(?:\[[^\]]*\])?;\s*offset:(\d{1,4});\s*size:(\d{1,4});")
_COMPACT_OVER = 1 << 20


class Event(NamedTuple):
    """A tracepoint, and what is wanted of it."""

    name: str
    """As `kmem/kmalloc`."""
    key: str
    """The field that an allocation and its free have in common."""
    filter: str | None
    """In the kernel's language (Documentation/trace/events.rst)."""
    allocates: bool


class Allocations(NamedTuple):
    """What was allocated and not freed."""

    keys: Numbers
    times: Numbers
    chains: NDArray[np.int64]
    tasks: NDArray[np.int64]


def require_tracepoints() -> None:
    """See whether events of allocations can be had, by one that never comes.

    Raises:
        PermissionNeeded: it takes root.
        NotPossible: this kernel has none.

    """
    never = Event("kmem/kmalloc", "ptr", "bytes_alloc == 1", allocates=True)
    with KernelFiles("tracefs") as tracefs:
        KmemEvents(tracefs, [never], pages=8).close()


class _Format(NamedTuple):
    number: int
    offset: int


def parse_format(data: bytes, field: str) -> tuple[int, int]:
    """Number and offset of a field of a tracepoint's `format` file.

    Raises:
        NotPossible: it has no such field of eight bytes.

    """
    number = re.search(rb"^ID: (\d{1,9})$", data, re.MULTILINE)
    for name, offset, size in _FIELD.findall(data):
        if name == field.encode() and size == b"8" and number is not None:
            return int(number[1]), int(offset)
    raise NotPossible(f"this kernel's tracepoint has no field {field}")


class KmemEvents:
    """Records events on all CPUs while it is entered.

    Args:
        tracefs: where their numbers and formats are.
        events: which; those that this kernel lacks are left out.
        pages: of each ring, a power of two.

    Raises:
        PermissionNeeded: it takes root, or CAP_PERFMON.
        NotPossible: this kernel has none of the events that allocate, or does not take the filter.

    """

    def __init__(self, tracefs: KernelFiles, events: Sequence[Event], pages: int = 1024) -> None:
        known = [event for event in events if tracefs.exists(f"events/{event.name}/format")]
        if not any(event.allocates for event in known):
            raise NotPossible(
                "this kernel has no tracepoints of allocations", hint="It takes CONFIG_TRACEPOINTS and CONFIG_PERF_EVENTS."
            )
        self._formats = {}
        for event in known:
            number, offset = parse_format(tracefs.read(f"events/{event.name}/format"), event.key)
            self._formats[event] = _Format(number, offset)
        self._events = PerfEvents()
        self._rings: list[tuple[PerfRing, bool]] = []
        self._chains: dict[bytes, int] = {}
        self.seen = self.lost = 0
        self._kept = _nothing()
        self._new: list[tuple[Numbers, Numbers, NDArray[np.int64], NDArray[np.int64]]] = []
        self._waiting = 0
        try:
            for cpu in online_cpus():
                for allocates in (True, False):
                    self._open_ring(cpu, [event for event in known if event.allocates == allocates], pages, allocates=allocates)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        self._events.enable()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """No more events come; those that are there can still be read."""
        self._events.disable()

    def close(self) -> None:
        """Take the events out."""
        self._rings.clear()
        self._events.close()

    def _open_ring(self, cpu: int, events: Sequence[Event], pages: int, *, allocates: bool) -> None:
        first: int | None = None
        for event in events:
            sample = (_TID | _CALLCHAIN if allocates else 0) | _TIME | _RAW
            head = struct.pack(
                "<IIQQQQQ",
                _TYPE_TRACEPOINT,
                ATTRIBUTES_SIZE,
                self._formats[event].number,
                1,
                sample,
                0,
                _DISABLED | _NO_USER_CALLCHAIN,
            )
            fd = self._open(head, cpu)
            if event.filter is not None:
                self._set_filter(fd, event)
            if first is not None:
                self._events.share_ring(fd, first)
                continue
            first = fd
            try:
                self._rings.append((self._events.make_ring(fd, pages), allocates))
            except OSError as error:
                raise PermissionNeeded("perf buffers are not allowed here", hint="Run as root.") from error

    def _open(self, attributes: bytes, cpu: int) -> int:
        try:
            return self._events.open(attributes, -1, cpu)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                hint = "Run as root, or grant CAP_PERFMON."
                raise PermissionNeeded("perf_event_open is not allowed on the whole machine", hint=hint) from error
            if error.errno == errno.ENOSYS:
                raise NotPossible("this kernel has no perf events", hint="It takes CONFIG_PERF_EVENTS.") from error
            raise NotPossible(f"tracepoints do not work here: {error.strerror}") from error

    def _set_filter(self, fd: int, event: Event) -> None:
        try:
            self._events.filter(fd, event.filter or "")
        except OSError as error:
            raise NotPossible(f"the kernel does not take the filter {event.filter!r} on {event.name}") from error

    def drain(self) -> None:
        """Read what has come.

        Frees first: whatever is freed by then was allocated before, and is in a ring of allocations already.
        """
        for wanted in (False, True):
            for ring, allocates in self._rings:
                if allocates == wanted:
                    data = ring.take()
                    if data:
                        (self._read_allocations if allocates else self._read_frees)(data)
        if self._waiting > _COMPACT_OVER:
            self._compact()

    def _read_allocations(self, data: bytes) -> None:
        places = {form.number: 4 + form.offset for event, form in self._formats.items() if event.allocates}
        rows, at = [], 0
        chains = self._chains
        unpack, number_of = struct.Struct("<IHHiiQQ").unpack_from, struct.Struct("<H").unpack_from
        key_of = struct.Struct("<Q").unpack_from
        while at < len(data):
            kind, _, size = struct.unpack_from("<IHH", data, at)
            if not size:
                break
            if kind == _RECORD_SAMPLE:
                _, _, _, task, _, when, depth = unpack(data, at)
                raw = at + 32 + 8 * depth
                chain = data[at + 32 : raw]
                known = chains.get(chain)
                if known is None:
                    known = chains[chain] = len(chains)
                place = places.get(number_of(data, raw + 4)[0])
                if place is not None:
                    rows.append((key_of(data, raw + place)[0], when, known, task))
            elif kind == _RECORD_LOST:
                self.lost += struct.unpack_from("<QQ", data, at + 8)[1]
            at += size
        if rows:
            keys, times, numbers, tasks = zip(*rows, strict=True)
            self._add(np.array(keys, np.uint64), np.array(times, np.uint64), np.array(numbers, np.int64), np.array(tasks, np.int64))

    def _read_frees(self, data: bytes) -> None:
        for part in _runs(data):
            kind, _, size = struct.unpack_from("<IHH", part)
            if kind == _RECORD_LOST:
                self.lost += struct.unpack_from("<QQ", part, 8)[1]
            elif kind == _RECORD_SAMPLE:
                table = np.frombuffer(part, np.uint8).reshape(-1, size)
                numbers = np.ascontiguousarray(table[:, 20:22]).view(np.uint16).ravel()
                for event, form in self._formats.items():
                    chosen = table[numbers == form.number]
                    if len(chosen) and not event.allocates:
                        place = 20 + form.offset
                        keys = np.ascontiguousarray(chosen[:, place : place + 8]).view(np.uint64).ravel()
                        times = np.ascontiguousarray(chosen[:, 8:16]).view(np.uint64).ravel()
                        gone = np.full(len(keys), -1, np.int64)
                        self._add(keys, times, gone, gone)

    def _add(self, keys: Numbers, times: Numbers, chains: NDArray[np.int64], tasks: NDArray[np.int64]) -> None:
        self.seen += len(keys)
        self._waiting += len(keys)
        self._new.append((keys, times, chains, tasks))

    def _compact(self) -> None:
        parts = [tuple(self._kept), *self._new]
        keys, times, chains, tasks = (np.concatenate([part[n] for part in parts]) for n in range(4))
        self._kept = outstanding(keys, times, chains, tasks)
        self._new, self._waiting = [], 0

    def not_freed(self) -> Allocations:
        """What was allocated since the beginning, and not freed."""
        self._compact()
        return self._kept

    def stack(self, chain: int) -> tuple[int, ...]:
        """The kernel's instruction pointers of a chain, innermost first."""
        data = next(data for data, number in self._chains.items() if number == chain)
        return tuple(address for (address,) in struct.iter_unpack("<Q", data) if address < _MOST_ADDRESS)


def _nothing() -> Allocations:
    return Allocations(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))


def outstanding(keys: Numbers, times: Numbers, chains: NDArray[np.int64], tasks: NDArray[np.int64]) -> Allocations:
    """The allocations that are the last event of their key.

    Args:
        keys: pointers or page frames of all events.
        times: of each; in any order.
        chains: of an allocation; -1 for a free.
        tasks: likewise.

    """
    order = np.lexsort((times, keys))
    keys, times, chains, tasks = keys[order], times[order], chains[order], tasks[order]
    last = np.append(keys[1:] != keys[:-1], True) if len(keys) else np.zeros(0, bool)
    left = last & (chains >= 0)
    return Allocations(keys[left], times[left], chains[left], tasks[left])


def _runs(data: bytes) -> list[bytes]:
    """The data cut into runs of records of the same kind and size."""
    size = struct.unpack_from("<H", data, 6)[0]
    if size and len(data) % size == 0:
        heads = np.frombuffer(data, np.uint8).reshape(-1, size)[:, :8]
        if (heads == heads[0]).all():
            return [data]
    found, at, began, before = [], 0, 0, b""
    while at + 8 <= len(data):
        head = data[at : at + 8]
        size = struct.unpack_from("<H", head, 6)[0]
        if not size:
            break
        if head != before and at > began:
            found.append(data[began:at])
            began = at
        before = head
        at += size
    if at > began:
        found.append(data[began:at])
    return found
