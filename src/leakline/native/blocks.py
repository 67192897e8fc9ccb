"""smaps cut into its mappings by C code, each text once (native/smaps/blocks.c)."""

from __future__ import annotations

import ctypes
import errno
import os
from struct import Struct
from typing import TYPE_CHECKING

from leakline.native.parts import load_smaps_library

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_blocks(file: int) -> tuple[Iterator[tuple[int, ...]], list[tuple[bytes, bytes]]] | None:
    """Read an open smaps file to its end.

    Returns:
        Start, end and the index of a text for each mapping; and the texts: what follows the addresses, and the words of VmFlags.
        None where the file has another form than kernels have written since Linux 3.8, or is empty.

    Raises:
        NotPossible: the part in C was not built, or is of another version.
        OSError: what the kernel answers.

    """
    library = load_smaps_library()
    library.leakline_blocks_read.restype = library.leakline_blocks_mappings.restype = ctypes.c_void_p
    library.leakline_blocks_texts.restype = library.leakline_blocks_bytes.restype = ctypes.c_void_p
    reason, size = ctypes.c_int(), ctypes.c_size_t()
    found = ctypes.c_void_p(library.leakline_blocks_read(file, ctypes.byref(reason)))
    if not found:
        if reason.value == errno.EINVAL:
            return None
        raise OSError(reason.value, os.strerror(reason.value))
    try:
        mappings = ctypes.string_at(library.leakline_blocks_mappings(found, ctypes.byref(size)) or b"", size.value)
        texts = ctypes.string_at(library.leakline_blocks_texts(found, ctypes.byref(size)) or b"", size.value)
        data = ctypes.string_at(library.leakline_blocks_bytes(found, ctypes.byref(size)) or b"", size.value)
    finally:
        library.leakline_blocks_free(found)
    three = Struct("=3Q")
    cut = [
        (data[at : at + flags], data[at + flags + len(b"\nVmFlags:") : at + length])
        for at, length, flags in three.iter_unpack(texts)
    ]
    return three.iter_unpack(mappings), cut
