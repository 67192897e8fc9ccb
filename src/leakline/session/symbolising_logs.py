"""Names for what a checker could only place by module and offset."""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from leakline.errors import LeaklineError
from leakline.formats.sanitizer import without_allocator
from leakline.symbols.module_frames import module_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leakline.model.checker import CheckerLog
    from leakline.model.stack import Frame


def symbolised(logs: Sequence[CheckerLog], say: Callable[[str], None], written: float | None = None) -> list[CheckerLog]:
    """The logs with the frames named that have no function, where their module is at hand.

    Args:
        logs: what checkers said.
        say: hears why a module's frames stay as they are.
        written: when the log was written, in seconds since 1970: a module without a build-id that is younger is another one.

    """
    wanted: dict[tuple[str, str | None], set[int]] = defaultdict(set)
    for log in logs:
        paths = dict(log.modules)
        for frame in _unnamed(log):
            path = paths.get(frame.module or "")
            if path is not None and frame.address is not None:
                wanted[path, frame.build_id].add(frame.address)
    known: dict[tuple[str, str | None, int], tuple[Frame, ...]] = {}
    for (path, build_id), addresses in wanted.items():
        try:
            if build_id is None and written is not None and _changed_after(path, written):
                say(f"symbols: {path} is younger than the log: its frames stay without names")
                continue
            for address, frames in module_frames(path, build_id, sorted(addresses)).items():
                known[path, build_id, address] = frames
        except LeaklineError as error:
            say(f"symbols: {error.message}")
    return [_with_names(log, known) for log in logs] if known else list(logs)


def _unnamed(log: CheckerLog) -> list[Frame]:
    return [frame for record in log.records for frame in record.stack if frame.function is None]


def _changed_after(path: str, written: float) -> bool:
    try:
        return os.stat(path).st_mtime > written
    except OSError:
        return False


def _with_names(log: CheckerLog, known: dict[tuple[str, str | None, int], tuple[Frame, ...]]) -> CheckerLog:
    paths = dict(log.modules)

    def named(frame: Frame) -> tuple[Frame, ...]:
        if frame.function is not None or frame.address is None or frame.module not in paths:
            return (frame,)
        return known.get((paths[frame.module], frame.build_id, frame.address), (frame,))

    return msgspec.structs.replace(
        log,
        records=tuple(
            msgspec.structs.replace(record, stack=without_allocator([one for frame in record.stack for one in named(frame)]))
            for record in log.records
        ),
    )
