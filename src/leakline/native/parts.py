"""Where the native parts lie, and why one is missing."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

from leakline.errors import NotPossible

HEAP = "libleakline-heap.so"
SMAPS = "libleakline-smaps.so"
BPF = "heap.bpf.o"
AGENT = "libleakline-agent.so"
_PACKAGE_OF = {AGENT: "gcc libc6-dev", HEAP: "gcc libc6-dev", SMAPS: "gcc libc6-dev", BPF: "clang libbpf-dev"}


def part_path(name: str) -> Path:
    """The path of a native part.

    Raises:
        NotPossible: it was not built.

    """
    path = Path(__file__).parent.parent / "_native" / name
    if not path.exists():
        if os.uname().machine != "x86_64":
            raise NotPossible(f"leakline's {name} is for x86-64, and this machine is {os.uname().machine}")
        raise NotPossible(
            f"leakline was installed without its {name}",
            hint=f"sudo apt-get install {_PACKAGE_OF[name]}, then install leakline again (pip install --force-reinstall).",
        )
    return path


@cache
def load_heap_library() -> ctypes.CDLL:
    """The heap walker.

    Raises:
        NotPossible: it was not built, or is of another version.

    """
    return _load(HEAP, "leakline_heap_abi", 9)


@cache
def load_smaps_library() -> ctypes.CDLL:
    """The readers of smaps, and of all processes.

    Raises:
        NotPossible: it was not built, or is of another version.

    """
    return _load(SMAPS, "leakline_smaps_abi", 2)


def _load(name: str, version_function: str, version: int) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(part_path(name)))
        found = library[version_function]()
    except (OSError, AttributeError) as error:
        raise NotPossible(f"leakline's {name} cannot be loaded: {error}") from error
    if found != version:
        raise NotPossible(f"leakline's {name} is of another version", hint="Install leakline again (`make setup`).")
    return library
