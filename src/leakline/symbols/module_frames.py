"""Frames for addresses that a log gives by module and offset: what a checker without symbols could not name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from leakline.errors import NotPossible, ParseError
from leakline.formats.elf import Elf
from leakline.model.names import readable
from leakline.model.stack import Frame, SourceLocation
from leakline.symbols.addr2line import source_lines
from leakline.symbols.debug_files import DEBUG_ROOT, find_debug_file
from leakline.symbols.demangle import demangle

if TYPE_CHECKING:
    from collections.abc import Sequence


def module_frames(path: str, build_id: str | None, addresses: Sequence[int]) -> dict[int, tuple[Frame, ...]]:
    """The frames at ELF virtual addresses of a module, inlined ones first; addresses of which nothing is known are left out.

    Args:
        path: of the module, as the log has it.
        build_id: that the log gives; None if it gives none, and then the file is taken to be the same.
        addresses: within the calls, as checkers print them, not behind them.

    Raises:
        NotPossible: the file is not there any more, is another one now, or cannot be read.

    """
    name = readable(os.path.basename(path))
    file = os.fsencode(path)
    try:
        with Elf.open(file, name) as elf:
            if build_id is not None and elf.build_id != build_id:
                return _frames_of(_debug_file(build_id, name), name, addresses, lines=True)
            debug = find_debug_file(file, elf, real_path=file)
            return _frames_of(debug or file, name, addresses, lines=debug is not None)
    except ParseError as error:
        raise NotPossible(error.message) from error
    except OSError as error:
        if build_id is not None:
            return _frames_of(_debug_file(build_id, name), name, addresses, lines=True)
        raise NotPossible(f"{name} cannot be read: {error.strerror}") from error


def _debug_file(build_id: str, name: str) -> bytes:
    candidate = DEBUG_ROOT / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug"
    if not build_id.isalnum() or not candidate.exists():
        raise NotPossible(f"{name} with the build-id {build_id} is not here any more")
    return os.fsencode(candidate)


def _frames_of(file: bytes, name: str, addresses: Sequence[int], *, lines: bool) -> dict[int, tuple[Frame, ...]]:
    with Elf.open(file, name) as elf:
        symbols = elf.symbols()
    # Without lines addr2line would name the nearest function before, however far away.
    answers = source_lines(file, addresses) if lines else [[] for _ in addresses]
    at = {address: symbols.at(address) for address in addresses}
    names = demangle(symbol.name for symbol in at.values() if symbol is not None)
    frames: dict[int, tuple[Frame, ...]] = {}
    for address, found in zip(addresses, answers, strict=True):
        symbol = at[address]
        locations = found
        if not locations and symbol is not None:
            locations = [SourceLocation(function=names.get(symbol.name, symbol.name), file=None, line=None)]
        if locations:
            frames[address] = tuple(
                Frame(
                    function=location.function,
                    file=location.file,
                    line=location.line,
                    module=name,
                    address=address,
                    inlined=position < len(locations) - 1,
                    offset=None if location.line is not None or symbol is None else address - symbol.address,
                )
                for position, location in enumerate(locations)
            )
    return frames
