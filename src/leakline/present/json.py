"""Records as JSON: plain numbers, unknown is null."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from leakline.present.text import harmless


def to_json(record: msgspec.Struct | dict[str, Any]) -> str:
    """One object, indented by two, with a newline at the end."""
    return harmless(msgspec.json.format(msgspec.json.encode(record), indent=2).decode()) + "\n"


def schema_of(records: Sequence[type[msgspec.Struct]], identifier: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one of these records."""
    choices, definitions = msgspec.json.schema_components(records, ref_template="#/$defs/{name}")
    head: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": identifier}
    return {**head, "anyOf": list(choices), "$defs": definitions}
