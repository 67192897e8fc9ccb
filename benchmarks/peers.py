"""What the benchmarks share: the CPU that a command and its children take."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence

OURS = [sys.executable, "-m", "leakline"]
START = [*OURS, "--version"]


def cpu(command: Sequence[str]) -> float:
    """Seconds of CPU, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rounds(commands: Sequence[Sequence[str]], count: int) -> list[list[float]]:
    """CPU of each command, `count` times in turn."""
    return [[cpu(command) for command in commands] for _ in range(count)]
