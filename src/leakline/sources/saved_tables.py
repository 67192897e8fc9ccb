"""Tables that leakline printed as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from leakline.errors import InvalidRequest, ParseError
from leakline.model.mappings import VmaTable

if TYPE_CHECKING:
    from pathlib import Path


def load_mappings(path: Path) -> VmaTable:
    """What `maps PID --json` printed.

    Raises:
        InvalidRequest: there is no such file, or it has groups instead of mappings.
        ParseError: it is something else.

    """
    try:
        table = msgspec.json.decode(path.read_bytes(), type=VmaTable)
    except OSError as error:
        raise InvalidRequest(
            f"cannot read {path}: {error.strerror}", hint="`leakline maps PID --json -o FILE` writes one."
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ParseError(
            f"{path} is not what `maps --json` prints: {error}", hint="`leakline maps PID --json -o FILE` writes one."
        ) from error
    if table.vmas is None:
        raise InvalidRequest(f"{path} has sums, not mappings", hint="Write it without --by.")
    return table
