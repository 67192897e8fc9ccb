"""Loads for the benchmarks: sleeping processes, all alike and heavy, or a mix as a server has it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MANY_MAPPINGS = """
import ctypes, mmap
libc, count = ctypes.CDLL(None, use_errno=True), 5000 - 120
memory = mmap.mmap(-1, count * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(count):
    memory[page * 4096] = 1
base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
for page in range(0, count, 2):
    assert libc.mprotect(ctypes.c_void_p(base + page * 4096), 4096, 1) == 0
"""
_MANY_FILE_MAPPINGS = """
import mmap, tempfile
file = tempfile.TemporaryFile()
file.truncate(2500 * 8192)
held = [mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ, offset=n * 8192) for n in range(2500)]
total = sum(one[0] for one in held)
"""
_FAMILY = """
import ctypes, os
kept = [bytes(1000) + bytes([n % 251]) for n in range(30000)]
for _ in range(39):
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(1, 9)
        break
"""
_THREADS = """
import threading
for _ in range(60):
    threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
"""
_TWO_GIBIBYTES = """
import mmap
memory = mmap.mmap(-1, 2 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, 2 << 30, 4096):
    memory[at] = 1
"""
_PROGRAMS = (
    "import json, re",
    "import asyncio",
    "import sqlite3, ssl",
    "import xml.dom.minidom, http.client, unittest",
    "import ctypes, decimal, multiprocessing",
)
_ALIKE = "import json, sqlite3, ctypes, http.client; b = bytearray(1 << 20)"
_MIX = (
    *((180, None),),
    *((30, program) for program in _PROGRAMS),
    *((20, "import numpy; ones = numpy.ones(1 << 20)"), (1, _FAMILY), (8, _THREADS)),
    *((1, MANY_MAPPINGS), (1, _MANY_FILE_MAPPINGS), (1, _TWO_GIBIBYTES)),
)


def python(program: str) -> list[str]:
    """A program that says so when it is ready, and waits."""
    return [sys.executable, "-c", f"import time\n{program}\nprint(1, flush=True)\ntime.sleep(1e6)"]


@contextmanager
def running(kinds: tuple[tuple[int, str | None], ...]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes of these programs, ready; None is `sleep`."""
    started: list[subprocess.Popen[bytes]] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that they end with us
    try:
        for count, program in kinds:
            command = ["sleep", "1000000"] if program is None else python(program)
            pipe = None if program is None else subprocess.PIPE
            started += [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe) for _ in range(count)]
        for process in started:
            if process.stdout is not None:
                process.stdout.readline()
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def alike(count: int) -> tuple[tuple[int, str | None], ...]:
    """That many Python programs of the same imports, 12 MB each."""
    return ((count, _ALIKE),)


def mix() -> tuple[tuple[int, str | None], ...]:
    """400 processes, half of them small: sleepers, Python, numpy, a fork family, many threads, many mappings, much memory."""
    return _MIX
