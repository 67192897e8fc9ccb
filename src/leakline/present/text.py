"""The one formatter: amounts, rates, times, names, places in the code."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.model.stack import Frame, SourceLocation

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
# Not compiled here: hardly any name has one of these, and to compile an expression takes half a millisecond of each start.
_CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
_CONTROL_IN_JSON = "[\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]"
UNKNOWN = "-"
_BLOCKS = "▁▂▃▄▅▆▇█"


def amount(value: float | None) -> str:
    """Bytes with an IEC unit and three digits or more: `1.5 GiB`, `405,768 B`."""
    if value is None:
        return UNKNOWN
    size = float(value)
    for unit in _UNITS:
        if abs(size) < 1024 or unit == _UNITS[-1]:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    raise AssertionError


def compact(value: float | None) -> str:
    """Bytes in four characters or less, for narrow columns: `405K`, `1.5G`, `12M`, `0`; K is KiB."""
    if value is None:
        return UNKNOWN
    size, units = abs(float(value)), iter(("", *"KMGTPE"))
    unit = next(units)
    while size >= 999.5:
        size, unit = size / 1024, next(units, "!")
    digits = f"{size:.1f}" if unit and size < 9.95 else f"{size:.0f}"
    return f"{'-' if value < 0 else ''}{digits}{unit}"


def compact_rate(value: float | None) -> str:
    """Bytes per second: `+120K/s`."""
    return UNKNOWN if value is None else f"{'+' if value > 0 else ''}{compact(value)}/s"


def compact_count(value: float | None) -> str:
    """A number in five characters or less: `950`, `12.3k`, `4.1M`; k is a thousand."""
    if value is None:
        return UNKNOWN
    number, units = float(value), iter(("", *"kMGTPE"))
    unit = next(units)
    while number >= 999.5:
        number, unit = number / 1000, next(units, "!")
    return f"{number:.0f}" if not unit else f"{number:.1f}{unit}" if number < 99.95 else f"{number:.0f}{unit}"


def compact_seconds(value: float | None) -> str:
    """`45s`, `12m`, `3h`, `9d`."""
    if value is None:
        return UNKNOWN
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if value >= 2 * size:
            return f"{min(value / size, 9999):.0f}{unit}"
    return f"{value:.0f}s"


def hours(seconds: float) -> str:
    """`00:12:31`; `3d 02:00:00` from a day on."""
    whole = int(seconds)
    days, rest = divmod(whole, 86400)
    text = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}d {text}" if days else text


def sparkline(values: Sequence[float]) -> str:
    """Values as blocks, one for each: ` ` where it is not known.

    A full block stands a hundredth of the largest value or more above the lowest: what hardly changes looks flat.
    """
    known = [value for value in values if value == value]  # NaN is not itself
    if not known:
        return " " * len(values)
    low, high = min(known), max(known)
    span = max(high - low, abs(high) / 100, 1.0)
    return "".join(" " if value != value else _BLOCKS[min(7, int((value - low) / span * 7.999))] for value in values)


def change(value: int | None) -> str:
    """A difference: `+1.5 MiB`, `-4.0 KiB`, `0`."""
    if not value:
        return UNKNOWN if value is None else "0"
    return f"{'+' if value > 0 else ''}{amount(value)}"


def exact_bytes(value: int | None) -> str:
    """Every digit: `405,768 bytes`."""
    return UNKNOWN if value is None else counted(value, "byte")


def counted(count: int, noun: str) -> str:
    """`1 block`, `33 blocks`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def rate(value: float | None, interval: tuple[float, float] | None = None) -> str:
    """`120.1 KiB/s (90 %: 98.0 KiB/s to 140.2 KiB/s)`."""
    if value is None:
        return UNKNOWN
    text = f"{amount(value)}/s"
    return text if interval is None else f"{text} (90 %: {amount(interval[0])}/s to {amount(interval[1])}/s)"


def duration(nanoseconds: int) -> str:
    """`1.8 ms`, `7.1 s`."""
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1e3:.0f} µs"
    if nanoseconds < 1_000_000_000:
        return f"{nanoseconds / 1e6:.1f} ms"
    return f"{nanoseconds / 1e9:.1f} s"


def clock_time(seconds: float) -> str:
    """A point in time since 1970, in this machine's zone: `2026-11-22 17:42:52`."""
    from datetime import datetime

    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def percent(share: float | None) -> str:
    """`12 %`."""
    return UNKNOWN if share is None else f"{share * 100:.0f} %"


def printable(name: str) -> str:
    """A name from outside, harmless in a terminal: control, direction and undecodable characters as escapes."""

    def escape(match: re.Match[str]) -> str:
        code = ord(match[0])
        if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8
            return f"\\x{code - 0xDC00:02x}"
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return name if name.isprintable() else re.sub(_CONTROL, escape, name)


def harmless(text: str) -> str:
    """JSON with the control and direction characters that it need not escape as escapes: it may come to a terminal."""
    return (
        text if text.isascii() and "\x7f" not in text else re.sub(_CONTROL_IN_JSON, lambda match: f"\\u{ord(match[0]):04x}", text)
    )


def place(location: SourceLocation, stack: Sequence[Frame] = ()) -> str:
    """`leak-example.c:6`; the function where the line is unknown; `module+0x1176` where that is unknown too."""
    if location.file is not None and location.line is not None:
        return printable(f"{os.path.basename(location.file)}:{location.line}")
    frame = next((frame for frame in stack if frame.location == location and frame.module is not None), None)
    if frame is None:
        return printable(location.function or "an unknown function")
    return frame_function(frame) if frame.function else frame_place(frame)


def frame_place(frame: Frame) -> str:
    """Where a frame is: `file:line`, or module and offset."""
    if frame.file is not None and frame.line is not None:
        return printable(f"{os.path.basename(frame.file)}:{frame.line}")
    module = frame.module or "no file"
    return printable(module if frame.address is None else f"{module}+{frame.address:#x}")


def frame_function(frame: Frame) -> str:
    """The function of a frame, with the offset where the line is unknown."""
    if frame.function is None:
        return "?"
    offset = f"+{frame.offset:#x}" if frame.offset is not None and frame.line is None else ""
    return printable(frame.function) + offset + (" (inlined)" if frame.inlined else "")
