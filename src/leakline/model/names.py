"""Names from outside."""

from __future__ import annotations


def readable(name: str) -> str:
    """A name that can stand in JSON: bytes that were not UTF-8, kept as surrogates until here, become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
