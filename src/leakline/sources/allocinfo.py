"""/proc/allocinfo (mm/alloc_tag.c, Linux 6.10 with CONFIG_MEM_ALLOC_PROFILING): every place in the kernel that holds memory."""

from __future__ import annotations

import re

from leakline.errors import ParseError
from leakline.model.kernel import AllocationSite
from leakline.model.names import readable
from leakline.model.stack import Frame
from leakline.sources.parsing import text

# `<bytes> <calls> <file>:<line> [module] func:<name>`; later kernels add words, as `accurate:no`.
_LINE = re.compile(rb" *(\d{1,19}) +(\d{1,19}) (\S+):(\d{1,9})(?: \[(\S+)\])? func:(\S+)(?: .*)?")


def parse_allocinfo(data: bytes) -> tuple[AllocationSite, ...]:
    """The places that hold something.

    Raises:
        ParseError: it is of another version, or a line has another form.

    """
    lines = data.split(b"\n")
    if not lines[0].startswith(b"allocinfo - version: "):
        raise ParseError(f"allocinfo: {lines[0][:80]!r}")
    found = []
    for line in lines[1:]:
        if not line or line.startswith((b"#", b"           0        0 ")):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ParseError(f"allocinfo: {line[:80]!r}")
        size, calls, file, number, module, function = match.groups()
        if size == b"0" and calls == b"0":
            continue
        frame = Frame(
            function=readable(text(function)),
            file=readable(text(file)),
            line=int(number),
            module=None if module is None else readable(text(module)),
            address=None,
        )
        found.append(AllocationSite(stack=(frame,), counter="allocinfo", bytes=int(size), blocks=int(calls)))
    return tuple(found)
