"""Which processes are meant, and whether they can be looked at."""

from __future__ import annotations

import os
import pwd
import re
from typing import TYPE_CHECKING

from leakline.errors import InvalidRequest, LeaklineError, NotPossible, PermissionNeeded, TargetGone
from leakline.model.names import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.model.finding import Target
    from leakline.sources.procfs import ProcFs


def select(
    procfs: ProcFs, pids: Sequence[int], name: str | None, *, user: str | None = None, cgroup: str | None = None
) -> list[int]:
    """The processes that are named by pid, and those that all of the other words fit.

    Args:
        procfs: where.
        pids: numbers.
        name: an expression that their command or program name has.
        user: name or number of whom they belong to.
        cgroup: the control group that they are in, or one above it.

    Raises:
        InvalidRequest: the expression is not one, there is no such user, or nothing was named.
        TargetGone: no process is like that.

    """
    chosen = list(dict.fromkeys(pids))
    if name is None and user is None and cgroup is None:
        if not chosen:
            raise InvalidRequest("no target", hint="Give PIDs, --name REGEX, --user NAME, --cgroup PATH, or -- COMMAND.")
        return chosen
    try:
        pattern = None if name is None else re.compile(name)
    except re.error as error:
        raise InvalidRequest(f"--name {name!r} is not a regular expression: {error}") from error
    uid = None if user is None else _uid(user)
    group = None if cgroup is None else "/" + cgroup.strip("/")
    ours = ancestry(procfs)
    for pid in procfs.pids():
        if pid in ours or pid in chosen:
            continue
        try:
            if _fits(procfs, pid, pattern, uid, group):
                chosen.append(pid)
        except LeaklineError:
            continue  # it ended meanwhile, or belongs to somebody who hides it
    if not chosen:
        raise TargetGone(f"no process {_words(name, user, group)}", hint="`leakline ps` shows what there is.")
    return chosen


def _fits(procfs: ProcFs, pid: int, pattern: re.Pattern[str] | None, uid: int | None, group: str | None) -> bool:
    stat = procfs.stat(pid)
    if stat.is_kernel_thread or stat.is_zombie:
        return False
    if uid is not None and procfs.status(pid).uid != uid:
        return False
    if group is not None:
        own = procfs.memory_cgroup(pid)
        if own is None or (own != group and not own.startswith(group.rstrip("/") + "/")):
            return False
    program = os.path.basename(next(iter(procfs.arguments(pid)), ""))
    return pattern is None or bool(pattern.search(stat.command) or pattern.search(program))


def _uid(user: str) -> int:
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise InvalidRequest(f"there is no user {user!r}", hint="Give a name or a number of /etc/passwd.") from error


def _words(name: str | None, user: str | None, group: str | None) -> str:
    words = []
    if name is not None:
        words.append(f"is named like {name!r}")
    if user is not None:
        words.append(f"belongs to {user}")
    if group is not None:
        words.append(f"is in the control group {group}")
    return " and ".join(words)


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
