"""/proc/slabinfo (mm/slab_common.c): what the kernel's own object caches hold."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from leakline.errors import ParseError, PermissionNeeded
from leakline.model.names import readable
from leakline.sources.parsing import text

if TYPE_CHECKING:
    from leakline.sources.machine import Machine


class SlabCache(msgspec.Struct, frozen=True, gc=False):
    """One cache."""

    name: str
    objects: int
    """In use."""
    object_size: int
    """Bytes."""
    bytes: int
    """Of all its slabs."""


def parse_slabinfo(data: bytes, page_size: int) -> list[SlabCache]:
    """The caches, in the kernel's order.

    Args:
        data: the file, version 2.1.
        page_size: bytes.

    Raises:
        ParseError: it is of another version, or a line has another form.

    """
    head, _, rest = data.partition(b"\n")
    if not head.startswith(b"slabinfo - version: 2."):
        raise ParseError(f"slabinfo: {head[:80]!r}")
    found = []
    for line in rest.split(b"\n"):
        if not line or line.startswith(b"#"):
            continue
        try:
            name, *fields = line.split()
            used, size, pages, slabs = int(fields[0]), int(fields[2]), int(fields[4]), int(fields[13])
        except (ValueError, IndexError) as error:
            raise ParseError(f"slabinfo: {line[:80]!r}") from error
        found.append(SlabCache(readable(text(name)), used, size, slabs * pages * page_size))
    return found


def read_slabs(machine: Machine) -> list[SlabCache]:
    """The caches of a machine.

    Raises:
        PermissionNeeded: only root may read them.
        ParseError: the file has another form.

    """
    try:
        data = (machine.proc / "slabinfo").read_bytes()
    except OSError as error:
        raise PermissionNeeded("no permission to read slabinfo", hint="Run as root.") from error
    return parse_slabinfo(data, machine.page_size)


def read_aliases(machine: Machine) -> dict[str, tuple[str, ...]]:
    """For each cache the others that the kernel keeps in it (mm/slub.c, sysfs_slab_alias()); empty where that is not known.

    A cache of another's size and flags is merged into it, and its name is a link: UNIX sockets may count as `signal_cache`.
    """
    links: dict[str, str] = {}
    with suppress(OSError), os.scandir(machine.sys / "kernel/slab") as entries:
        for entry in entries:
            if entry.is_symlink():
                links[readable(entry.name)] = os.path.basename(os.readlink(entry.path))
    groups: dict[str, list[str]] = defaultdict(list)
    for name, target in sorted(links.items()):
        groups[target].append(name)
    return {name: tuple(other for other in groups[target] if other != name) for name, target in links.items()}


def net_object_size(machine: Machine, cache: str) -> int | None:
    """Bytes of a cache's object as its owner declared it, without what the allocator adds; None where that is not known."""
    if "/" in cache:
        return None
    with suppress(OSError, ValueError):
        return int((machine.sys / "kernel/slab" / cache / "object_size").read_bytes())
    return None


def is_reclaimable(machine: Machine, cache: str) -> bool:
    """Whether the kernel takes back what a cache holds when it needs memory: dentries, inodes. False where that is not known."""
    if "/" in cache:
        return False
    with suppress(OSError):
        return (machine.sys / "kernel/slab" / cache / "reclaim_account").read_bytes().strip() == b"1"
    return False
