"""Records as JSON: plain numbers, unknown is null."""

from __future__ import annotations

from typing import Any

import msgspec


def to_json(record: msgspec.Struct) -> str:
    """One object, indented by two, with a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2).decode() + "\n"


def schema_of(record: type[msgspec.Struct], identifier: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a record."""
    schema = msgspec.json.schema(record)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": identifier, **schema}
