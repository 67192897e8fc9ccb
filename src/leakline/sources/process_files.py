"""/proc/PID/stat and status (fs/proc/array.c)."""

from __future__ import annotations

from leakline.errors import ParseError
from leakline.model.process import ProcessStat, ProcessStatus
from leakline.sources.parsing import integer, key_values, text


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
        threads=integer(fields[b"Threads"], "status") if b"Threads" in fields else None,
    )
