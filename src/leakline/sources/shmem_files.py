"""Files in memory, who maps them, and who else keeps them there.

No process's RSS shows a memfd or a file of tmpfs that nobody maps. What a file holds is its st_blocks, in memory or in swap.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from leakline.model.names import readable
from leakline.model.system import ShmemFile
from leakline.sources.maps import parse_maps
from leakline.sources.parsing import read_whole, text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Literal

    Kind = Literal["memfd", "tmpfs", "deleted", "sysv", "anonymous"]

_DELETED = " (deleted)"
_Key = tuple[int, int]


class _File:
    """What is known of one file so far."""

    def __init__(self, name: str, size: int, linked: bool) -> None:
        self.name, self.bytes, self.linked = name, size, linked
        self.mappers: set[int] = set()
        self.holders: list[str] = []


class _Files:
    """Files on the kernel's own shmem mount and on tmpfs, by device and inode."""

    def __init__(self, proc: Path) -> None:
        self._proc = os.fspath(proc)
        self._devices = {kernels_own(), *tmpfs_devices(proc)}
        self.found: dict[_Key, _File] = {}

    def meet(self, name: str, status: os.stat_result) -> _File | None:
        """The file, if it is one in memory."""
        if status.st_dev not in self._devices or not stat.S_ISREG(status.st_mode) or not status.st_blocks:
            return None
        return self.found.setdefault((status.st_dev, status.st_ino), _File(name, status.st_blocks * 512, status.st_nlink > 0))

    def of_process(self, pid: int) -> None:
        """Its open files, and its mappings."""
        folder = f"{self._proc}/{pid}"
        with suppress(OSError):
            for number in os.listdir(f"{folder}/fd"):
                with suppress(OSError):
                    file = self.meet(os.readlink(f"{folder}/fd/{number}"), os.stat(f"{folder}/fd/{number}"))
                    if file is not None:
                        file.holders.append(f"{pid}/fd/{number}")
        with suppress(OSError):
            for vma in parse_maps(read_whole(f"{folder}/maps")):
                if vma.inode == 0 or os.makedev(*vma.device) not in self._devices:
                    continue
                file = self.found.get((os.makedev(*vma.device), vma.inode))
                if file is None:
                    with suppress(OSError):
                        file = self.meet(vma.path or "", os.stat(f"{folder}/map_files/{vma.start:x}-{vma.end:x}"))
                if file is not None:
                    file.mappers.add(pid)

    def of_mount(self, mount: str, device: int) -> None:
        """The files that have a name there."""
        for folder, folders, files in os.walk(mount):
            folders[:] = [name for name in folders if _device(os.path.join(folder, name)) == device]
            for name in files:
                path = os.path.join(folder, name)
                with suppress(OSError):
                    self.meet(path, os.lstat(path))


def read_shmem_files(proc: Path) -> list[ShmemFile]:
    """Every file in memory that this process may see, of the live machine."""
    files = _Files(proc)
    for mount, device in _tmpfs_mounts(proc):
        files.of_mount(mount, device)
    for name in os.listdir(proc):
        if name.isdigit():
            files.of_process(int(name))
    rows = [
        ShmemFile(
            bytes=file.bytes,
            kind=_kind(file),
            name=readable(file.name.removesuffix(_DELETED)) or "?",
            mapped_by=tuple(sorted(file.mappers)),
            held_by=(*file.holders, *(["its name"] if file.linked and _kind(file) == "tmpfs" else [])),
        )
        for file in files.found.values()
    ]
    return [*rows, *_unattached(proc)]


def parse_sysv(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Id, bytes in memory or swap, creator, attachments of each line of /proc/sysvipc/shm (ipc/shm.c)."""
    for line in data.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 16 and all(field.lstrip(b"-").isdigit() for field in fields[:16]):
            yield int(fields[1]), int(fields[14]) + int(fields[15]), int(fields[4]), int(fields[6])


def _unattached(proc: Path) -> Iterator[ShmemFile]:
    """System V segments that nobody has attached: they outlive their creators."""
    with suppress(OSError):
        for number, size, creator, attached in parse_sysv(read_whole(f"{proc}/sysvipc/shm")):
            if size and not attached:
                held = f"created by {creator}; removed by ipcrm -m {number}"
                yield ShmemFile(bytes=size, kind="sysv", name=f"shmid {number}", mapped_by=(), held_by=(held,))


def _kind(file: _File) -> Kind:
    if file.name.startswith("/memfd:"):
        return "memfd"
    if file.name.startswith("/SYSV"):
        return "sysv"
    if file.name.startswith("/dev/zero"):
        return "anonymous"
    return "tmpfs" if file.linked else "deleted"


def kernels_own() -> int:
    """The device of the mount behind memfds, System V and shared anonymous memory."""
    file = os.memfd_create("leakline", os.MFD_CLOEXEC)
    try:
        return os.fstat(file).st_dev
    finally:
        os.close(file)


def _tmpfs_mounts(proc: Path) -> Iterator[tuple[str, int]]:
    seen = set()
    for line in read_whole(f"{proc}/self/mountinfo").splitlines():
        before, _, after = line.partition(b" - ")
        fields = before.split()
        if len(fields) > 4 and after.split()[:1] in ([b"tmpfs"], [b"devtmpfs"]):
            mount = text(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 255]), fields[4]))
            device = _device(mount)
            if device is not None and device not in seen:
                seen.add(device)
                yield mount, device


def tmpfs_devices(proc: Path) -> set[int]:
    """The devices of the tmpfs that are mounted here."""
    return {device for _, device in _tmpfs_mounts(proc)}


def _device(path: str) -> int | None:
    with suppress(OSError):
        return os.lstat(path).st_dev
    return None
