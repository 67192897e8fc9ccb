"""Which processes are meant, and whether they can be looked at."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from leakline.errors import InvalidRequest, LeaklineError, NotPossible, PermissionNeeded, TargetGone
from leakline.model.names import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.model.finding import Target
    from leakline.sources.procfs import ProcFs


def select(procfs: ProcFs, pids: Sequence[int], name: str | None) -> list[int]:
    """The processes that are named by pid, and those whose command or program name the expression finds.

    Raises:
        InvalidRequest: the expression is not one, or nothing was named.
        TargetGone: no process has such a name.

    """
    chosen = list(dict.fromkeys(pids))
    if name is None:
        if not chosen:
            raise InvalidRequest("no target", hint="Give PIDs, or --name REGEX, or -- COMMAND.")
        return chosen
    try:
        pattern = re.compile(name)
    except re.error as error:
        raise InvalidRequest(f"--name {name!r} is not a regular expression: {error}") from error
    ours = ancestry(procfs)
    for pid in procfs.pids():
        if pid in ours or pid in chosen:
            continue
        try:
            stat = procfs.stat(pid)
            program = os.path.basename(next(iter(procfs.arguments(pid)), ""))
        except LeaklineError:
            continue  # it ended meanwhile, or belongs to somebody who hides it
        if not stat.is_kernel_thread and not stat.is_zombie and (pattern.search(stat.command) or pattern.search(program)):
            chosen.append(pid)
    if not chosen:
        raise TargetGone(
            f"no process is named like {name!r}", hint="`ps -e` shows what there is; the name is a regular expression."
        )
    return chosen


def ancestry(procfs: ProcFs) -> set[int]:
    """We and our parents: a shell that runs `leakline --name x` has x in its command line."""
    found: set[int] = set()
    pid = os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        try:
            pid = procfs.stat(pid).ppid
        except LeaklineError:
            break
    return found


def require_readable(procfs: ProcFs, pid: int, *, probe: bool = True) -> None:
    """Check that it is a process with memory, and that we may read it.

    Args:
        procfs: where.
        pid: which.
        probe: read its sums to see whether we may; without, the next read of its memory will tell.

    Raises:
        TargetGone: there is none, or it has ended (a zombie).
        NotPossible: it is a kernel thread.
        PermissionNeeded: it belongs to somebody else.

    """
    try:
        stat = procfs.stat(pid)
    except TargetGone as error:
        raise TargetGone(f"there is no process {pid}") from error
    if stat.is_kernel_thread:
        raise NotPossible(
            f"process {pid} ({stat.command}) is a kernel thread: it has no memory of its own",
            hint="`leakline kernel` shows which of the kernel's own counters grows, and whose things it counts.",
        )
    if stat.is_zombie and len(procfs.threads(pid)) <= 1:
        raise TargetGone(
            f"process {pid} ({stat.command}) is a zombie: it has ended, and its memory is free",
            hint=f"Its parent, process {stat.ppid}, has not asked for its exit status yet.",
        )
    if not probe:
        return
    try:
        procfs.usage(pid)
    except PermissionNeeded as error:
        owner = procfs.status(pid).uid
        raise PermissionNeeded(
            f"process {pid} ({stat.command}) belongs to user {owner}: no permission to read its memory",
            hint="Run as root or as that user; the capability that it takes is CAP_SYS_PTRACE.",
        ) from error
    except TargetGone:
        if stat.is_zombie:
            return  # the first thread has ended, others live
        raise


def require_stoppable(procfs: ProcFs, pid: int) -> None:
    """Check that it is another process with memory, and that we may read it.

    Raises:
        NotPossible: it is leakline itself, or a kernel thread.
        TargetGone: there is none, or it has ended (a zombie).
        PermissionNeeded: it belongs to somebody else.

    """
    if pid == os.getpid():
        raise NotPossible("leakline cannot stop itself to look at itself", hint="Choose another process.")
    require_readable(procfs, pid)


def describe(procfs: ProcFs, pid: int) -> Target:
    """The target as findings name it."""
    from leakline.model.finding import Target

    try:
        executable: str | None = procfs.executable(pid)
    except LeaklineError:
        executable = None
    return Target(
        pid=pid,
        command=readable(procfs.stat(pid).command),
        executable=None if executable is None else readable(executable),
    )
