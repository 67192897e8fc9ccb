"""Names as the programmer wrote them: binutils' c++filt, for C++, Rust, D and Ada."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

_MANGLED = ("_Z", "_R", "_D")


def demangle(names: Iterable[str]) -> dict[str, str]:
    """The readable form of each mangled name; names of other kinds, and all where c++filt is missing, stay as they are."""
    mangled = sorted({name for name in names if name.startswith(_MANGLED) and "\n" not in name})
    if not mangled:
        return {}
    try:
        done = subprocess.run(
            ["c++filt"], input="\n".join(mangled), capture_output=True, text=True, timeout=30, check=False, errors="replace"
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return {}
    answers = done.stdout.split("\n")[: len(mangled)]
    return dict(zip(mangled, answers, strict=True)) if len(answers) == len(mangled) else {}
