"""/proc/PID/stat and status (fs/proc/array.c), and cgroup (kernel/cgroup/cgroup.c)."""

from __future__ import annotations

from leakline.errors import ParseError
from leakline.model.names import readable
from leakline.model.process import ProcessStat, ProcessStatus
from leakline.sources.parsing import integer, key_values, kilobytes, text


def parse_stat(data: bytes) -> ProcessStat:
    """/proc/PID/stat. The command may hold anything, ` ) ` too: it ends at the last parenthesis.

    Raises:
        ParseError: it is cut short, or of another form.

    """
    head, _, tail = data.rpartition(b")")
    pid, _, command = head.partition(b"(")
    fields = tail.split()
    if len(fields) < 20 or len(fields[0]) != 1:
        raise ParseError(f"stat: {data[:80]!r}")
    return ProcessStat(
        pid=integer(pid, "stat"),
        command=text(command),
        state=fields[0].decode(errors="replace"),
        ppid=integer(fields[1], "stat"),
        flags=integer(fields[6], "stat"),
        minor_faults=integer(fields[7], "stat"),
        major_faults=integer(fields[9], "stat"),
        threads=integer(fields[17], "stat"),
        start_ticks=integer(fields[19], "stat"),
    )


def parse_status(data: bytes) -> ProcessStatus:
    """/proc/PID/status.

    Raises:
        ParseError: it is cut short, or of another form.

    """
    # A newline in a command is escaped in this file, so lines are lines.
    fields = key_values(data, "status")
    try:
        uid, tracer = fields[b"Uid"].split()[0], fields[b"TracerPid"]
    except (KeyError, IndexError) as error:
        raise ParseError("status: no Uid or no TracerPid") from error
    return ProcessStatus(
        uid=integer(uid, "status"),
        tracer_pid=integer(tracer, "status"),
        tgid=integer(fields[b"Tgid"], "status") if b"Tgid" in fields else None,
        threads=integer(fields[b"Threads"], "status") if b"Threads" in fields else None,
        own_pid=integer(fields[b"NSpid"].split()[-1], "status") if fields.get(b"NSpid") else None,
        process=integer(fields[b"Tgid"], "status") if b"Tgid" in fields else None,
        caught=_mask(fields.get(b"SigCgt", b"0")),
    )


def _mask(digits: bytes) -> int:
    try:
        return int(digits, 16)
    except ValueError as error:
        raise ParseError(f"status: not a mask of signals: {digits[:40]!r}") from error


def status_amounts(data: bytes) -> dict[str, int]:
    """The amounts of /proc/PID/status in bytes: VmSize, VmData and others.

    Raises:
        ParseError: a line has another form.

    """
    return {text(key): kilobytes(value, "status") for key, value in key_values(data, "status").items() if value.endswith(b" kB")}


def memory_cgroup(data: bytes) -> str | None:
    """The group that memory is charged to: v1's `memory` line, else v2's (`0::/path`)."""
    unified = None
    for line in data.split(b"\n"):
        _, colon, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        if colon and b"memory" in controllers.split(b","):
            return readable(text(path))
        if colon and not controllers:
            unified = readable(text(path))
    return unified


def parse_limits(data: bytes) -> dict[str, int]:
    """Soft limits of /proc/PID/limits by name, in its units; those that are `unlimited` are left out.

    Raises:
        ParseError: a line has another form.

    """
    found = {}
    for line in data.split(b"\n")[1:]:
        if not line.strip():
            continue
        # Names hold single spaces; columns are padded to 26 and 21 characters (fs/proc/base.c, proc_pid_limits()).
        name, soft = line[:26].strip(), line[26:47].strip()
        if soft != b"unlimited":
            found[text(name)] = integer(soft, "limits")
    return found
