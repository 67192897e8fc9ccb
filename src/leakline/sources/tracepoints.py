"""The kernel's tracepoints, as tracefs lists them."""

from __future__ import annotations

import ctypes
import os
import re
from contextlib import suppress

_FOLDERS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
# x86-64, arch/x86/entry/syscalls/syscall_64.tbl; include/uapi/linux/mount.h.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC, _CREATE = 1, 6


def tracepoint(name: str, fields: dict[str, int]) -> int | None:
    """The number of a tracepoint, None where it may not be used: tracefs is root's.

    Where tracefs is not mounted, a mount that nobody else sees is made for this one look.

    Args:
        name: `exceptions/page_fault_user`.
        fields: those that will be read, and the offset at which each of them must lie.

    """
    for folder in _FOLDERS:
        with suppress(OSError):
            opened = os.open(folder, os.O_PATH | os.O_CLOEXEC)
            try:
                return _number(opened, name, fields)
            except FileNotFoundError:
                continue
            finally:
                os.close(opened)
    try:
        mounted = _detached_mount()
        try:
            return _number(mounted, name, fields)
        finally:
            os.close(mounted)
    except OSError:
        return None


def _number(folder: int, name: str, fields: dict[str, int]) -> int | None:
    text = {}
    for file in ("id", "format"):
        opened = os.open(f"events/{name}/{file}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(opened) as stream:
            text[file] = stream.read()
    for field, offset in fields.items():
        if re.search(rf"\b{field};\s+offset:{offset};\s+size:8;", text["format"]) is None:
            return None  # a kernel that lays it out in another way
    return int(text["id"])


def _detached_mount() -> int:
    libc = ctypes.CDLL(None, use_errno=True)

    def call(*arguments: int | bytes | None) -> int:
        result = int(libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments)))
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    context = call(_FSOPEN, b"tracefs", _CLOEXEC)
    try:
        call(_FSCONFIG, context, _CREATE, None, None, 0)
        return call(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)
