"""Stacks as the kernel prints them: `function+0x25/0x40 [module]` (lib/vsprintf.c, %pS)."""

from __future__ import annotations

import re

from leakline.model.names import readable
from leakline.model.stack import Frame
from leakline.sources.parsing import text

_CALL = re.compile(rb"(?:([^\s+]+)\+0x([0-9a-f]{1,16})/0x[0-9a-f]{1,16}|0x([0-9a-f]{1,16}))(?: \[([^\]\s]+)[^\]]*\])?")


def parse_call(line: bytes) -> Frame | None:
    """One call; None where the line is something else."""
    match = _CALL.fullmatch(line.strip())
    if match is None:
        return None
    function, offset, address, module = match.groups()
    return Frame(
        function=None if function is None else readable(text(function)),
        file=None,
        line=None,
        module="vmlinux" if module is None else readable(text(module)),
        address=None if address is None else int(address, 16),
        offset=None if offset is None else int(offset, 16),
    )
