"""Which processes live in one address space, as after clone(2) with CLONE_VM and without CLONE_THREAD."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_KCMP, _KCMP_VM = 312, 1  # the system call's number on x86-64; include/uapi/linux/kcmp.h


def sharers(pid: int, others: Iterable[int]) -> list[int]:
    """Those of the other processes that share the address space of this one; those that may not be compared are left out."""
    libc = ctypes.CDLL(None)
    return [other for other in others if other != pid and libc.syscall(_KCMP, pid, other, _KCMP_VM, 0, 0) == 0]
