"""libbpf.so.1 by ctypes, and the calls of bpf(2) that libbpf 1.1 does not know."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from leakline.errors import NotPossible, PermissionNeeded
from leakline.native.parts import part_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SYS_BPF, _LINK_CREATE, _KPROBE = 321, 28, 2  # x86-64; include/uapi/linux/bpf.h
UPROBE_MULTI, UPROBE_SESSION = 48, 57  # attach types: Linux 6.6 and 6.13
_MULTI_RETURN = 1  # BPF_F_UPROBE_MULTI_RETURN
_BATCH = 4096


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
    pointer, text, size, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
    signatures: dict[str, tuple[type | None, list[type]]] = {
        "bpf_object__open_file": (pointer, [text, pointer]),
        "bpf_object__load": (number, [pointer]),
        "bpf_object__close": (None, [pointer]),
        "bpf_object__find_program_by_name": (pointer, [pointer, text]),
        "bpf_object__find_map_fd_by_name": (number, [pointer, text]),
        "bpf_program__fd": (number, [pointer]),
        "bpf_program__set_type": (number, [pointer, number]),
        "bpf_program__set_autoload": (number, [pointer, ctypes.c_bool]),
        "bpf_program__set_expected_attach_type": (number, [pointer, number]),
        "bpf_program__attach_uprobe_opts": (pointer, [pointer, number, text, size, pointer]),
        "bpf_link__destroy": (number, [pointer]),
        "bpf_map_update_elem": (number, [number, pointer, pointer, ctypes.c_uint64]),
        "bpf_map_lookup_elem": (number, [number, pointer, pointer]),
        "bpf_map_lookup_batch": (number, [number, pointer, pointer, pointer, pointer, pointer, pointer]),
        "libbpf_num_possible_cpus": (number, []),
        "libbpf_set_print": (pointer, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print(None)  # it would write to our stderr; we report errno
    return library


def failure(what: str) -> NotPossible | PermissionNeeded:
    """The error for what errno says."""
    number = ctypes.get_errno()
    if number in (1, 13):  # EPERM, EACCES
        hint = "Run as root; CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE together would do too."
        return PermissionNeeded(f"{what}: no permission", hint=hint)
    return NotPossible(f"{what}: {os.strerror(number)}")


class BpfMap:
    """One map of a loaded object."""

    def __init__(self, library: ctypes.CDLL, fd: int) -> None:
        self._library = library
        self._fd = fd

    def set(self, key: bytes, value: bytes) -> None:
        """Store a value.

        Raises:
            NotPossible: there is no room.

        """
        if self._library.bpf_map_update_elem(self._fd, key, value, 0):
            raise failure("cannot write a BPF map")

    def get(self, key: bytes, size: int) -> bytes | None:
        """The value of `size` bytes; None if there is none."""
        value = ctypes.create_string_buffer(size)
        return None if self._library.bpf_map_lookup_elem(self._fd, key, value) else value.raw

    def entries(self, key_size: int, size: int) -> dict[bytes, bytes]:
        """All entries; those that come or go meanwhile may be missing."""
        found: dict[bytes, bytes] = {}
        room = _BATCH
        position = ctypes.create_string_buffer(max(key_size, 8))
        following = ctypes.create_string_buffer(max(key_size, 8))
        begun = False
        while True:
            keys, values = ctypes.create_string_buffer(room * key_size), ctypes.create_string_buffer(room * size)
            count = ctypes.c_uint32(room)
            failed = self._library.bpf_map_lookup_batch(
                self._fd, position if begun else None, following, keys, values, ctypes.byref(count), None
            )
            number = ctypes.get_errno()
            if failed and number == 28:  # ENOSPC: one bucket holds more than there is room for
                room *= 2
                continue
            if failed and number != 2:  # ENOENT: that was the last
                raise failure("cannot read a BPF map")
            for i in range(count.value):
                found[keys.raw[i * key_size : (i + 1) * key_size]] = values.raw[i * size : (i + 1) * size]
            if failed:
                return found
            ctypes.memmove(position, following, len(position))
            begun = True


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


class BpfObject:
    """A compiled object file, loaded, with the links that hold its probes in.

    The probes are ours: if we die, the kernel takes them out.

    Args:
        name: of the file beside the package.
        programs: those to load, each with the attach type that it expects (0 for none).

    Raises:
        NotPossible: this kernel cannot load them, or the file is missing.
        PermissionNeeded: we may not.

    """

    def __init__(self, name: str, programs: Mapping[str, int], others: Sequence[str] = ()) -> None:
        self._name = name
        self._library = load_libbpf()
        self._links: list[int] = []
        self._descriptors: list[int] = []
        self._object = self._library.bpf_object__open_file(os.fsencode(part_path(name)), None)
        if not self._object:
            raise failure("cannot open the BPF object")
        for program, attach_type in programs.items():
            found = self._program(program)
            self._library.bpf_program__set_type(found, _KPROBE)
            self._library.bpf_program__set_expected_attach_type(found, attach_type)
        for program in others:
            self._library.bpf_program__set_autoload(self._program(program), False)
        if self._library.bpf_object__load(self._object):
            error = failure("cannot load the BPF programs")
            self._library.bpf_object__close(self._object)
            raise error

    def _program(self, name: str) -> int:
        return int(self._library.bpf_object__find_program_by_name(self._object, name.encode()) or 0)

    @property
    def has_links(self) -> bool:
        """Whether probes are in."""
        return bool(self._links or self._descriptors)

    def map(self, name: str) -> BpfMap:
        """A map by name."""
        fd = self._library.bpf_object__find_map_fd_by_name(self._object, name.encode())
        if fd < 0:
            raise NotPossible(f"leakline's {self._name} has no map {name}", hint="Install leakline again (`make setup`).")
        return BpfMap(self._library, fd)

    def cpus(self) -> int:
        """How many values a map per CPU has."""
        return int(self._library.libbpf_num_possible_cpus())

    def attach(self, program: str, pid: int, path: bytes, offset: int, cookie: int, *, returns: bool) -> None:
        """One probe in a file, for one process, by perf_event_open (Linux 5.15 for the cookie)."""
        options = _UprobeOptions(sz=ctypes.sizeof(_UprobeOptions), bpf_cookie=cookie, retprobe=returns)
        link = self._library.bpf_program__attach_uprobe_opts(self._program(program), pid, path, offset, ctypes.byref(options))
        if not link:
            raise failure(f"cannot probe {os.fsdecode(path)}")
        self._links.append(link)

    def attach_many(
        self, program: str, attach_type: int, pid: int, path: bytes, cookie_at: Mapping[int, int], *, returns: bool
    ) -> None:
        """Probes in a file, for one process, in one link: uprobe_multi, which libbpf 1.1 cannot ask for."""
        count = len(cookie_at)
        name, numbers = ctypes.create_string_buffer(path), ctypes.c_uint64 * count
        offsets, cookies = numbers(*cookie_at), numbers(*cookie_at.values())
        # union bpf_attr, link_create: prog_fd, target_fd, attach_type, flags;
        # uprobe_multi: path, offsets, ref_ctr_offsets, cookies, cnt, flags, pid
        head = (self._library.bpf_program__fd(self._program(program)), 0, attach_type, 0)
        pointers = (ctypes.addressof(name), ctypes.addressof(offsets), 0, ctypes.addressof(cookies))
        packed = struct.pack("<4I4Q3I", *head, *pointers, count, _MULTI_RETURN if returns else 0, pid)
        attributes = ctypes.create_string_buffer(packed, 64)
        link = ctypes.CDLL(None, use_errno=True).syscall(_SYS_BPF, _LINK_CREATE, attributes, len(attributes))
        if link < 0:
            raise failure(f"cannot probe {os.fsdecode(path)}")
        self._descriptors.append(link)

    def close(self) -> None:
        """Take the probes out and give everything back; safe against SIGKILL at any moment."""
        guardian = None
        with suppress(OSError):  # no process to be had: then we close by ourselves
            guardian = _Guardian() if self.has_links else None
        try:
            while self._links:
                self._library.bpf_link__destroy(self._links.pop())
            while self._descriptors:
                os.close(self._descriptors.pop())
            if self._object:
                opened, self._object = self._object, 0
                self._library.bpf_object__close(opened)
        finally:
            if guardian is not None:
                guardian.dismiss()
