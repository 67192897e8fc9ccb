"""page_owner (mm/page_owner.c, CONFIG_PAGE_OWNER and page_owner=on): the stack that allocated each page.

`page_owner_stacks/show_stacks` (Linux 6.9) sums by stack in the kernel and takes a fraction of a second; the full dump has a
record for each page, and takes a minute on a small machine.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from leakline.errors import ParseError
from leakline.model.kernel import AllocationSite
from leakline.sources.kernel_stacks import parse_call

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leakline.model.stack import Frame

COUNTER = "pages"
_PAGES = re.compile(rb"(nr_base_pages|stack_count): (\d{1,15})")
_PAGE = re.compile(rb"Page allocated via order (\d{1,2}), .*")


def parse_show_stacks(data: bytes, page_size: int) -> tuple[AllocationSite, ...]:
    """Stacks with what they hold.

    Linux 6.9 and 6.10 count allocations (`stack_count`), whatever their order: there the bytes are the least that it can be.

    Raises:
        ParseError: a stack has another form.

    """
    found: list[AllocationSite] = []
    stack: list[bytes] = []
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        total = _PAGES.fullmatch(line.strip())
        if total is not None:
            count = int(total[2])
            found.append(AllocationSite(stack=_joined(stack), counter=COUNTER, bytes=count * page_size, blocks=count))
            stack = []
            continue
        stack.append(line)
    # The file may end within a stack: it is read in pieces, and stacks come and go.
    return tuple(found)


def _joined(lines: list[bytes]) -> tuple[Frame, ...]:
    frames = []
    for line in lines:
        frame = parse_call(line)
        if frame is None:
            raise ParseError(f"page_owner: {line[:80]!r}")
        frames.append(frame)
    return tuple(frames)


def parse_page_owner(pieces: Iterable[bytes], page_size: int) -> tuple[AllocationSite, ...]:
    """The full dump, summed by stack; records of another form are left out.

    Args:
        pieces: the file as it comes, cut anywhere.
        page_size: bytes.

    """
    pages: Counter[bytes] = Counter()
    blocks: Counter[bytes] = Counter()
    rest = b""
    for piece in pieces:
        *records, rest = (rest + piece).split(b"\n\n")
        for record in records:
            _count(record, pages, blocks)
    _count(rest, pages, blocks)
    return tuple(
        AllocationSite(stack=_joined(calls.split(b"\n")), counter=COUNTER, bytes=count * page_size, blocks=blocks[calls])
        for calls, count in pages.items()
    )


def _count(record: bytes, pages: Counter[bytes], blocks: Counter[bytes]) -> None:
    lines = record.lstrip(b"\n").split(b"\n")
    head = _PAGE.fullmatch(lines[0])
    calls = [line for line in lines[1:] if line.startswith(b" ") and parse_call(line) is not None]
    if head is None or not calls:
        return
    stack = b"\n".join(calls)
    pages[stack] += 1 << int(head[1])
    blocks[stack] += 1
