"""Findings as SARIF 2.1.0, which code hosts and editors show beside the code.

The standard is https://docs.oasis-open.org/sarif/sarif/v2.1.0/; what GitHub takes of it,
https://docs.github.com/en/code-security/code-scanning/integrating-with-code-scanning/sarif-support-for-code-scanning.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from leakline.model.finding import Confidence, FindingKind, Report
from leakline.model.stack import Frame, SourceLocation
from leakline.present.export.samples import Sample, frame_name, samples
from leakline.present.json import to_json
from leakline.present.text import counted, exact_bytes, frame_place, place, printable, rate

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_ROOT = "SRCROOT"
_MOST_LINES = (1 << 31) - 1
_RULES: dict[FindingKind, tuple[str, str, str]] = {
    "definite": ("Lost memory", "error", "No pointer leads to these blocks any more: nobody can free them."),
    "indirect": ("Memory lost with other memory", "note", "Only lost blocks point to these blocks."),
    "possible": (
        "Possibly lost memory",
        "warning",
        "Only pointers into the middle lead to these blocks, or one look alone saw them lost.",
    ),
    "reachable": ("Reachable memory", "note", "The program still has pointers to these blocks."),
    "growing": ("Growing memory", "warning", "There is more of it at every look, without an end in sight."),
    "outstanding": ("Memory not freed yet", "warning", "It was allocated while leakline looked, and not freed: not yet a leak."),
}


def level_of(kind: FindingKind, confidence: Confidence) -> str:
    """How loud a finding is: a definite one of high confidence is an error; what few looks support, a note."""
    if kind in ("indirect", "reachable"):
        return "note"
    if kind == "definite":
        return "error" if confidence == "high" else "warning"
    return "note" if confidence == "low" else "warning"


def to_sarif(reports: Sequence[Report], root: Path, version: str) -> str:
    """One run with a result for each finding, those of children too.

    Args:
        reports: what was found.
        root: the folder of the sources: paths below it become relative to it, as code hosts want them.
        version: leakline's.

    """
    found = samples(reports)
    kinds = list(_RULES)
    whole = {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "leakline", "version": version, "rules": [_rule(kind) for kind in kinds]}},
                "columnKind": "unicodeCodePoints",
                "originalUriBaseIds": {_ROOT: {"uri": f"file://{_quoted(str(root).rstrip('/'))}/"}},
                "results": [_result(sample, kinds.index(sample.kind), str(root)) for sample in found],
            }
        ],
    }
    return to_json(whole)


def _rule(kind: FindingKind) -> dict[str, Any]:
    name, level, text = _RULES[kind]
    return {
        "id": f"memory/{kind}",
        "name": "".join(word.capitalize() for word in name.split()),
        "shortDescription": {"text": name},
        "fullDescription": {"text": text},
        "help": {"text": f"{text} The stack of the result shows who allocated it."},
        "defaultConfiguration": {"level": level},
        "properties": {"tags": ["memory-leak", "external/cwe/cwe-401"]},
    }


def _result(sample: Sample, rule: int, root: str) -> dict[str, Any]:
    finding = sample.finding
    result: dict[str, Any] = {
        "ruleId": f"memory/{finding.kind}",
        "ruleIndex": rule,
        "level": level_of(finding.kind, finding.confidence),
        "message": {"text": _text(sample)},
        "locations": _locations(sample, root),
        # GitHub knows a result again by the second alone, and would take all leaks through one wrapper of malloc for one.
        "partialFingerprints": {
            "leakline/v1": printable(finding.fingerprint),
            "primaryLocationLineHash": f"{printable(finding.fingerprint)}:1",
        },
        "properties": {
            "process": sample.process,
            "confidence": finding.confidence,
            "bytes": finding.bytes,
            "blocks": finding.blocks,
            "indirectBytes": finding.indirect_bytes,
            "indirectBlocks": finding.indirect_blocks,
            "bytesPerSecond": finding.rate_bytes_per_second,
        },
    }
    if finding.stack:
        result["stacks"] = [{"message": {"text": "allocated by"}, "frames": [_frame(frame, root) for frame in finding.stack]}]
    path = [_location(frame.location, frame, root) for frame in reversed(finding.stack) if _has_line(frame.location)]
    if len(path) > 1:
        result["codeFlows"] = [
            {
                "message": {"text": "the calls that lead to the allocation"},
                "threadFlows": [{"locations": [{"location": at} for at in path]}],
            }
        ]
    return result


def _text(sample: Sample) -> str:
    finding = sample.finding
    what = _RULES[finding.kind][0]
    where = (
        f" from {place(finding.location, finding.stack)}"
        if finding.location is not None
        else f": {printable(finding.subject.name)}"
    )
    size = exact_bytes(finding.bytes) + (f" in {counted(finding.blocks, 'block')}" if finding.blocks else "")
    if finding.indirect_blocks:
        size += f", with {exact_bytes(finding.indirect_bytes)} in {counted(finding.indirect_blocks, 'block')} that hang on them"
    parts = [f"{what}{where}: {size} of {sample.process}, {finding.confidence} confidence."]
    if finding.rate_bytes_per_second is not None:
        parts.append(f"It grows at {rate(finding.rate_bytes_per_second, finding.rate_interval)}.")
    parts += [f"{evidence.method}: {evidence.text}." for evidence in finding.evidence]
    return _plain(" ".join(map(printable, parts)))


def _plain(text: str) -> str:
    """Text in which nothing is taken for a link or a placeholder (SARIF 3.11.5 and 3.11.6): `operator[](int)` would be one."""
    return re.sub(r"\{(\d+)\}", r"{{\1}}", text).replace("](", "] (")


def _has_line(location: SourceLocation) -> bool:
    return bool(location.file) and location.line is not None and 0 < location.line <= _MOST_LINES


def _locations(sample: Sample, root: str) -> list[dict[str, Any]]:
    """The answering line; else the program itself, as GitHub refuses results without a file."""
    finding, target = sample.finding, sample.report.target
    if finding.location is not None and finding.location.file:
        return [_location(finding.location, None, root)]
    program = None if target is None else target.executable or target.command
    function = None if finding.location is None else finding.location.function
    location: dict[str, Any] = {} if not program else {"physicalLocation": {"artifactLocation": _artifact(program, root)}}
    if function:
        location["logicalLocations"] = [{"fullyQualifiedName": printable(function), "kind": "function"}]
    return [location] if location else []


def _location(location: SourceLocation, frame: Frame | None, root: str) -> dict[str, Any]:
    physical: dict[str, Any] = {}
    if location.file:
        physical["artifactLocation"] = _artifact(location.file, root)
        if _has_line(location):
            physical["region"] = {"startLine": location.line}
    if frame is not None and frame.address is not None:
        physical["address"] = {"relativeAddress": frame.address, "kind": "instruction"}
    found: dict[str, Any] = {"physicalLocation": physical}
    if location.function:
        found["logicalLocations"] = [{"fullyQualifiedName": printable(location.function), "kind": "function"}]
    if frame is not None:
        found["message"] = {"text": _plain(f"{frame_name(frame)} at {frame_place(frame)}")}
    return found


def _frame(frame: Frame, root: str) -> dict[str, Any]:
    found: dict[str, Any] = {"location": _location(frame.location, frame, root)}
    if frame.module is not None:
        found["module"] = printable(frame.module)
    return found


def _artifact(path: str, root: str) -> dict[str, str]:
    """A path as a URI: relative to the sources where it lies among them."""
    path = posixpath.normpath(printable(path))
    below = path.removeprefix(root.rstrip("/") + "/") if path.startswith("/") else path
    if below.startswith("/"):
        return {"uri": "file://" + _quoted("/" + below.lstrip("/"))}
    if below == path:  # relative to the folder of a compilation that nobody remembers
        return {"uri": _quoted(below)}
    return {"uri": _quoted(below), "uriBaseId": _ROOT}


def _quoted(path: str) -> str:
    """Percent-encoded; a colon too, which would make a scheme of what stands before it."""
    return quote(path, safe="/", errors="backslashreplace")
