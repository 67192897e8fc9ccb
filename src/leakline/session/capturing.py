"""A machine's files in an archive, for --root on another machine."""

from __future__ import annotations

import io
import os
import tarfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from leakline.errors import InvalidRequest
from leakline.session.machine_memory import SHMEM_FILES
from leakline.sources.capture import Capture
from leakline.sources.captured import DESCRIPTION, SnapshotDescription
from leakline.sources.machine import Machine
from leakline.sources.shmem_files import read_shmem_files

if TYPE_CHECKING:
    from pathlib import Path

_COMPRESSIONS: dict[str, Any] = {".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz", ".txz": "w:xz", ".bz2": "w:bz2"}


def write_snapshot(path: Path) -> tuple[int, int]:
    """Write this machine's files; the ending of the name tells the compression.

    Returns:
        How many files there are in it, and how many could not be read.

    Raises:
        InvalidRequest: it cannot be written.

    """
    machine = Machine()
    path = path.resolve()  # the file behind a link, not the link
    if path.exists() and not path.is_file():
        raise InvalidRequest(f"{path} is no regular file", hint="Choose another name; the archive appears when it is complete.")
    # A capture that was cut off must not look like one.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # What only root may read of others' processes is for nobody else to read here.
        private = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(private, "wb") as file, tarfile.open(fileobj=file, mode=_COMPRESSIONS.get(path.suffix, "w")) as archive:
            capture, count, users = Capture(), 0, set()
            taken = time.time()
            for name, data in capture.files():
                if name.count("/") == 2 and name.endswith("/status"):
                    users |= {int(uid) for uid in _uids(data)}
                _add(archive, name, data, taken)
                count += 1
            description = SnapshotDescription(
                taken=taken,
                page_size=machine.page_size,
                ticks_per_second=machine.ticks_per_second,
                users={uid: machine.user(uid) for uid in sorted(users)},
                unreadable=capture.unreadable,
            )
            _add(archive, SHMEM_FILES, msgspec.json.encode(read_shmem_files(machine.proc)), taken)
            _add(archive, DESCRIPTION, msgspec.json.encode(description), taken)
        os.replace(unfinished, path)
    except OSError as error:
        raise InvalidRequest(f"cannot write {path}: {error.strerror}", hint="Choose another file.") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return count, capture.unreadable


def _uids(status: bytes) -> list[bytes]:
    line = next((line for line in status.splitlines() if line.startswith(b"Uid:")), b"")
    return [word for word in line.split()[1:2] if word.isdigit()]


def _add(archive: tarfile.TarFile, name: str, data: bytes, taken: float) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(data), int(taken), 0o644
    archive.addfile(entry, io.BytesIO(data))
