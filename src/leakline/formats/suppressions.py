"""Files of suppressions: valgrind's, LeakSanitizer's and ours, told apart line by line.

Sources: valgrind's manual, "Suppressing errors" (3.19), and compiler-rt/lib/sanitizer_common/sanitizer_suppressions.cpp (LLVM 14).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from leakline.errors import ParseError
from leakline.model.names import readable
from leakline.model.suppression import FramePattern, SuppressionFile, SuppressionRule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leakline.model.suppression import FramePatternKind

_FINGERPRINT = re.compile(r"fingerprint:\s*([0-9a-f]{16})(?:\s.*)?$")
_KINDS = ("definite", "indirect", "possible", "reachable")
_FRAMES: dict[str, FramePatternKind] = {"fun": "function", "obj": "module", "src": "source"}
_PLACE = re.compile(r"(.*):(\d{1,9})$")
_MOST_FRAMES = 24  # VG_(max_suppression_frames) of valgrind
_HINT = "docs/suppressions.md shows the three forms."


def parse_suppressions(data: bytes, name: str) -> SuppressionFile:
    """All rules in a file.

    Raises:
        ParseError: a line is none of the three forms, or an entry has no end.

    """
    rules: list[SuppressionRule] = []
    others: list[str] = []
    lines = _lines(data)
    for number, line in lines:
        source = f"{name}:{number}"
        if line == "{":
            entry = _entry(lines, source)
            rule = _valgrind_rule(entry, source)
            if rule is None:
                others.append("{\n" + "".join(f"   {text}\n" for text in entry) + "}\n")
            else:
                rules.append(rule)
        elif line.startswith("leak:") and line != "leak:":
            rules.append(SuppressionRule(name=readable(line), source=source, template=readable(line.removeprefix("leak:"))))
        elif (match := _FINGERPRINT.match(line)) is not None:
            rules.append(SuppressionRule(name=f"fingerprint:{match[1]}", source=source, fingerprint=match[1]))
        else:
            raise ParseError(f"{source}: {readable(line[:80])!r} is no suppression", hint=_HINT)
    return SuppressionFile(rules=tuple(rules), for_valgrind="".join(others))


def _lines(data: bytes) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield number, text


def _entry(lines: Iterator[tuple[int, str]], source: str) -> list[str]:
    entry: list[str] = []
    for _, line in lines:
        if line == "}":
            if len(entry) < 2:
                break
            return entry
        entry.append(line)
    raise ParseError(f"{source}: an entry has no name and kind, or no end", hint=_HINT)


def _valgrind_rule(entry: list[str], source: str) -> SuppressionRule | None:
    """None for one about errors that are no leaks, or of another tool."""
    name, kind, *rest = entry
    tools, colon, error = kind.partition(":")
    if not colon:
        raise ParseError(f"{source}: {readable(kind[:80])!r} is not of the form Tool:Kind", hint=_HINT)
    if "Memcheck" not in tools.split(",") or error.strip() != "Leak":
        return None
    kinds = None
    if rest and rest[0].startswith("match-leak-kinds:"):
        kinds = _leak_kinds(rest.pop(0).partition(":")[2], source)
    if not rest or len(rest) > _MOST_FRAMES:
        raise ParseError(f"{source}: an entry has no frames, or more than {_MOST_FRAMES}", hint=_HINT)
    return SuppressionRule(name=readable(name), source=source, kinds=kinds, frames=tuple(_frame(line, source) for line in rest))


def _leak_kinds(text: str, source: str) -> tuple[str, ...] | None:
    words = [word.strip() for word in text.split(",")]
    if words == ["all"]:
        return None
    if words == ["none"]:
        return ()
    for word in words:
        if word not in _KINDS:
            raise ParseError(f"{source}: {readable(word[:40])!r} is no kind of leak", hint=f"{', '.join(_KINDS)}, all, none")
    return tuple(words)


def _frame(line: str, source: str) -> FramePattern:
    if line == "...":
        return FramePattern(kind="any frames", pattern="")
    word, colon, pattern = line.partition(":")
    if not colon or word not in _FRAMES or not pattern:
        raise ParseError(f"{source}: {readable(line[:80])!r} is neither fun:, obj:, src: nor ...", hint=_HINT)
    number = None
    if word == "src" and (match := _PLACE.match(pattern)) is not None:
        pattern, number = match[1], int(match[2])
    return FramePattern(
        kind=_FRAMES[word], pattern=readable(pattern), mangled=word == "fun" and pattern.startswith("_Z"), line=number
    )
