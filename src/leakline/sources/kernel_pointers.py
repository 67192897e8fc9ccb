"""Pointers that only the kernel keeps for a process: what it gave to epoll and to POSIX timers."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from leakline.sources.parsing import read_whole

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_EPOLL = re.compile(rb"^tfd:.* data:\s+([0-9a-f]{1,16})\b", re.MULTILINE)
_TIMER = re.compile(rb"^signal: \d+/(?:0x)?([0-9a-f]{1,16})$", re.MULTILINE)


def parse_epoll(data: bytes) -> list[int]:
    """`epoll_event.data` of each descriptor that is waited for, from an epoll descriptor's fdinfo (fs/eventpoll.c)."""
    return [int(value, 16) for value in _EPOLL.findall(data)]


def parse_timers(data: bytes) -> list[int]:
    """`sigev_value` of each POSIX timer, from /proc/PID/timers (fs/proc/base.c, show_timer())."""
    return [int(value, 16) for value in _TIMER.findall(data)]


def epoll_descriptors(proc: Path, pid: int) -> list[str]:
    """The descriptors of a process that are epoll's; empty where that may not be seen."""
    found = []
    with suppress(OSError):
        for name in os.listdir(proc / str(pid) / "fd"):
            with suppress(OSError):
                if os.readlink(proc / str(pid) / "fd" / name) == "anon_inode:[eventpoll]":
                    found.append(name)
    return found


def kernel_pointers(proc: Path, pid: int, descriptors: Iterable[str]) -> list[int]:
    """The values that the kernel keeps for a process and hands back to it.

    Args:
        proc: the root of /proc.
        pid: which process.
        descriptors: its epoll descriptors.

    """
    found = []
    for name in descriptors:
        with suppress(OSError):  # it was closed meanwhile
            found += parse_epoll(read_whole(f"{proc}/{pid}/fdinfo/{name}"))
    with suppress(OSError):  # a kernel without CONFIG_CHECKPOINT_RESTORE
        found += parse_timers(read_whole(f"{proc}/{pid}/timers"))
    return found
