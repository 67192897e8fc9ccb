"""A machine that was captured into a folder or an archive."""

from __future__ import annotations

import gzip
import lzma
import os
import tarfile
import zlib
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING

import msgspec

from leakline.errors import InvalidRequest, NotPossible, ParseError
from leakline.model.names import readable
from leakline.sources.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIPTION = "leakline-snapshot.json"
_LARGEST = 8 << 30
_MOST_FILES = 2_000_000


class SnapshotDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What a capture says of itself, in DESCRIPTION: what its files alone do not tell."""

    schema: str = "leakline.snapshot/1"
    taken: float
    """Seconds since 1970."""
    page_size: int
    ticks_per_second: int
    users: dict[int, str]
    """Names of the users that have processes."""
    unreadable: int
    """Files that could not be read when it was taken."""


@contextmanager
def opened(root: Path) -> Iterator[Machine]:
    """The machine captured in a folder or archive with proc/ and sys/ in it (smemcap's archives too).

    Raises:
        InvalidRequest: there is no such file or folder, or it holds no proc/.
        ParseError: the archive is damaged, or not harmless.

    """
    if root.is_dir():
        yield _captured(root)
    else:
        with TemporaryDirectory(prefix="leakline-") as folder:
            _extract(root, Path(folder))
            yield _captured(Path(folder))


def _captured(folder: Path) -> Machine:
    proc = folder / "proc"
    if not proc.is_dir():
        proc = folder  # as smemcap(8) leaves it
    if not (proc / "meminfo").is_file():
        raise InvalidRequest(f"{folder} holds no proc/meminfo", hint="Give a folder or an archive made by `leakline snapshot`.")
    try:
        known = msgspec.json.decode((folder / DESCRIPTION).read_bytes(), type=SnapshotDescription)
    except FileNotFoundError:
        return Machine(proc, folder / "sys", folder / "boot", live=False, page_size=_page_size(proc))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ParseError(f"{DESCRIPTION}: {error}") from error
    if known.page_size <= 0 or known.ticks_per_second <= 0:
        raise ParseError(f"{DESCRIPTION}: a size that is not positive")
    users = {uid: readable(name) for uid, name in known.users.items()}
    return Machine(proc, folder / "sys", folder / "boot", False, known.page_size, known.ticks_per_second, users)


def _page_size(proc: Path) -> int:
    """KernelPageSize of the first mapping that tells it, else ours."""
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        try:
            with open(proc / name / "smaps", "rb") as file:
                head = file.read(4096)
        except OSError:
            continue
        _, found, rest = head.partition(b"\nKernelPageSize:")
        words = rest.split(maxsplit=1)
        if found and words and words[0].isdigit() and int(words[0]):
            return int(words[0]) << 10
    return os.sysconf("SC_PAGE_SIZE")


def _extract(path: Path, folder: Path) -> None:
    """Regular files only, each below the folder, none over another."""
    try:
        with tarfile.open(path, "r:*") as archive:
            total = count = 0
            for member in archive:
                if not member.isfile():
                    continue
                total, count = total + member.size, count + 1
                if total > _LARGEST or count > _MOST_FILES:
                    raise ParseError(
                        f"{path}: more than {_LARGEST >> 30} GiB or {_MOST_FILES:,} files",
                        hint="That is no capture of one machine.",
                    )
                parts = PurePosixPath(member.name).parts
                if not parts or parts[0] == "/" or ".." in parts:
                    raise ParseError(f"{path}: {readable(member.name)!r} would leave the folder", hint="Do not trust this archive.")
                data = archive.extractfile(member)
                if data is not None:
                    _write(folder.joinpath(*parts), data)
    except _DAMAGED as error:
        raise ParseError(f"{path}: {error}", hint="It is no tar archive, or a damaged one.") from error
    except FileNotFoundError as error:
        raise InvalidRequest(f"there is no {path}", hint="Give a folder or an archive made by `leakline snapshot`.") from error
    except OSError as error:
        raise NotPossible(
            f"cannot unpack {path}: {error.strerror or error}", hint="Is there room in the temporary folder?"
        ) from error


_DAMAGED = (
    *(tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, ValueError),
    *(FileExistsError, NotADirectoryError, IsADirectoryError),
)


def _write(target: Path, data: IO[bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        while part := data.read(1 << 20):
            file.write(part)
