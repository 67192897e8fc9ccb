"""Processes, as the kernel's /proc/PID describes them (Documentation/filesystems/proc.rst)."""

from __future__ import annotations

import msgspec


class ProcessStat(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of /proc/PID/stat that leakline uses."""

    pid: int
    command: str
    """The kernel's `comm`, at most 15 bytes; undecodable bytes as surrogates."""
    state: str
    """One letter: R S D Z T t X I."""
    ppid: int
    flags: int
    """The kernel's task flags, PF_* of include/linux/sched.h."""
    minor_faults: int
    major_faults: int
    threads: int
    start_ticks: int
    """Start after boot in clock ticks: with the pid, what tells a process from a later one of the same number."""

    @property
    def is_kernel_thread(self) -> bool:
        """PF_KTHREAD, the same value since Linux 2.6.27."""
        return bool(self.flags & 0x00200000)

    @property
    def is_zombie(self) -> bool:
        """Whether it has ended and only waits for its parent."""
        return self.state in "ZX"


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of /proc/PID/status that leakline uses."""

    uid: int
    """Real user id."""
    tracer_pid: int
    """The process that traces this one, 0 for none."""
    tgid: int | None
    """The process that a thread belongs to."""
    threads: int | None
    own_pid: int | None = None
    """Its number in its own PID namespace; None before Linux 4.1."""
    process: int | None = None
    """Of a thread, the process that it belongs to (Tgid)."""
    caught: int = 0
    """Signals that the program handles itself, as a mask: bit N-1 for signal N (SigCgt)."""
