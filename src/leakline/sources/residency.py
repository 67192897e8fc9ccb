"""A look at single words of a process that brings no page in."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from leakline.sources.procfs import translated

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(root: Path, pid: int, addresses: Iterable[int], size: int) -> dict[int, bytes]:
    """What stands at these addresses, where it is in memory: a read must not bring pages in. None crosses a page.

    Raises:
        TargetGone: the process is gone.
        PermissionNeeded: it belongs to somebody else.

    """
    found = {}
    with translated(pid, "read memory"):
        pagemap = os.open(root / str(pid) / "pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            memory = os.open(root / str(pid) / "mem", os.O_RDONLY | os.O_CLOEXEC)
            try:
                for address in addresses:
                    entry = os.pread(pagemap, 8, address // _PAGE * 8)
                    if len(entry) == 8 and entry[7] & 0x80:
                        with suppress(OSError):
                            found[address] = os.pread(memory, size, address)
            finally:
                os.close(memory)
        finally:
            os.close(pagemap)
    return found
