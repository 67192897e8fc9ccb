"""Where a module's debug information lies (gdb's manual, "Debugging Information in Separate Files")."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from leakline.errors import ParseError
from leakline.formats.elf import DebugLink, Elf

DEBUG_ROOT = Path("/usr/lib/debug")


def find_debug_file(path: bytes, elf: Elf, *, real_path: bytes, roots: tuple[bytes, ...] = (b"",)) -> bytes | None:
    """The file with the lines of a module: itself, the one of its build-id, or the one that its debuglink names; or None.

    Args:
        path: by which the module can be opened.
        elf: what is in it.
        real_path: its name in its own mount namespace, where its neighbours are looked for.
        roots: prefixes for the file systems to search: the target's, and ours.

    """
    if elf.has_lines():
        return path
    for root in roots:
        for candidate in _candidates(elf, root, real_path):
            if os.path.exists(candidate) and _belongs(candidate, elf):
                return candidate
    return None


def _candidates(elf: Elf, root: bytes, real_path: bytes) -> list[bytes]:
    debug = root + os.fsencode(DEBUG_ROOT)
    candidates = []
    if elf.build_id and len(elf.build_id) > 2:
        candidates.append(debug + f"/.build-id/{elf.build_id[:2]}/{elf.build_id[2:]}.debug".encode())
    link = elf.debug_link()
    if link is not None:
        name, folder = os.fsencode(link.name), root + os.path.dirname(real_path)
        nested = debug + os.path.dirname(real_path) + b"/" + name
        candidates += [folder + b"/" + name, folder + b"/.debug/" + name, nested]
    return candidates


def _belongs(candidate: bytes, elf: Elf) -> bool:
    try:
        with Elf.open(candidate, os.fsdecode(candidate)) as found:
            if elf.build_id is not None or found.build_id is not None:
                return found.build_id == elf.build_id
        link = elf.debug_link()
        return link is not None and _crc_matches(candidate, link)
    except (ParseError, OSError):
        return False


def _crc_matches(candidate: bytes, link: DebugLink) -> bool:
    crc = 0
    with open(candidate, "rb") as file:
        while chunk := file.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return crc == link.crc
