"""Findings for speedscope (https://www.speedscope.app), by its file-format-schema.json."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from leakline.model.finding import Report
from leakline.present.export.samples import Sample, frame_name, samples, without_stack
from leakline.present.json import to_json
from leakline.present.text import printable

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"
_Frame = tuple[str, str | None, int | None]


def to_speedscope(reports: Sequence[Report], version: str) -> str:
    """A profile of bytes for each process and kind: kinds are not added up."""
    places: dict[_Frame, int] = {}
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples(reports):
        if sample.bytes > 0:
            groups[f"{sample.process}: {sample.kind}"].append(sample)
    profiles = [_profile(name, group, places) for name, group in groups.items()]
    frames = [
        {"name": name, **({} if file is None else {"file": file}), **({} if line is None else {"line": line})}
        for name, file, line in places
    ]
    whole = {
        "$schema": _SCHEMA,
        "exporter": f"leakline@{version}",
        "name": "leakline findings",
        "shared": {"frames": frames},
        "profiles": profiles or [_profile("no findings", [], places)],
    }
    return to_json(whole)


def _profile(name: str, group: Sequence[Sample], places: dict[_Frame, int]) -> dict[str, Any]:
    stacks = [[places.setdefault(frame, len(places)) for frame in _frames(sample)] for sample in group]
    return {
        "type": "sampled",
        "name": name,
        "unit": "bytes",
        "startValue": 0,
        "endValue": sum(sample.bytes for sample in group),
        "samples": stacks,
        "weights": [sample.bytes for sample in group],
    }


def _frames(sample: Sample) -> list[_Frame]:
    stack = sample.finding.stack
    if not stack:
        return [(without_stack(sample.finding), None, None)]
    return [
        (frame_name(frame) + (" (inlined)" if frame.inlined else ""), frame.file and printable(frame.file), frame.line)
        for frame in reversed(stack)
    ]
