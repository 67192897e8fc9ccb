"""What is known and not to be shown: rules from files, and findings of before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from leakline.analysis.finding_diff import only_new
from leakline.analysis.suppress import suppress
from leakline.errors import InvalidRequest, ParseError
from leakline.formats.suppressions import parse_suppressions
from leakline.model.names import readable
from leakline.session.reading_reports import read_reports
from leakline.symbols.demangle import demangle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.model.finding import Report
    from leakline.model.suppression import SuppressionFile, SuppressionRule

_LARGEST = 64 << 20


class Filters:
    """Rules and a baseline, read once; then applied to any number of reports.

    Args:
        files: of suppressions, in any of the three forms.
        baseline: a file of findings, in any form that `report` reads.

    Raises:
        InvalidRequest: a file cannot be read.
        ParseError: it is not what it should be.

    """

    def __init__(self, files: Sequence[Path] = (), baseline: Path | None = None) -> None:
        read = [_read(path) for path in files]
        self.rules: tuple[SuppressionRule, ...] = _with_readable_names([rule for file in read for rule in file.rules])
        self.for_valgrind = "".join(file.for_valgrind for file in read)
        self._baseline_name = None if baseline is None else readable(str(baseline))
        self._baseline = None if baseline is None else read_reports([baseline], lambda _text: None)
        self._unused: set[SuppressionRule] = set(self.rules)

    @property
    def has_baseline(self) -> bool:
        """Whether findings are told apart by it."""
        return self._baseline is not None

    @property
    def unused(self) -> list[SuppressionRule]:
        """Rules that no finding has met yet, in the order in which they were read."""
        return [rule for rule in self.rules if rule in self._unused]

    def apply(self, reports: Sequence[Report]) -> list[Report]:
        """The reports without what is known; the same for what has been through here before."""
        kept = list(reports)
        if self.rules:
            kept, used = suppress(kept, self.rules)
            self._unused -= used
        if self._baseline is not None:
            kept = only_new(kept, self._baseline, self._baseline_name or "")
        return kept


def _read(path: Path) -> SuppressionFile:
    name = readable(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidRequest(f"cannot read {name}: {error.strerror}", hint="Give a file of suppressions.") from error
    if len(data) > _LARGEST:
        raise ParseError(f"{name} is larger than {_LARGEST >> 20} MiB: no file of suppressions is")
    return parse_suppressions(data, name)


def _with_readable_names(rules: Sequence[SuppressionRule]) -> tuple[SuppressionRule, ...]:
    """With C++ names as the programmer wrote them, where a pattern is a whole mangled name."""
    patterns = [frame for rule in rules for frame in rule.frames or () if frame.mangled]
    names = demangle(frame.pattern for frame in patterns if not {"*", "?"} & set(frame.pattern))
    if not names:
        return tuple(rules)
    return tuple(
        rule
        if rule.frames is None
        else msgspec.structs.replace(
            rule,
            frames=tuple(
                msgspec.structs.replace(frame, pattern=names.get(frame.pattern, frame.pattern)) if frame.mangled else frame
                for frame in rule.frames
            ),
        )
        for rule in rules
    )
