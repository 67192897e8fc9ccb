"""`top` in a terminal of 80x24 beside 400 processes: what it takes of a core once it is under way, and what it writes."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from peers import OURS
from processes import alike, running

PROCESSES = 400
FIRST_SECONDS, SECONDS = 60, 60


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Terminal:
    """A program in a terminal that is read, and forgotten.

    Args:
        command: the program.

    """

    def __init__(self, command: list[str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = {**os.environ, "TERM": "xterm"}
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)
        os.close(slave)
        self.written = 0

    def read_for(self, seconds: float) -> None:
        """Take what comes, for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._master], [], [], left)[0]:
                self.written += len(os.read(self._master, 1 << 16))

    def press(self, keys: bytes) -> None:
        """Send keys."""
        os.write(self._master, keys)

    def end(self) -> None:
        """End the program."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def measured(terminal: Terminal, seconds: float) -> tuple[float, float]:
    """Share of a core, and bytes a second."""
    before, written = cpu_of(terminal.process.pid), terminal.written
    terminal.read_for(seconds)
    return (cpu_of(terminal.process.pid) - before) / seconds, (terminal.written - written) / seconds


def main() -> None:
    first, seconds = (float(argument) for argument in (*sys.argv[1:3], *[FIRST_SECONDS, SECONDS][len(sys.argv[1:3]) :]))
    with running(alike(PROCESSES)):
        terminal = Terminal([*OURS, "top"])
        watch = subprocess.Popen([*OURS, "watch", "all", "-q"], stdout=subprocess.DEVNULL)
        try:
            terminal.read_for(first)
            beside = cpu_of(watch.pid)
            share, written = measured(terminal, seconds)
            print(f"top of {PROCESSES}+ processes at 1 Hz, 80x24: {share:.2%} of a core, {written:,.0f} bytes/s to the terminal")
            print(f"watch all, meanwhile: {(cpu_of(watch.pid) - beside) / seconds:.2%} of a core")
            for keys in (b"\\ctypes\r", b"\r"):  # one of ours, whatever else grows on this machine
                terminal.press(keys)
                terminal.read_for(3)
            share, written = measured(terminal, seconds / 2)
            print(f"with one of them opened: {share:.2%} of a core, {written:,.0f} bytes/s")
        finally:
            watch.kill()
            watch.wait()
            terminal.end()


main()
