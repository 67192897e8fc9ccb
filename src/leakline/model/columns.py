"""Notes on fields: from them come column heads, units, JSON Schemas and help."""

from __future__ import annotations

import msgspec


def _note(note: str, unit: str) -> msgspec.Meta:
    return msgspec.Meta(description=note, extra={"unit": unit})


def in_bytes(note: str) -> msgspec.Meta:
    """An amount of memory."""
    return _note(note, "bytes")


def change(note: str) -> msgspec.Meta:
    """A difference of two amounts of memory."""
    return _note(note, "change")


def count(note: str) -> msgspec.Meta:
    """A number of things."""
    return _note(note, "count")


def text(note: str) -> msgspec.Meta:
    """A name, or several."""
    return _note(note, "text")


def address(note: str) -> msgspec.Meta:
    """A place in an address space."""
    return _note(note, "address")


def time(note: str) -> msgspec.Meta:
    """Seconds since 1970."""
    return _note(note, "time")
