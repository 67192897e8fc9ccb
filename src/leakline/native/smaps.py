"""Sums over the mappings of each name, by the C code that reads smaps (native/smaps/)."""

from __future__ import annotations

import ctypes
from typing import Self

from leakline.native.parts import load_smaps_library

_ADDED, _REFUSED = range(2)


class _NameSums(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("length", ctypes.c_uint64),
        ("files", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64 * 5),
        ("last_file", ctypes.c_uint64),
    )


class SmapsSums:
    """Counts the mappings of many smaps files by name. Use as a context manager; it frees the C side at the end.

    Raises:
        NotPossible: the part in C was not built, or is of another version.

    """

    def __init__(self) -> None:
        self._library = load_smaps_library()
        self._library.leakline_smaps_new.restype = ctypes.c_void_p
        self._sums = ctypes.c_void_p(self._library.leakline_smaps_new())
        if not self._sums:
            raise MemoryError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.leakline_smaps_free(self._sums)

    def add(self, data: bytes) -> bool:
        """Count the mappings of one file; False where it is not quite as kernels write it: then none of it was counted."""
        status = self._library.leakline_smaps_add(self._sums, data, ctypes.c_size_t(len(data)))
        if status not in (_ADDED, _REFUSED):
            raise MemoryError
        return bool(status == _ADDED)

    def by_name(self) -> dict[bytes, tuple[int, ...]]:
        """For each name, as it stands in the files: how many have it, its mappings' size, rss, pss, uss, swap and swap_pss."""
        count = ctypes.c_size_t()
        function = self._library.leakline_smaps_names
        function.restype = ctypes.POINTER(_NameSums)
        found = function(self._sums, ctypes.byref(count))
        return {
            ctypes.string_at(entry.name, entry.length): (entry.files, entry.size, *entry.bytes) for entry in found[: count.value]
        }
