"""/proc/buddyinfo and /proc/pagetypeinfo (mm/vmstat.c): free memory by the size of its blocks."""

from __future__ import annotations

import re

from leakline.errors import ParseError
from leakline.model.kernel import FreeArea, MovableBlocks
from leakline.model.names import readable
from leakline.sources.parsing import text

_MOST_ORDERS = 32
_BUDDY = re.compile(rb"Node +(\d{1,9}), zone +(\S+)((?: +\d{1,18})+) *")
_FREE = re.compile(rb"Node +(\d{1,9}), zone +(\S+), type +(\S+)((?: +>?\d{1,18})+) *")
_HEAD = re.compile(rb"Number of blocks type((?: +\S+)+) *")
_COUNTS = re.compile(rb"Node +(\d{1,9}), zone +(\S+)((?: +\d{1,18})+) *")


def parse_buddyinfo(data: bytes, page_size: int) -> tuple[FreeArea, ...]:
    """The zones, with free blocks by order and how much of what is free is in blocks too small for an order.

    Raises:
        ParseError: a line has another form.

    """
    found = []
    for line in data.splitlines():
        match = _BUDDY.fullmatch(line)
        blocks = () if match is None else tuple(map(int, match[3].split()))
        if match is None or len(blocks) > _MOST_ORDERS:
            raise ParseError(f"buddyinfo: {line[:80]!r}")
        found.append(
            FreeArea(
                node=int(match[1]),
                zone=readable(text(match[2])),
                free=_pages(blocks) * page_size,
                blocks=blocks,
                unusable=unusable_shares(blocks),
            )
        )
    return tuple(found)


def unusable_shares(blocks: tuple[int, ...]) -> tuple[int, ...]:
    """For each order the share of the free pages, in percent, that lies in smaller blocks.

    It is what the kernel calls the unusable free space index (mm/vmstat.c, unusable_free_index()): 0 where all free memory could
    serve a request of that order, 100 where none could.
    """
    total, smaller, shares = _pages(blocks), 0, []
    for order, count in enumerate(blocks):
        shares.append(round(100 * smaller / total) if total else 0)
        smaller += count << order
    return tuple(shares)


def _pages(blocks: tuple[int, ...]) -> int:
    return sum(count << order for order, count in enumerate(blocks))


def parse_pagetypeinfo(data: bytes, page_size: int) -> tuple[MovableBlocks, ...]:
    """Free blocks and page blocks by zone and kind.

    Raises:
        ParseError: it holds nothing of that form, or a line of another one.

    """
    free: dict[tuple[int, bytes, bytes], tuple[int, ...]] = {}
    counts: dict[tuple[int, bytes, bytes], int] = {}
    kinds: list[bytes] | None = None
    for line in data.splitlines():
        if (match := _FREE.fullmatch(line)) is not None:
            # `>100000`: the kernel stops counting there since 5.5, to hold the zone's lock for less long.
            free[int(match[1]), match[2], match[3]] = tuple(int(count.lstrip(b">")) for count in match[4].split())[:_MOST_ORDERS]
        elif line.startswith(b"Number of "):
            head = _HEAD.fullmatch(line)
            kinds = head[1].split() if head is not None else None  # `Number of mixed blocks` is of CONFIG_PAGE_OWNER
        elif kinds is not None and (match := _COUNTS.fullmatch(line)) is not None:
            values = [int(value) for value in match[3].split()]
            if len(values) != len(kinds):
                raise ParseError(f"pagetypeinfo: {line[:80]!r}")
            counts |= {(int(match[1]), match[2], kind): value for kind, value in zip(kinds, values, strict=True)}
    if not free:
        raise ParseError("pagetypeinfo: no free pages by type")
    return tuple(
        MovableBlocks(
            node=node,
            zone=readable(text(zone)),
            kind=readable(text(kind)),
            free=_pages(blocks) * page_size,
            free_blocks=blocks,
            page_blocks=counts.get((node, zone, kind)),
        )
        for (node, zone, kind), blocks in free.items()
    )
