"""A name for a leak that stays the same from run to run, from build to build and from checker to checker.

It is made of the functions between the one that asked for the memory and main: no addresses, lines, paths, modules or pids, no
compiler's suffixes, no parameters and template arguments, which demanglers write in different ways.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from leakline.analysis.locating import is_system_frame
from leakline.model.function_names import plain_name, without_suffix
from leakline.model.stack import Frame

_DEPTH = 8
# What lies outside main and a thread's function: each checker shows more or less of it.
_OUTSIDE = re.compile(
    r"(?:_start|\(below main\)|__libc_start_main(?:_impl)?|__libc_start_call_main|_?_?clone3?|start_thread|asan_thread_start|"
    r"__lsan_thread_start_func|__asan::AsanThread::ThreadStart|_dl_start_user)"
)
_OUTSIDE_MODULE = re.compile(r"(?:libc|libpthread|libc-2|libpthread-2|ld-linux[a-z0-9-]*|libasan|liblsan)[-.\d]*\.so\b.*")


def fingerprint(kind: str, stack: Sequence[Frame], size: int | None, content: str | None) -> str:
    """Sixteen hexadecimal digits of what identifies a leak.

    Args:
        kind: what sort of finding.
        stack: its frames, innermost first; where there are none, the blocks' form stands in.
        size: of a block, if all have the same.
        content: the symbol that the blocks begin with.

    """
    parts = [kind, *_names(stack)] if stack else [kind, str(size), content or ""]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _names(stack: Sequence[Frame]) -> list[str]:
    # Libraries' frames, between the program's own too, are told in many ways, and by no two checkers in the same.
    frames = [frame for frame in stack if not is_system_frame(frame)] or list(stack)
    while len(frames) > 1 and _is_outside(frames[-1]):
        frames.pop()
    names = [_called(frame) for frame in frames]
    # A lambda is `main::{lambda()#1}::operator()` here and `main::$_0::operator()` there, and gone where it is inlined.
    names = [name for name in names if name and name.rpartition("::")[2] != "operator_call"] or list(map(_place, frames))
    if "main" in names:
        del names[names.index("main") + 1 :]
    return names[:_DEPTH]


def _called(frame: Frame) -> str:
    if frame.function:
        return plain_name(frame.function)
    if frame.file is not None:  # an inlined function whose name the debug information does not tell
        return ""
    return _place(frame)


def _place(frame: Frame) -> str:
    return f"{frame.module}+{'' if frame.address is None else hex(frame.address)}"


def _is_outside(frame: Frame) -> bool:
    if frame.function is not None:
        return _OUTSIDE.fullmatch(without_suffix(frame.function)) is not None
    return frame.module is not None and _OUTSIDE_MODULE.fullmatch(frame.module) is not None
