"""Series from files of others: CSV, JSON lines, pidstat, sar, psrecord, Prometheus range answers.

The form is told by the content, not by the name.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from leakline.errors import InvalidRequest, ParseError
from leakline.model.names import readable
from leakline.model.trend import Series

UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 1000, "MB": 10**6, "GB": 10**9, "pages": 4096}
_TIME_NAMES = ("time", "t", "t_s", "timestamp", "ts", "time_s", "seconds", "date", "datetime")
_VALUE_NAMES = ("uss", "value", "held", "pss", "rss", "bytes", "memory", "mem")
_UNIT_ENDINGS = {
    "_kb": 1 << 10,
    "_kib": 1 << 10,
    "_mb": 1 << 20,
    "_mib": 1 << 20,
    "_gib": 1 << 30,
    "_gb": 1 << 30,
    "_bytes": 1,
    "_b": 1,
}
_MOST_VALUE = float(1 << 60)
_LATEST = 1e11


class Columns(NamedTuple):
    """Which columns are meant; None is guessed from their names."""

    time: str | None = None
    value: str | None = None
    by: str | None = None
    epoch: str | None = None
    unit: int | None = None
    """Bytes of one."""


class _Point(NamedTuple):
    name: str
    time: float
    value: float
    epoch: str


def parse_series(data: bytes, name: str, columns: Columns = Columns(), limit: int | None = None) -> list[Series]:  # noqa: B008
    """The series in a file, in whatever known form.

    Args:
        data: its bytes.
        name: of a series that has none of its own.
        columns: which are meant, for CSV and JSON lines.
        limit: bytes that each may reach.

    Raises:
        ParseError: the form is not known, or a value is none.
        InvalidRequest: a column that was named is not there.

    """
    text = data.decode("utf-8-sig", "surrogateescape")
    head = text.lstrip()[:4096]
    if head.startswith(("{", "[")):
        answer = _prometheus_results(data)
        points = _json_lines(text, name, columns) if answer is None else _prometheus(answer, name, columns.unit)
    elif columns.unit is not None and re.match(r"# *Elapsed time|Linux ", head):
        raise InvalidRequest(f"{readable(name)} tells its unit itself", hint="Leave --unit out.")
    elif re.match(r"# *Elapsed time", head):
        points = _psrecord(text, name)
    elif head.startswith("Linux ") and re.search(r"\bRSS\b", head):
        points = _pidstat(text)
    elif head.startswith("Linux ") and "kbmemfree" in head:
        points = _sar(text)
    else:
        points = _csv(text, name, columns)
    found = list(_gathered(points, limit))
    if not found:
        raise ParseError(f"{readable(name)}: no samples", hint=_HINT)
    return found


_HINT = "Known are CSV and JSON lines (--time, --value, --by), pidstat -r, sar -r, psrecord --log, Prometheus query_range."


def _gathered(points: Iterable[_Point], limit: int | None) -> Iterator[Series]:
    by_name: dict[str, list[_Point]] = defaultdict(list)
    for point in points:
        by_name[point.name].append(point)
    for name, members in _apart(by_name):
        members.sort(key=lambda point: point.time)
        numbers: dict[str, int] = {}
        epochs = tuple(numbers.setdefault(point.epoch, len(numbers)) for point in members)
        yield Series(
            name=readable(name),
            times=tuple(point.time for point in members),
            values=tuple(point.value for point in members),
            epochs=epochs if len(numbers) > 1 else None,
            limit=limit,
        )


def _apart(by_name: dict[str, list[_Point]]) -> Iterator[tuple[str, list[_Point]]]:
    """Processes of one name that ran at the same time are series of their own; one after the other, they are restarts of one."""
    for name, members in by_name.items():
        spans: dict[str, tuple[float, float]] = {}
        for point in members:
            first, last = spans.get(point.epoch, (point.time, point.time))
            spans[point.epoch] = min(first, point.time), max(last, point.time)
        ordered = sorted(spans.values())
        if any(after[0] <= before[1] for before, after in pairwise(ordered)):
            for epoch in spans:
                yield f"{name} ({epoch})", [point for point in members if point.epoch == epoch]
        else:
            yield name, members


def _number(value: object, what: str) -> float:
    """A number; NaN for a gap."""
    if value is None or value in ("", "-", "NaN", "nan", "null"):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ParseError(f"{what}: {str(value)[:40]!r} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise ParseError(f"{what}: {str(value)[:40]!r} is not a number") from error
    if not math.isfinite(number):
        return math.nan  # +Inf is what Prometheus answers where there is nothing to tell
    if abs(number) > _MOST_VALUE:
        raise ParseError(f"{what}: {str(value)[:40]!r} is no amount of memory, and no time")
    return number


def _time(value: object, what: str) -> float:
    if isinstance(value, str) and not re.fullmatch(r"[-+0-9.eE]+", value.strip()):
        try:
            moment = datetime.fromisoformat(value.strip())
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError) as error:
            raise ParseError(f"{what}: {value[:40]!r} is not a time", hint="Seconds, or as 2026-11-22T17:42:52.") from error
    moment_s = _number(value, what)
    if math.isnan(moment_s):
        raise ParseError(f"{what}: a sample without a time")
    if abs(moment_s) > _LATEST:
        raise ParseError(f"{what}: {moment_s:.0f} is later than the year 5000, in seconds", hint="Divide milliseconds by 1000.")
    return moment_s


def _chosen(names: Sequence[str], asked: str | None, known: Sequence[str], what: str) -> str | None:
    if asked is not None:
        if asked not in names:
            raise InvalidRequest(f"no column {asked!r} for {what}", hint=f"There are: {', '.join(map(readable, names))}.")
        return asked
    plain = {re.sub(r"_(kb|kib|mb|mib|gib|gb|bytes|b|s)$", "", name.lower()): name for name in reversed(names)}
    return next((plain[name] for name in known if name in plain), None)


def _points(rows: Iterable[tuple[int, dict[str, Any]]], names: Sequence[str], name: str, columns: Columns) -> Iterator[_Point]:
    time = _chosen(names, columns.time, _TIME_NAMES, "--time")
    value = _chosen(names, columns.value, _VALUE_NAMES, "--value")
    if value is None:
        raise InvalidRequest(
            f"which column of {readable(name)} is memory?", hint=f"Say --value; there are: {', '.join(map(readable, names))}."
        )
    by = _chosen(names, columns.by, (), "--by") if columns.by else None
    epoch = _chosen(names, columns.epoch, ("pid",) if by is None else (), "--epoch")
    unit = columns.unit or next((size for ending, size in _UNIT_ENDINGS.items() if value.lower().endswith(ending)), 1)
    for number, row in rows:
        what = f"{readable(name)}, row {number}"
        moment = float(number) if time is None else _time(row.get(time), what)
        label = str(row.get(by)) if by else name
        yield _Point(label, moment, _number(row.get(value), what) * unit, str(row.get(epoch)) if epoch else "")


def _csv(text: str, name: str, columns: Columns) -> Iterator[_Point]:
    sample = text[:4096]
    delimiter = max(",;\t", key=sample.split("\n", 1)[0].count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = [head for head in reader.fieldnames or [] if head]
        if not names:
            raise ParseError(f"{readable(name)} is empty", hint=_HINT)
        if len(set(names)) < len(names):
            raise ParseError(f"{readable(name)}: two columns have one name")
        yield from _points(enumerate(reader), names, name, columns)
    except csv.Error as error:
        raise ParseError(f"{readable(name)}: {error}", hint=_HINT) from error


def _json_lines(text: str, name: str, columns: Columns) -> Iterator[_Point]:
    rows = []
    try:
        lines = [line for line in text.split("\n") if line.strip()]
        whole = msgspec.json.decode(text.encode("utf-8", "replace")) if lines[0].lstrip().startswith("[") else None
        rows = whole if isinstance(whole, list) else [msgspec.json.decode(line.encode("utf-8", "replace")) for line in lines]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ParseError(f"{readable(name)}: {error}", hint=_HINT) from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ParseError(f"{readable(name)}: not one object a line", hint=_HINT)
    names = list(dict.fromkeys(key for row in rows for key in row))
    yield from _points(enumerate(rows), names, name, columns)


def _prometheus_results(data: bytes) -> list[Any] | None:
    """The series in an answer of /api/v1/query_range; None if it is none.

    Raises:
        ParseError: the answer is an error.

    """
    try:
        answer = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    if answer.get("status") == "error":
        raise ParseError(f"Prometheus answered: {readable(str(answer.get('error')))[:200]}", hint="Mend the query.")
    inner = answer.get("data", answer)
    if not isinstance(inner, dict) or "resultType" not in inner:
        return None
    results = inner.get("result")
    if not isinstance(results, list):
        raise ParseError("the answer of Prometheus holds no series", hint="Ask /api/v1/query_range.")
    return results


def _prometheus(results: Sequence[Any], name: str, unit: int | None) -> Iterator[_Point]:
    """The matrix of an answer; its values are text."""
    for number, result in enumerate(results):
        if (
            not isinstance(result, dict)
            or not isinstance(result.get("metric", {}), dict)
            or not isinstance(result.get("values"), list)
        ):
            raise ParseError(f"{readable(name)}: no range of values", hint="Ask /api/v1/query_range, not /api/v1/query.")
        labels = {str(key): str(value) for key, value in result.get("metric", {}).items()}
        own = labels.pop("__name__", "")
        rest = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        title = f"{own}{{{rest}}}" if rest else own or f"{name}#{number}"
        for pair in result["values"]:
            if not isinstance(pair, list) or len(pair) != 2:
                raise ParseError(f"{readable(title)}: {str(pair)[:40]!r} is no time and value")
            yield _Point(title, _time(pair[0], title), _number(pair[1], title) * (unit or 1), "")


def _psrecord(text: str, name: str) -> Iterator[_Point]:
    """The log of psrecord: elapsed time, CPU, real and virtual MB."""
    for number, line in enumerate(text.splitlines()):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) < 3:
            raise ParseError(f"{readable(name)}, line {number + 1}: not psrecord's: {line[:60]!r}")
        yield _Point(name, _time(fields[0], name), _number(fields[2], name) * (1 << 20), "")


def _clock(words: Sequence[str], day: float, before: float) -> tuple[float, float, int]:
    """Seconds, the day that they are counted from, and how many words the time took; past midnight another day begins."""
    if re.fullmatch(r"\d{9,}", words[0]):
        return _time(words[0], "sysstat"), day, 1
    match = re.fullmatch(r"(\d{1,2}):(\d\d):(\d\d)", words[0])
    if match is None:
        raise ParseError(f"{words[0][:40]!r} is not a time of day")
    hours, used = int(match[1]), 1
    if len(words) > 1 and words[1] in ("AM", "PM"):
        hours, used = hours % 12 + (12 if words[1] == "PM" else 0), 2
    moment = day + hours * 3600 + int(match[2]) * 60 + int(match[3])
    if moment < before:
        moment, day = moment + 86400, day + 86400
    return moment, day, used


def _table(text: str, wanted: str) -> Iterator[tuple[float, dict[str, str]]]:
    """The rows of a sysstat report that has such a column."""
    heads: list[str] = []
    day, before = 0.0, 0.0
    for line in text.splitlines()[1:]:
        words = line.replace("#", " ").split()
        if not words or words[0].startswith("Average"):
            continue
        if wanted in words:
            skip = 2 if len(words) > 1 and words[1] in ("AM", "PM") else 1
            heads = words[skip:] if words[0] != "Time" else words[1:]
            if wanted not in heads:
                heads = []
            continue
        if not heads:
            continue
        before, day, used = _clock(words, day, before)
        cells = words[used:]
        if len(cells) >= len(heads):
            cells = [*cells[: len(heads) - 1], " ".join(cells[len(heads) - 1 :])]
            yield before, dict(zip(heads, cells, strict=True))


def _pidstat(text: str) -> Iterator[_Point]:
    """What pidstat -r prints: RSS in kB of each process; the same command with another pid is another epoch."""
    for moment, row in _table(text, "RSS"):
        yield _Point(row.get("Command", row.get("PID", "?")), moment, _number(row["RSS"], "pidstat") * 1024, row.get("PID", ""))


def _sar(text: str) -> Iterator[_Point]:
    """What sar -r prints: memory in use, without buffers and page cache."""
    for moment, row in _table(text, "kbmemused"):
        yield _Point("kbmemused", moment, _number(row["kbmemused"], "sar") * 1024, "")
