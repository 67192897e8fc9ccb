"""/sys/kernel/debug/slab/CACHE/alloc_traces and free_traces (mm/slub.c, slub_debug=U): who allocated the objects of a cache."""

from __future__ import annotations

import re

from leakline.errors import ParseError
from leakline.model.kernel import AllocationSite
from leakline.sources.kernel_stacks import parse_call

# `  1750 leak_one_kmalloc+0x4d/0xa0 [leakdrv] waste=10240/40 age=49/358/668 pid=1 cpus=0-1`, and below it the stack.
_HEAD = re.compile(rb" {0,6}(\d{1,15}) (\S+(?: \[[^\]]*\])?)((?: (?:waste|age|pid|cpus|nodes)=\S*)*) *")


def parse_slab_traces(data: bytes, cache: str, object_size: int) -> tuple[AllocationSite, ...]:
    """The allocating (or freeing) stacks of the objects of a cache; objects without one are left out.

    Args:
        data: the file.
        cache: its name, for the counter.
        object_size: bytes of each object.

    Raises:
        ParseError: a line has another form.

    """
    if data.strip() == b"No data":
        return ()
    found = []
    for block in data.split(b"\n\n"):
        lines = [line for line in block.split(b"\n") if line.strip()]
        # Objects whose stack was not kept are lines of their own, above the first stack: <not-available>.
        while lines and not lines[0].startswith(b"        "):
            head = _HEAD.fullmatch(lines.pop(0))
            if head is None:
                raise ParseError(f"{cache}: a trace of another form")
            calls = []
            while lines and lines[0].startswith(b"        "):
                calls.append(lines.pop(0))
            frames = [frame for call in (calls or [head[2]]) if (frame := parse_call(call)) is not None]
            count = int(head[1])
            if frames:
                found.append(AllocationSite(tuple(frames), f"slab:{cache}", count * object_size, count))
        if lines:
            raise ParseError(f"{cache}: a trace of another form")
    return tuple(found)
