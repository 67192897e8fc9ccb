"""Findings for pprof: profile.proto, compressed by gzip.

The messages are those of https://github.com/google/pprof/blob/main/proto/profile.proto, in the wire format of
https://protobuf.dev/programming-guides/encoding/: few enough that a library for them would be the larger part.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence

from leakline.model.finding import Report
from leakline.model.stack import Frame
from leakline.present.export.samples import Sample, frame_lines, samples, without_stack
from leakline.present.text import printable

_VARINT, _BYTES = 0, 2
_BITS = (1 << 64) - 1


def to_pprof(reports: Sequence[Report], version: str) -> bytes:
    """A profile with two values a sample, blocks and bytes, in which what hangs on the blocks is counted.

    Kind, confidence, process and fingerprint are labels: `pprof -tagfocus kind=definite`, `-tagroot process,kind`. Addresses are
    those of the ELF files, so that pprof can look up what has no name here.
    """
    return gzip.compress(_Profile(samples(reports)).encoded(version), mtime=0)


def _varint(value: int) -> bytes:
    value &= _BITS  # a negative int64 is ten bytes of its two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value) if value else b""


def _message(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(body)) + body


def _numbers(field: int, values: Iterable[int]) -> bytes:
    return _message(field, b"".join(map(_varint, values)))


class _Profile:
    """The tables of one profile; each thing in them stands once, and is named by its number from 1 on."""

    def __init__(self, found: Sequence[Sample]) -> None:
        self._strings: dict[str, int] = {"": 0}
        self._mappings: dict[tuple[str, str | None], int] = {}
        self._symbolised: dict[int, bool] = {}
        self._functions: dict[tuple[str, str], int] = {}
        self._locations: dict[tuple[int, int, tuple[tuple[int, int], ...]], int] = {}
        self._build_ids = {
            (id(sample.report), frame.module): frame.build_id
            for sample in found
            for frame in sample.finding.stack
            if frame.build_id is not None
        }
        self._samples = b"".join(_message(2, self._sample(sample)) for sample in found)

    def encoded(self, version: str) -> bytes:
        """The message Profile."""
        types = [self._value_type("blocks", "count"), self._value_type("bytes", "bytes")]
        period = self._value_type("bytes", "bytes")
        comment, default = self._string(f"leakline {version}"), self._string("bytes")
        parts = [
            *(_message(1, value_type) for value_type in types),
            self._samples,
            *(_message(3, self._mapping(*mapping, number)) for mapping, number in self._mappings.items()),
            *(_message(4, self._location(*location, number)) for location, number in self._locations.items()),
            *(_message(5, self._function(*function, number)) for function, number in self._functions.items()),
            _message(11, period),
            _number(12, 1),
            _numbers(13, [comment]),
            _number(14, default),
        ]
        return b"".join([*parts, *(_message(6, text.encode()) for text in self._strings)])

    def _string(self, text: str | None) -> int:
        return self._strings.setdefault(printable(text or ""), len(self._strings))

    def _value_type(self, name: str, unit: str) -> bytes:
        return _number(1, self._string(name)) + _number(2, self._string(unit))

    def _sample(self, sample: Sample) -> bytes:
        finding = sample.finding
        stack = [self._placed(lines, sample) for lines in frame_lines(finding.stack)]
        places = stack or [self._place(0, 0, [(self._called(without_stack(finding), None), 0)])]
        labels = {
            "kind": finding.kind,
            "confidence": finding.confidence,
            "process": sample.process,
            "fingerprint": finding.fingerprint,
        }
        return b"".join(
            [
                _numbers(1, places),
                _numbers(2, [sample.blocks, sample.bytes]),
                *(_message(3, _number(1, self._string(key)) + _number(2, self._string(text))) for key, text in labels.items()),
            ]
        )

    def _placed(self, lines: Sequence[Frame], sample: Sample) -> int:
        frame = lines[-1]
        mapping = 0
        if frame.module is not None:
            build_id = frame.build_id or self._build_ids.get((id(sample.report), frame.module))
            mapping = self._mappings.setdefault((frame.module, build_id), len(self._mappings) + 1)
            self._symbolised[mapping] = self._symbolised.get(mapping, True) and frame.function is not None
        called = [(self._called(line.function, line.file), line.line or 0) for line in lines if line.function is not None]
        return self._place(mapping, frame.address or 0, called)  # 0: unknown, as profile.proto has it

    def _place(self, mapping: int, address: int, lines: Sequence[tuple[int, int]]) -> int:
        return self._locations.setdefault((mapping, address, tuple(lines)), len(self._locations) + 1)

    def _called(self, name: str, file: str | None) -> int:
        return self._functions.setdefault((name, file or ""), len(self._functions) + 1)

    def _mapping(self, name: str, build_id: str | None, number: int) -> bytes:
        known = self._symbolised[number]
        text = _number(1, number) + _number(5, self._string(name)) + _number(6, self._string(build_id))
        return text + b"".join(_number(field, known) for field in (7, 8, 9, 10))

    def _location(self, mapping: int, address: int, lines: Sequence[tuple[int, int]], number: int) -> bytes:
        parts = [_number(1, number), _number(2, mapping), _number(3, address)]
        return b"".join([*parts, *(_message(4, _number(1, function) + _number(2, line)) for function, line in lines)])

    def _function(self, name: str, file: str, number: int) -> bytes:
        text = self._string(name)
        return b"".join([_number(1, number), _number(2, text), _number(3, text), _number(4, self._string(file))])
