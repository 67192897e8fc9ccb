"""`leakline ps --json` straight from fields: the same text as to_json() gives of a ProcessTable, without the library of records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.present.text import harmless

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Value = str | int | float | None


class _Escapes(dict[int, str]):
    """For str.translate(): what JSON must escape."""

    def __missing__(self, code: int) -> str:
        known = {8: r"\b", 9: r"\t", 10: r"\n", 12: r"\f", 13: r"\r", 34: r"\"", 92: r"\\"}
        found = self[code] = known.get(code) or (f"\\u{code:04x}" if code < 32 else chr(code))
        return found


class _Quoted(dict[str, str]):
    """Texts as JSON; users and commands come again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._escapes = _Escapes()

    def __missing__(self, text: str) -> str:
        plain = text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
        found = self[text] = f'"{text}"' if plain else harmless(f'"{text.translate(self._escapes)}"')
        return found


def process_table_json(
    names: Sequence[str], rows: Sequence[Sequence[Value]], schema: str, rest: Mapping[str, Value | Mapping[str, Value]]
) -> str:
    """The table, indented by two.

    Args:
        names: of the fields of a row.
        rows: their values.
        schema: what it is.
        rest: what follows the rows.

    """
    quoted = _Quoted()

    def texts(values: Sequence[Value]) -> tuple[Value, ...]:
        return tuple(["null" if v is None else quoted[v] if v.__class__ is str else v for v in values])

    def pattern(indent: str, keys: Sequence[str]) -> str:
        return "{\n" + ",\n".join(f'{indent}  "{key}": %s' for key in keys) + f"\n{indent}}}"

    row = f"\n    {pattern('    ', names)},"
    # Joined once, at the end: there are hundreds of kilobytes.
    parts = [f'{{\n  "schema": "{schema}",\n  "processes": [', *[row % texts(values) for values in rows]]
    if rows:
        parts[-1] = parts[-1].removesuffix(",") + "\n  "
    parts.append("]")
    for name, value in rest.items():
        if value is None or isinstance(value, (str, int, float)):
            text = str(value).lower() if isinstance(value, bool) else texts([value])[0]
        else:
            text = pattern("  ", list(value)) % texts(list(value.values()))
        parts.append(f',\n  "{name}": {text}')
    parts.append("\n}\n")
    return "".join(parts)
