"""/proc/zoneinfo (mm/vmstat.c) and /proc/pressure/memory (Documentation/accounting/psi.rst)."""

from __future__ import annotations

import re

from leakline.errors import ParseError
from leakline.model.accounting import Pressure

_COUNT = re.compile(rb"^\s+count:\s+(\d+)$", re.MULTILINE)
_PRESSURE = re.compile(rb"(some|full) avg10=([\d.]+) avg60=([\d.]+) avg300=([\d.]+) total=(\d+)")


def parse_per_cpu_pages(data: bytes) -> int:
    """The sum of the pagesets' `count:` in /proc/zoneinfo, in pages."""
    return sum(int(count) for count in _COUNT.findall(data))


def parse_pressure(data: bytes) -> tuple[Pressure, ...]:
    """The lines of /proc/pressure/memory.

    Raises:
        ParseError: a line has another form.

    """
    found = []
    for line in data.splitlines():
        match = _PRESSURE.fullmatch(line)
        if match is None:
            raise ParseError(f"pressure/memory: {line[:80]!r}")
        kind, *averages, total = match.groups()
        try:
            short, middle, long = map(float, averages)
        except ValueError as error:
            raise ParseError(f"pressure/memory: {line[:80]!r}") from error
        found.append(
            Pressure(kind="some" if kind == b"some" else "full", avg10=short, avg60=middle, avg300=long, total_us=int(total))
        )
    return tuple(found)
