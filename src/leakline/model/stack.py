"""Code locations."""

from __future__ import annotations

import msgspec


class SourceLocation(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the code: as much of it as is known."""

    function: str | None
    file: str | None
    line: int | None


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One call on a stack, innermost first. Inlined calls are frames of their own, before the function that holds them."""

    function: str | None
    file: str | None
    line: int | None
    module: str | None
    """File name of the executable or library."""
    address: int | None
    """In the module's own terms (its ELF virtual address), so that the same place has the same number in every process; None where
    only a name is known, as the kernel prints its stacks."""
    inlined: bool = False
    offset: int | None = None
    """Bytes from the function's start, where the line is unknown."""
    build_id: str | None = None
    """The module's build-id, where the line is unknown: it names the debug file to look for."""

    @property
    def location(self) -> SourceLocation:
        """The frame's place."""
        return SourceLocation(function=self.function, file=self.file, line=self.line)
