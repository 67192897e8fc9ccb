"""Scans in files: images of processes to be searched, and reports to compare with."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from leakline.errors import InvalidRequest, ParseError
from leakline.model.finding import Report, Target
from leakline.model.heap import Census, HeapScan
from leakline.model.memory import MemoryUsage
from leakline.model.names import readable
from leakline.model.vma import VmaUsage
from leakline.session.searching import Details, search
from leakline.sources import core_image
from leakline.symbols.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from leakline.model.vma import Vma
    from leakline.sources.core_image import StoredImage
    from leakline.sources.heap_image import HeapImage

_HINT = "`leakline scan PID --json -o FILE` and `scan PID --save FILE` write such files."


class EarlierCensus(msgspec.Struct, frozen=True, kw_only=True):
    """The blocks of an earlier scan."""

    target: Target | None
    census: Census

    def seconds_before(self, target: Target, later: Census) -> float | None:
        """Between the two; None if they are of different processes."""
        if self.target is None or self.target.pid != target.pid:
            return None
        try:
            apart = datetime.fromisoformat(later.taken) - datetime.fromisoformat(self.census.taken)
        except (ValueError, TypeError):
            return None
        return max(apart.total_seconds(), 0.0) or None


def load_earlier(path: Path) -> EarlierCensus:
    """What `scan --json` printed, or an image.

    Raises:
        InvalidRequest: it cannot be read, or counts no blocks.
        ParseError: it is neither.

    """
    name = readable(str(path))
    try:
        data = path.read_bytes() if path.open("rb").read(4) != b"\x7fELF" else None
    except OSError as error:
        raise InvalidRequest(f"cannot read {name}: {error.strerror}", hint=_HINT) from error
    if data is None:
        stored = core_image.open_image(path)
        census = search_file(stored, Details(census=True), 0).census
        target: Target | None = stored.target
    else:
        try:
            report = msgspec.json.decode(data, type=Report)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ParseError(f"{name} is not what `scan --json` prints: {error}", hint=_HINT) from error
        census, target = report.census, report.target
    if census is None:
        raise InvalidRequest(f"{name} does not count all blocks", hint=_HINT)
    return EarlierCensus(target=target, census=census)


def search_file(stored: StoredImage, details: Details, began_ns: int) -> HeapScan:
    """Search an image from a file.

    Raises:
        NotPossible: its heap was not found.

    """
    return search(stored.image, Resolver(stored.image.vmas, stored.file_of, b""), began_ns, details)


def save_image(path: Path, image: HeapImage, target: Target, auxiliary: bytes, open_as: Callable[[Vma], bytes | None]) -> None:
    """Write an image, for its owner's eyes only: it holds all that the process has in memory.

    Raises:
        InvalidRequest: it cannot be written.

    """
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            core_image.save_image(file, image, target, auxiliary, open_as)
    except OSError as error:
        raise InvalidRequest(
            f"cannot write {readable(str(path))}: {error.strerror}", hint=f"It takes {image.copy.size >> 20} MiB."
        ) from error


def held_by_mapping(image: HeapImage) -> list[VmaUsage]:
    """What each mapping holds in the image: pages that the program wrote."""
    found = []
    for vma in image.vmas:
        size = sum(end - start for start, end in image.copy.pieces(vma.start, vma.end))
        usage = MemoryUsage(size, size, 0, 0, 0, size, 0 if vma.is_file else size, None, 0, None)
        found.append(VmaUsage(vma, usage))
    return found
