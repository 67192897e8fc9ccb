"""Text of /sys/kernel/debug/kmemleak, of any Linux that has it (mm/kmemleak.c, print_unreferenced)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from leakline.errors import ParseError
from leakline.model.kmemleak import KernelCall, KmemleakText, UnreferencedObject
from leakline.model.names import readable

if TYPE_CHECKING:
    from collections.abc import Iterator

# With kmemleak.verbose the same lines go to the log, each with a time and a prefix.
_LOG_PREFIX = re.compile(rb"^(?:<\d>)?(?:\[ *\d+\.\d+\](?:\[[^\]\n]*\])? )?(?:kmemleak: )?", re.MULTILINE)
_HEAD = re.compile(rb"^unreferenced object(?: \((percpu|phys)\))? 0x([0-9a-f]{1,16}) \(size (\d{1,19})\):$", re.MULTILINE)
# A task's name is any 15 bytes (TASK_COMM_LEN), line ends and quotes among them.
_TASK = re.compile(rb'\n  comm "((?s:.{0,15}?))", pid (-?\d{1,10}), jiffies (\d{1,20})(?: \(age (\d{1,12})\.(\d{3})s\))?(?=\n|$)')
_BACKTRACE = re.compile(rb"\n  backtrace(?: \(crc [0-9a-f]{1,8}\))?:(?=\n|$)")
_CALL = re.compile(
    rb"(?:\[<([^>]*)>\] ?)?(?:0x([0-9a-f]{1,16})|([^\s+]+)(?:\+0x([0-9a-f]{1,16})/0x([0-9a-f]{1,16}))?)(?: \[([^\]]+)\])?"
)
_TYPES: dict[bytes | None, Literal["virtual", "physical", "percpu"]] = {None: "virtual", b"phys": "physical", b"percpu": "percpu"}


def looks_like_kmemleak(data: bytes) -> bool:
    """Whether a file holds objects that kmemleak reports."""
    return _HEAD.search(_LOG_PREFIX.sub(b"", data)) is not None


def parse_kmemleak(data: bytes, name: str = "kmemleak") -> KmemleakText:
    """All objects in the text; none in an empty one. Lines of the kernel's log around them are no matter.

    Raises:
        ParseError: there is text, but no object that can be read.

    """
    plain = _LOG_PREFIX.sub(b"", data)
    heads = list(_HEAD.finditer(plain))
    objects, problems = [], []
    for head, end in zip(heads, [*(head.start() for head in heads), len(plain)][1:], strict=True):
        try:
            objects.append(_object(head, plain[head.end() : end], name))
        except ParseError as error:
            problems.append(error.message)
    if not objects and plain.strip():
        why = problems[0] if problems else f"{name} holds no unreferenced objects"
        raise ParseError(why, hint="kmemleak's text is in /sys/kernel/debug/kmemleak.")
    return KmemleakText(objects=tuple(objects), problems=tuple(problems))


def _object(head: re.Match[bytes], body: bytes, name: str) -> UnreferencedObject:
    what = f"{name}: the object at 0x{head[2].decode()}"
    task = _TASK.match(body)
    if task is None:
        raise ParseError(f"{what} is cut short: it names no task")
    backtrace = _BACKTRACE.search(body, task.end())
    if backtrace is None:
        raise ParseError(f"{what} is cut short: it has no backtrace")
    return UnreferencedObject(
        address=int(head[2], 16),
        type=_TYPES[head[1]],
        size=int(head[3]),
        comm=readable(task[1].decode("utf-8", "surrogateescape")),
        pid=int(task[2]),
        jiffies=int(task[3]),
        age_seconds=None if task[4] is None else int(task[4]) + int(task[5]) / 1000,
        backtrace=tuple(_calls(body[backtrace.end() :])),
    )


def _calls(lines: bytes) -> Iterator[KernelCall]:
    for line in lines.split(b"\n")[1:]:
        match = _CALL.fullmatch(line.strip()) if line.startswith(b"    ") else None
        if match is None:
            return
        hashed, bare, function, offset, size, module = match.groups()
        address = bare or (hashed if hashed is not None and re.fullmatch(rb"(?:0x)?[0-9a-f]{1,16}", hashed) else None)
        yield KernelCall(
            function=None if function is None else _text(function),
            offset=None if offset is None else int(offset, 16),
            size=None if size is None else int(size, 16),
            module=None if module is None else _text(module.split(b" ")[0]),
            # %p prints a hash since 4.15, on 64-bit machines with an upper half of zero.
            address=None if address is None or address.startswith(b"00000000") else int(address, 16),
        )


def _text(name: bytes) -> str:
    return readable(name.decode("utf-8", "surrogateescape"))
