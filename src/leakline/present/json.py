"""Records as JSON: plain numbers, unknown is null."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from leakline.present.text import harmless


def to_json(record: msgspec.Struct | dict[str, Any]) -> str:
    """One object, indented by two, with a newline at the end."""
    try:
        encoded = msgspec.json.encode(record)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_without_surrogates(msgspec.to_builtins(record)))
    return harmless(msgspec.json.format(encoded, indent=2).decode()) + "\n"


def _without_surrogates(value: object) -> object:
    """Plain values with names that can stand in UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return [_without_surrogates(item) for item in value] if isinstance(value, (list, tuple)) else value


def schema_of(records: Sequence[type[msgspec.Struct]], identifier: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one of these records."""
    choices, definitions = msgspec.json.schema_components(records, ref_template="#/$defs/{name}")
    head: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": identifier}
    return {**head, "anyOf": list(choices), "$defs": definitions}
