"""What control groups are charged: v1 (memory controller's own hierarchy) and v2, whichever has the memory controller.

Sources: Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from leakline.errors import NotPossible, ParseError
from leakline.model.names import readable
from leakline.model.system import CgroupMemory
from leakline.sources.parsing import text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from leakline.sources.machine import Machine

_MOST_DIGITS = 24
_NO_LIMIT = 1 << 62  # v1 answers a little less than 2^63 for "none"


def parse_numbers(data: bytes, what: str) -> dict[str, int]:
    """`name 123` lines, as in memory.stat and memory.events.

    Raises:
        ParseError: a line has another form.

    """
    found = {}
    for line in data.splitlines():
        name, _, value = line.partition(b" ")
        if not value.isdigit() or len(value) > _MOST_DIGITS:
            raise ParseError(f"{what}: {line[:80]!r}")
        found[text(name)] = int(value)
    return found


def memory_hierarchy(machine: Machine) -> tuple[Path, int]:
    """The folder of the root group that has the memory controller, and its version.

    Raises:
        NotPossible: there is none here.

    """
    base = machine.sys / "fs/cgroup"
    folders = [*_mounts(machine), base, base / "memory", base / "unified"]
    for folder in folders:
        if (folder / "memory.usage_in_bytes").is_file():
            return folder, 1
        with suppress(OSError):
            if b"memory" in (folder / "cgroup.controllers").read_bytes().split():
                return folder, 2
    raise NotPossible("no control group hierarchy with the memory controller is mounted")


def _mounts(machine: Machine) -> Iterator[Path]:
    with suppress(OSError):
        for line in (machine.proc / "self/mountinfo").read_bytes().splitlines():
            before, _, after = line.partition(b" - ")
            fields, kind = before.split(), after.split()
            if len(fields) > 4 and kind and kind[0] in (b"cgroup", b"cgroup2") and fields[4].startswith(b"/sys/"):
                yield machine.sys / os.fsdecode(fields[4][len(b"/sys/") :])


def memory_limit(machine: Machine, group: str | None) -> int | None:
    """The lowest limit of a group and those above it; None for none.

    Raises:
        NotPossible: there is no hierarchy with the memory controller.

    """
    root, version = memory_hierarchy(machine)
    name = "memory.limit_in_bytes" if version == 1 else "memory.max"
    folder = os.fsencode(root)
    limits = []
    for part in ["", *(group or "").strip("/").split("/")]:
        folder = os.path.join(folder, os.fsencode(part)) if part and part != ".." else folder
        limit = _amount(folder, name)
        if limit is not None and limit < _NO_LIMIT:
            limits.append(limit)
    return min(limits, default=None)


def read_cgroups(machine: Machine, processes: Mapping[str, int]) -> list[CgroupMemory]:
    """All groups.

    Args:
        machine: whose.
        processes: group -> number of processes right in it.

    Raises:
        NotPossible: there is no hierarchy with the memory controller.

    """
    root, version = memory_hierarchy(machine)
    found = []
    for folder, _, files in os.walk(os.fsencode(root)):
        if version == 2 and b"memory.current" not in files and folder != os.fsencode(root):
            continue  # the controller is not enabled for it
        path = "/" + readable(text(os.path.relpath(folder, os.fsencode(root)))).removeprefix(".")
        count = _below(path, processes)
        with suppress(FileNotFoundError):  # it was removed meanwhile
            row = (_version1 if version == 1 else _version2)(folder, path, count)
            if row is not None:
                found.append(row)
    return found


def _below(path: str, amounts: Mapping[str, int]) -> int:
    inside = path.rstrip("/") + "/"
    return sum(amount for group, amount in amounts.items() if group == path or group.startswith(inside))


def _read(folder: bytes, name: str) -> bytes | None:
    try:
        with open(os.path.join(folder, name.encode()), "rb") as file:
            return file.read()
    except OSError:
        return None


def _amount(folder: bytes, name: str) -> int | None:
    data = _read(folder, name)
    return int(data) if data is not None and data.strip().isdigit() and len(data) <= _MOST_DIGITS else None


def _version1(folder: bytes, path: str, processes: int) -> CgroupMemory | None:
    usage = _amount(folder, "memory.usage_in_bytes")
    if usage is None:
        return None
    stat = parse_numbers(_read(folder, "memory.stat") or b"", "memory.stat")
    limit = _amount(folder, "memory.limit_in_bytes")
    anon, file, mapped = stat.get("total_rss"), stat.get("total_cache"), stat.get("total_mapped_file")
    kernel = _amount(folder, "memory.kmem.usage_in_bytes")
    events = parse_numbers(_read(folder, "memory.oom_control") or b"", "memory.oom_control")
    return CgroupMemory(
        path=path,
        version=1,
        usage=usage,
        limit=None if limit is None or limit >= _NO_LIMIT else limit,
        swap=stat.get("total_swap"),
        anon=anon,
        file=file,
        shmem=stat.get("total_shmem"),
        kernel=kernel,
        unmapped=None if file is None or mapped is None else max(0, file - mapped),
        unexplained=_rest(usage, anon, file, kernel),
        high_events=None,
        max_events=_amount(folder, "memory.failcnt"),
        oom_kills=events.get("oom_kill"),
        processes=processes,
    )


def _rest(usage: int, *parts: int | None) -> int | None:
    known = [part for part in parts if part is not None]
    return max(0, usage - sum(known)) if len(known) == len(parts) else None


def _version2(folder: bytes, path: str, processes: int) -> CgroupMemory | None:
    stat = parse_numbers(_read(folder, "memory.stat") or b"", "memory.stat")
    usage = _amount(folder, "memory.current")
    if usage is None:  # the root group has no memory.current
        if not stat:
            return None
        usage = sum(stat.get(name, 0) for name in ("anon", "file", "kernel", "sock"))
    events = parse_numbers(_read(folder, "memory.events") or b"", "memory.events")
    anon, file, mapped = stat.get("anon"), stat.get("file"), stat.get("file_mapped")
    kernel = stat.get("kernel", None if "slab" not in stat else sum(stat.get(n, 0) for n in _KERNEL))
    return CgroupMemory(
        path=path,
        version=2,
        usage=usage,
        limit=_amount(folder, "memory.max"),
        swap=_amount(folder, "memory.swap.current"),
        anon=anon,
        file=file,
        shmem=stat.get("shmem"),
        kernel=kernel,
        unmapped=None if file is None or mapped is None else max(0, file - mapped),
        unexplained=_rest(usage, anon, file, kernel),
        high_events=events.get("high"),
        max_events=events.get("max"),
        oom_kills=events.get("oom_kill"),
        processes=processes,
    )


_KERNEL = ("slab", "kernel_stack", "pagetables", "percpu", "vmalloc")  # their sum has a name of its own since Linux 5.18
