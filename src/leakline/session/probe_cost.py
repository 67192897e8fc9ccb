"""What a recorder's probes cost on this machine, measured on a child of ours before any target pays it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from leakline.errors import TargetGone
from leakline.session.process_allocator import find_allocator
from leakline.sources.bpf import HeapRecorder

if TYPE_CHECKING:
    from leakline.sources.bpf import RecordingOptions
    from leakline.sources.procfs import ProcFs

_PAIRS = 10_000
_CHILD = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
malloc, free = libc.malloc, libc.free
malloc.restype, free.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, None, [ctypes.c_size_t], [ctypes.c_void_p]
print(flush=True)
for line in sys.stdin:
    began = time.process_time_ns()
    for _ in range(int(line)):
        free(malloc(200))
    print(time.process_time_ns() - began, flush=True)
"""


def pair_cost_ns(procfs: ProcFs, options: RecordingOptions) -> float:
    """CPU that recording adds to a pair of malloc and free, in nanoseconds.

    Raises:
        PermissionNeeded: BPF is not allowed.
        NotPossible: there is no BPF here.

    """
    with subprocess.Popen([sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            _answer(child)
            bare = _loop(child)
            allocator, recorder = find_allocator(procfs, child.pid), HeapRecorder()
            try:
                recorder.attach(child.pid, allocator.path, allocator.functions, allocator.code, options)
                return max(0.0, (_loop(child) - bare) / _PAIRS)
            finally:
                recorder.close()
        finally:
            child.kill()


def _loop(child: subprocess.Popen[str]) -> int:
    if child.stdin is not None:
        child.stdin.write(f"{_PAIRS}\n")
        child.stdin.flush()
    return int(_answer(child))


def _answer(child: subprocess.Popen[str]) -> str:
    line = child.stdout.readline() if child.stdout is not None else ""
    if not line:
        raise TargetGone("the child that probes were to be tried on has ended")
    return line.strip() or "0"
