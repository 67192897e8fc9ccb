"""A recording as Parquet, for `leakline fleet` and other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.errors import InvalidRequest
from leakline.session.judging import KERNEL_COUNTERS
from leakline.store.parquet import ExportedSeries, write_parquet
from leakline.store.reader import RecordingReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from leakline.model.recording import RecordedSeries

_LABELS = ("host", "kind", "service", "pid")


def export_parquet(recording: Path, output: Path, host: str | None, labels: Mapping[str, str]) -> tuple[int, int]:
    """Write what a recording holds: processes by their command, counters of the kernel and control groups by their name.

    Args:
        recording: the file.
        output: the Parquet file.
        host: its host's name; None for what the recording says.
        labels: more labels, of all series: version=1.4.

    Returns:
        How many series and how many rows.

    Raises:
        ParseError: it is no recording, or is damaged.
        InvalidRequest: it holds nothing, or the file cannot be written.

    """
    with RecordingReader(recording) as reader:
        began = reader.began
        name = host or (reader.machine[0] if reader.machine else "")
        found = [*reader.processes(), *reader.counters(("meminfo", "slab", "vmalloc", "cgroup"), KERNEL_COUNTERS)]
    if began is None or not found:
        raise InvalidRequest(f"{recording} holds nothing yet", hint="`leakline record -o FILE` goes on with it.")
    rows = write_parquet(output, _exported(found, began, {**labels, "host": name}), (*_LABELS, *sorted(labels)))
    return len(found), rows


def _exported(found: list[RecordedSeries], began: float, common: Mapping[str, str]) -> Iterator[ExportedSeries]:
    for one in found:
        service, pid = one.name, None
        if one.kind == "process":
            service, _, rest = one.name.rpartition(" (")
            pid = rest.removesuffix(")")
        labels = {**common, "kind": one.kind, "service": service, **({} if pid is None else {"pid": pid})}
        last = one.values[-1]
        limit = int(last) + one.available if one.kind == "process" and one.available is not None and last == last else None
        yield ExportedSeries(
            labels=labels,
            epochs=one.epochs or (0,) * len(one.times),
            times=[began + time for time in one.times],
            values=one.values,
            limit=limit,
        )
