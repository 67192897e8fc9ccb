"""Rules that say which findings are known and not to be shown."""

from __future__ import annotations

from typing import Literal

import msgspec

FramePatternKind = Literal["function", "module", "source", "any frames"]


class FramePattern(msgspec.Struct, frozen=True, kw_only=True):
    """What one frame must be like: a line `fun:`, `obj:`, `src:` or `...` of valgrind's."""

    kind: FramePatternKind
    pattern: str
    """With `*` and `?`; C++ names as the programmer wrote them."""
    mangled: bool = False
    """It stood there as the linker has it: parameters are no matter then."""
    line: int | None = None
    """Of a source file."""


class SuppressionRule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule, in any of three forms: valgrind's, LeakSanitizer's, or a fingerprint."""

    name: str
    """As it is shown."""
    source: str
    """File and line."""
    kinds: tuple[str, ...] | None = None
    """Only these kinds of findings; None for all."""
    frames: tuple[FramePattern, ...] | None = None
    """Valgrind's: what the stack must begin with."""
    template: str | None = None
    """LeakSanitizer's: a part of some frame's function, file or module."""
    fingerprint: str | None = None


class SuppressionFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a file of rules holds."""

    rules: tuple[SuppressionRule, ...]
    for_valgrind: str
    """The entries about errors that are no leaks, as they stand there: of use to valgrind alone."""
