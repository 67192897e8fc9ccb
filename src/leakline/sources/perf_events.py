"""perf_event_open(2): events of the kernel and of the processor, and the buffers that they are written into."""

from __future__ import annotations

import ctypes
import os
from typing import Self

from leakline.errors import NotPossible
from leakline.sources.perf_ring import PerfRing

_SYSCALLS = {"x86_64": 298, "aarch64": 241}
_CLOEXEC = 8
_ENABLE, _DISABLE, _SET_OUTPUT, _SET_FILTER, _ID = 0x2400, 0x2401, 0x2405, 0x40082406, 0x80082407
ATTRIBUTES_SIZE = 112  # struct perf_event_attr, PERF_ATTR_SIZE_VER5


class PerfEvents:
    """Events that are opened one by one, and taken out together. Use as a context manager."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fds: list[int] = []
        self._rings: list[PerfRing] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the events out."""
        for ring in self._rings:
            ring.close()
        for fd in self._fds:
            os.close(fd)
        self._rings.clear()
        self._fds.clear()

    def open(self, attributes: bytes, task: int, cpu: int) -> int:
        """Open an event.

        Args:
            attributes: a struct perf_event_attr, or its beginning.
            task: a thread's id; -1 for all.
            cpu: a processor's number; -1 for all.

        Returns:
            Its descriptor, which close() closes.

        Raises:
            NotPossible: leakline does not know this machine's system calls.
            OSError: the kernel does not open it.

        """
        number = _SYSCALLS.get(os.uname().machine)
        if number is None:
            raise NotPossible(f"perf events are not read on {os.uname().machine} yet")
        buffer = ctypes.create_string_buffer(attributes, ATTRIBUTES_SIZE)
        fd = int(self._libc.syscall(number, buffer, task, cpu, -1, _CLOEXEC))
        if fd < 0:
            raise _os_error()
        self._fds.append(fd)
        return fd

    def make_ring(self, fd: int, pages: int) -> PerfRing:
        """A buffer for an event, which close() gives back.

        Raises:
            OSError: that much is not allowed.

        """
        ring = PerfRing(fd, pages)
        self._rings.append(ring)
        return ring

    def share_ring(self, fd: int, leader: int) -> None:
        """Let an event write into the buffer of another on its processor."""
        self._control(fd, _SET_OUTPUT, ctypes.c_long(leader))

    def filter(self, fd: int, text: str) -> None:
        """Let only those come that a filter lets through (Documentation/trace/events.rst).

        Raises:
            OSError: the kernel does not take it.

        """
        if self._libc.ioctl(fd, ctypes.c_ulong(_SET_FILTER), ctypes.create_string_buffer(text.encode())):
            raise _os_error()

    def enable(self) -> None:
        """Let all of them come."""
        for fd in self._fds:
            self._control(fd, _ENABLE, ctypes.c_long(0))

    def disable(self) -> None:
        """Let no more come; those that are in the buffers can still be read."""
        for fd in self._fds:
            self._control(fd, _DISABLE, ctypes.c_long(0))

    def identifier(self, fd: int) -> int:
        """The number by which an event's records are told from others'."""
        value = ctypes.c_uint64()
        self._control(fd, _ID, ctypes.byref(value))
        return value.value

    def _control(self, fd: int, request: int, argument: object) -> None:
        if self._libc.ioctl(fd, ctypes.c_ulong(request), argument):
            raise NotPossible(f"perf events do not work here: {_os_error().strerror}")


def _os_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def online_cpus() -> list[int]:
    """CPUs that are online: `0-3,8`."""
    cpus: list[int] = []
    with open("/sys/devices/system/cpu/online") as file:
        for part in file.read().strip().split(","):
            first, _, last = part.partition("-")
            cpus.extend(range(int(first), int(last or first) + 1))
    return cpus
