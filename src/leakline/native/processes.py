"""All processes in one pass, by the C code that reads their files (native/smaps/processes.c)."""

from __future__ import annotations

import ctypes
import os
from struct import Struct
from typing import TYPE_CHECKING

from leakline.native.parts import load_smaps_library

if TYPE_CHECKING:
    from collections.abc import Iterator

READ, UNREADABLE, KERNEL_THREAD, ZOMBIE, LEFT = range(5)


def read_processes(proc: int, page_size: int) -> tuple[Iterator[tuple[int, ...]], bytes]:
    """Look at all processes once.

    Args:
        proc: an open folder like /proc.
        page_size: in bytes.

    Returns:
        For each process what became of it, where its names begin, the command's length, the command line's end, whether both are
        printable ASCII without quotes and backslashes; pid, ppid, uid; vss and the amounts behind it as in ProcessMemory, threads
        and start_ticks. -1 is unknown. Then the names.

    Raises:
        NotPossible: the part in C was not built, or is of another version.
        OSError: the folder cannot be listed.

    """
    library = load_smaps_library()
    library.leakline_processes_read.restype = ctypes.c_void_p
    library.leakline_processes_rows.restype = library.leakline_processes_names.restype = ctypes.c_void_p
    error, size = ctypes.c_int(), ctypes.c_size_t()
    found = ctypes.c_void_p(library.leakline_processes_read(proc, ctypes.c_int64(page_size), ctypes.byref(error)))
    if not found:
        raise OSError(error.value, os.strerror(error.value))
    try:
        rows = ctypes.string_at(library.leakline_processes_rows(found, ctypes.byref(size)) or b"", size.value)
        names = ctypes.string_at(library.leakline_processes_names(found, ctypes.byref(size)) or b"", size.value)
    finally:
        library.leakline_processes_free(found)
    return Struct("=24q").iter_unpack(rows), names
