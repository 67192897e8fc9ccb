"""/proc/meminfo (fs/proc/meminfo.c)."""

from __future__ import annotations

from leakline.errors import ParseError
from leakline.model.memory import SystemMemory
from leakline.sources.parsing import key_values, kilobytes


def parse_amounts(data: bytes) -> dict[str, int]:
    """Every amount of /proc/meminfo in bytes, by the kernel's name; counts of pages (HugePages_*) are left out.

    Raises:
        ParseError: a line has another form.

    """
    fields = key_values(data, "meminfo")
    amounts = {key.decode(errors="replace"): kilobytes(v, "meminfo") for key, v in fields.items() if v.endswith(b"kB")}
    if not amounts.keys() >= {"MemTotal", "MemFree"}:
        raise ParseError("meminfo: no MemTotal, or no MemFree")
    return amounts


def parse_meminfo(data: bytes) -> SystemMemory:
    """The amounts of /proc/meminfo.

    Raises:
        ParseError: an amount that every kernel has is missing, or has another form.

    """
    fields = key_values(data, "meminfo")

    def required(key: bytes) -> int:
        if key not in fields:
            raise ParseError(f"meminfo: no {key.decode()}")
        return kilobytes(fields[key], "meminfo")

    return SystemMemory(
        total=required(b"MemTotal"),
        free=required(b"MemFree"),
        available=kilobytes(fields[b"MemAvailable"], "meminfo") if b"MemAvailable" in fields else None,
        swap_total=required(b"SwapTotal"),
        swap_free=required(b"SwapFree"),
    )
