"""The lines around the places that findings name, where their files can be read here."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from leakline.model.page import SourceExcerpt
from leakline.present.export.samples import samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.model.faults import FaultReport
    from leakline.model.finding import Report

_AROUND = 4
_LARGEST = 4 << 20
_LONGEST_LINE = 400
_MOST = 100
# Whoever writes findings chooses the names in them: nothing but a program's text may come into a page that is sent to others.
# fmt: off
_ENDINGS = frozenset({
    ".c", ".h", ".cc", ".cpp", ".cxx", ".c++", ".hh", ".hpp", ".hxx", ".inl", ".ipp", ".tcc", ".rs", ".go", ".d",
    ".zig", ".nim", ".swift", ".m", ".mm", ".f", ".f90", ".f95", ".s", ".asm", ".py", ".pyx", ".pxd", ".pyi", ".java",
    ".kt", ".scala", ".js", ".ts", ".rb", ".ml", ".hs", ".cu", ".cr", ".adb", ".pas", ".y", ".l",
})
# fmt: on


def excerpts_of(reports: Sequence[Report], faults: Sequence[FaultReport] = ()) -> dict[tuple[str, int], SourceExcerpt]:
    """Some lines for each place of a finding or a crash, by file and line."""
    places = [group.location for report in faults for group in report.faults if group.crash is not None]
    places += [sample.finding.location for sample in samples(reports)]
    found: dict[tuple[str, int], SourceExcerpt] = {}
    for where in places:
        if where is None or where.file is None or where.line is None or len(found) >= _MOST:
            continue
        if (where.file, where.line) not in found:
            excerpt = _excerpt(where.file, where.line)
            if excerpt is not None:
                found[where.file, where.line] = excerpt
    return found


def _excerpt(name: str, line: int) -> SourceExcerpt | None:
    try:
        path = Path(name).resolve()
        if path.suffix.lower() not in _ENDINGS:
            return None
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > _LARGEST:
            return None
        data = path.read_bytes()
    except (OSError, ValueError, RuntimeError):  # no such name can be; a loop of links, before Python 3.13
        return None  # it is on another machine, or no longer there: the place alone is shown
    lines = data.decode("utf-8", "replace").split("\n")
    if b"\0" in data or not 1 <= line <= len(lines):
        return None
    first = max(1, line - _AROUND)
    return SourceExcerpt(
        first=first, lines=tuple(text.expandtabs(4)[:_LONGEST_LINE].rstrip("\r") for text in lines[first - 1 : line + _AROUND])
    )
