"""debugfs and tracefs: where they are mounted, or opened without being mounted anywhere."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from leakline.errors import NotPossible, PermissionNeeded
from leakline.sources.parsing import pieces_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# The same numbers on all machines but alpha (Linux 5.2, Documentation/filesystems/mount_api.rst).
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_CMD_CREATE = 6
_CLOEXEC = 1
_OPTIONS = {"debugfs": "CONFIG_DEBUG_FS", "tracefs": "CONFIG_TRACEPOINTS and CONFIG_PERF_EVENTS"}
_USUAL = {"debugfs": "/sys/kernel/debug", "tracefs": "/sys/kernel/tracing"}


class KernelFiles:
    """A file system of the kernel's, opened by us alone: it is mounted nowhere, and gone when we are.

    Args:
        kind: debugfs or tracefs.

    Raises:
        PermissionNeeded: it takes root.
        NotPossible: this kernel has none.

    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        usual = _USUAL[kind]
        self._fd: int | None = None
        try:
            if os.listdir(usual):
                self._root = usual
                return
        except PermissionError as error:
            raise PermissionNeeded(f"no permission to read {usual}", hint="Run as root.") from error
        except OSError:
            pass  # not there: a container, perhaps
        self._fd = _opened(kind)
        self._root = f"/proc/self/fd/{self._fd}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def path(self, name: str) -> str:
        """By which a file of it can be opened."""
        return f"{self._root}/{name}"

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        return os.path.exists(self.path(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        """A file, as it comes.

        Raises:
            PermissionNeeded: it takes root.
            NotPossible: there is none, or the kernel cannot tell now.

        """
        try:
            yield from pieces_of(self.path(name))
        except PermissionError as error:
            raise PermissionNeeded(f"no permission to read {self._kind}'s {name}", hint="Run as root.") from error
        except OSError as error:
            raise NotPossible(f"cannot read {self._kind}'s {name}: {error.strerror}") from error

    def read(self, name: str) -> bytes:
        """A whole file; raises as `pieces` does."""
        return b"".join(self.pieces(name))

    def write(self, name: str, data: bytes) -> None:
        """Give the kernel an order.

        Raises:
            PermissionNeeded: it takes root.
            NotPossible: it refuses.

        """
        try:
            file = os.open(self.path(name), os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(file, data)
            finally:
                os.close(file)
        except PermissionError as error:
            raise PermissionNeeded(f"no permission to write {self._kind}'s {name}", hint="Run as root.") from error
        except OSError as error:
            raise NotPossible(f"cannot write {self._kind}'s {name}: {error.strerror}") from error

    def names(self, folder: str) -> list[str]:
        """What is in a folder; nothing where there is none."""
        with suppress(OSError):
            return os.listdir(self.path(folder))
        return []


def kmemleak_is_on(debugfs: KernelFiles) -> bool:
    """Whether kmemleak is there and takes orders; it is given one that it does not know (mm/kmemleak.c, kmemleak_write()).

    Raises:
        PermissionNeeded: it takes root.

    """
    try:
        file = os.open(debugfs.path("kmemleak"), os.O_WRONLY | os.O_CLOEXEC)
    except PermissionError as error:
        raise PermissionNeeded("no permission to use kmemleak", hint="Run as root.") from error
    except OSError:
        return False
    try:
        os.write(file, b"?")
    except OSError as error:
        return error.errno == errno.EINVAL  # EPERM where it is off
    finally:
        os.close(file)
    return True


def _opened(kind: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: object) -> int:
        result = int(libc.syscall(ctypes.c_long(number), *arguments))
        if result >= 0:
            return result
        code = ctypes.get_errno()
        why = os.strerror(code)
        if code in (errno.EPERM, errno.EACCES):
            raise PermissionNeeded(f"{kind} cannot be opened: {why}", hint="Run as root.")
        if code == errno.ENODEV:
            raise NotPossible(f"this kernel has no {kind}", hint=f"It takes {_OPTIONS[kind]}.")
        raise NotPossible(f"{kind} cannot be opened: {why}", hint=f"As root: mount -t {kind} {kind} {_USUAL[kind]}")

    context = call(_SYS_FSOPEN, ctypes.c_char_p(kind.encode()), ctypes.c_uint(_CLOEXEC))
    try:
        call(_SYS_FSCONFIG, ctypes.c_int(context), ctypes.c_uint(_CMD_CREATE), None, None, ctypes.c_int(0))
        return call(_SYS_FSMOUNT, ctypes.c_int(context), ctypes.c_uint(_CLOEXEC), ctypes.c_uint(0))
    finally:
        with suppress(OSError):
            os.close(context)
