"""One page from recordings, findings, mappings and page faults: read, judged, and put together.

`html_report(gather([Path("server.leakline"), Path("findings.json")], say))` is the whole file.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from leakline import __version__
from leakline.analysis.system_owners import owners_of
from leakline.analysis.trend import Settings, curve_of, judge
from leakline.errors import InvalidRequest, LeaklineError, ParseError
from leakline.model.faults import FaultReport, FaultReports
from leakline.model.names import readable
from leakline.model.page import DrawnSeries, Page, PageRecording, StackedAmounts
from leakline.present.export.samples import all_reports, process_name
from leakline.present.html.page import render
from leakline.session.judging import KERNEL_COUNTERS, series_of, severity
from leakline.session.reading_reports import read_reports
from leakline.session.source_excerpts import excerpts_of
from leakline.sources.saved_tables import load_mappings
from leakline.store.reader import RecordingReader
from leakline.store.schema import is_recording

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from leakline.model.finding import Report
    from leakline.model.mappings import VmaMemory, VmaTable, VmaTotals
    from leakline.model.recording import Moments, RecordedSeries
    from leakline.model.trend import SeriesTrend

_SCHEMA = re.compile(rb'\A\s*\{\s*"schema"\s*:\s*"leakline\.(maps|faults)/')
_STRETCHES = 480
_MOMENTS = 160
_MOST_SERIES = 400
_MOST_CURVES = 60
_MOST_COMPOSITIONS = 6
_MOST_QUIET = 3
_MOST_PARTS = 7
_LARGEST = 256 << 20
_GIVEN_BACK = ("slab, reclaimable", "buffers", "page cache", "free")
"""What is not taken, or comes back when it is needed, on top of the others."""
_IMPOSSIBLE = 1 << 64
_LONGEST = 1e11
"""Seconds: 3,000 years."""
_FAULTS_HINT = "`leakline faults PID --json -o FILE` writes one."


def html_report(page: Page) -> bytes:
    """The page as one file that needs nothing else.

    Raises:
        NotPossible: jinja2 is not installed.

    """
    return render(page, __version__)


def page_of_reports(reports: Sequence[Report], *, source: bool = True) -> Page:
    """A page of findings alone.

    Args:
        reports: one for each target; their children come with them.
        source: show the lines around a finding, where its source file can be read here.

    """
    names = [report.target.command for report in reports if report.target is not None]
    title = names[0] if len(set(names)) == 1 else "Findings"
    return Page(title=title, files=(), made=time.time(), reports=tuple(reports), excerpts=excerpts_of(reports) if source else {})


def page_of_faults(reports: Sequence[FaultReport]) -> Page:
    """A page of page faults alone."""
    names = {report.target.command for report in reports}
    return Page(
        title=names.pop() if len(names) == 1 else "Page faults",
        files=(),
        made=time.time(),
        faults=tuple(reports),
        excerpts=excerpts_of((), reports),
    )


def gather(
    paths: Sequence[Path],
    say: Callable[[str], None],
    *,
    settings: Settings = Settings(),  # noqa: B008  an immutable tuple
    limit: int | None = None,
    pattern: re.Pattern[str] | None = None,
    keep: Callable[[Sequence[Report]], Sequence[Report]] = lambda reports: reports,
    source: bool = True,
) -> Page:
    """Read files of any kind, and judge what is recorded in them. What cannot be read is said, and left out.

    Args:
        paths: recordings, findings of anybody's checker, `maps --json`, `faults --json`; `-` is standard input (findings).
        say: hears what could not be read.
        settings: warm-up and horizon.
        limit: bytes that each process may reach; None for what memory and swap had left at the end.
        pattern: of recordings only series whose name this finds.
        keep: leaves out findings that nobody wants to see.
        source: show the lines around a finding, where its source file can be read here.

    Raises:
        LeaklineError: nothing could be read; where there is one file, why.

    """
    recordings: list[PageRecording] = []
    mappings: list[VmaTable] = []
    faults: list[FaultReport] = []
    recorded: list[Path] = []
    others: list[Path] = []
    errors: list[LeaklineError] = []
    for path in paths:
        try:
            match _kind(path):
                case "recording":
                    recorded.append(path)
                case "maps":
                    mappings.append(_mappings(path))
                case "faults":
                    faults += _faults(path)
                case None:
                    others.append(path)
        except LeaklineError as error:
            errors.append(error)
    reports: list[Report] = []
    if others:
        try:
            reports = list(keep(read_reports(others, say)))
        except LeaklineError as error:
            errors.append(error)
    about = {process_name(report) for report in all_reports(reports) if report.findings}
    about |= {f"{table.command} ({table.pid})" for table in mappings}
    for path in recorded:
        try:
            recordings.append(_recording(path, settings, limit, pattern, about))
        except LeaklineError as error:
            errors.append(error)
    if not (recordings or mappings or faults or reports) and errors:
        raise errors[0]
    for unread in errors:
        say(f"not read: {unread.message}")
    return Page(
        title=", ".join(readable(path.name) for path in paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else ""),
        files=tuple(readable(str(path)) for path in paths),
        made=time.time(),
        reports=tuple(reports),
        excerpts=excerpts_of(reports, faults) if source else {},
        recordings=tuple(recordings),
        mappings=tuple(mappings),
        faults=tuple(faults),
    )


def _kind(path: Path) -> Literal["recording", "maps", "faults"] | None:
    if str(path) == "-" or not path.is_file():
        return None
    if is_recording(path):
        return "recording"
    with path.open("rb") as file:
        found = _SCHEMA.match(file.read(4096))
    return None if found is None else "maps" if found[1] == b"maps" else "faults"


def _mappings(path: Path) -> VmaTable:
    table = load_mappings(path)
    rows: list[VmaMemory | VmaTotals] = [*(table.vmas or ()), table.totals]
    for row in rows:
        if not all(0 <= amount < _IMPOSSIBLE for amount in (row.size, row.rss, row.pss, row.uss, row.dirty, row.swap)):
            raise ParseError(f"{path}: a mapping has amounts that no machine has")
    return table


def _faults(path: Path) -> list[FaultReport]:
    reports = _decoded_faults(path)
    for report in reports:
        counts = [report.seen.minor or 0, report.seen.major or 0, report.lost]
        counts += [number for group in report.faults for number in (group.count, group.bytes, group.address or 0)]
        counts += [count for moment in report.timeline for count in moment.counts.values()]
        times = [report.seconds, *(moment.seconds for moment in report.timeline)]
        if not all(0 <= count < _IMPOSSIBLE for count in counts) or not all(0 <= time < _LONGEST for time in times):
            raise ParseError(f"{path}: it has counts or times that no machine has")
    return reports


def _decoded_faults(path: Path) -> list[FaultReport]:
    try:
        if path.stat().st_size > _LARGEST:
            raise ParseError(f"{path} is larger than {_LARGEST >> 20} MiB", hint=_FAULTS_HINT)
        data = path.read_bytes()
        if msgspec.json.decode(data, type=_Head).targets is msgspec.UNSET:
            return [msgspec.json.decode(data, type=FaultReport)]
        return list(msgspec.json.decode(data, type=FaultReports).targets)
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}", hint=_FAULTS_HINT) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ParseError(f"{path} is not what `faults --json` prints: {error}", hint=_FAULTS_HINT) from error


class _Head(msgspec.Struct):
    targets: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def _recording(
    path: Path, settings: Settings, limit: int | None, pattern: re.Pattern[str] | None, about: Collection[str]
) -> PageRecording:
    with RecordingReader(path, _STRETCHES) as reader:
        services = [(one, series_of(one, limit)) for one in reader.processes()]
        trends = judge([series for _, series in services], settings)
        judged = {one.name: trend for (one, _), trend in zip(services, trends, strict=True)}
        suspects = {name for name, trend in judged.items() if trend.is_noteworthy}
        counters = [*reader.counters(("meminfo", "slab", "cgroup"), KERNEL_COUNTERS)]
        if suspects:
            counters += reader.counters(("mapping",), processes=suspects)
        others = [(one, series_of(one, None)) for one in counters]
        made = [*services, *others]
        trends += judge([series for _, series in others], settings)
        if pattern is not None:
            kept = [at for at, (_, series) in enumerate(made) if pattern.search(series.name)]
            made, trends = [made[at] for at in kept], [trends[at] for at in kept]
            if not made:
                raise InvalidRequest(f"{path} holds no such series", hint="`leakline trend FILE --all` lists them.")
        order = sorted(range(len(made)), key=lambda at: (severity(trends[at]), made[at][0].kind != "process"))
        drawn: list[DrawnSeries] = []
        for at in order[:_MOST_SERIES]:
            one, series = made[at]
            large = len(drawn) < _MOST_CURVES or trends[at].is_noteworthy
            if one.extremes is not None:
                drawn.append(DrawnSeries(one.kind, trends[at], one.extremes, curve_of(series) if large else None))
        host, kernel = reader.machine or (None, None)
        return PageRecording(
            name=readable(path.name),
            host=host,
            kernel=kernel,
            began=reader.began if reader.began is not None and 0 <= reader.began < _LONGEST else None,
            duration=float(reader.times[-1] - reader.times[0]) if len(reader.times) else 0.0,
            interval=reader.interval,
            ticks=len(reader.times),
            series=tuple(drawn),
            left_out=len(made) - len(drawn),
            compositions=tuple(_compositions(reader, [one for one, _ in services], judged, about)),
            system=_owners(reader.moments("meminfo", _MOMENTS, lead="MemFree")),
            slabs=_stacked("slab", reader.moments("slab", _MOMENTS)),
        )


def _compositions(
    reader: RecordingReader, services: Sequence[RecordedSeries], judged: dict[str, SeriesTrend], about: Collection[str]
) -> list[StackedAmounts]:
    """Of those that other files tell of, then of those that may grow, the worst first; else of the largest."""
    mapped = set(reader.mapped_processes())
    here = [one for one in services if one.name in mapped]
    chosen = [one.name for one in here if one.name in about or judged[one.name].is_noteworthy]
    chosen.sort(key=lambda name: (name not in about, severity(judged[name])))
    largest = sorted(here, key=lambda one: one.values[-1] if one.values[-1] == one.values[-1] else 0.0, reverse=True)
    chosen = chosen or [one.name for one in largest[:_MOST_QUIET]]
    found = [_stacked(name, reader.moments("mapping", _MOMENTS, process=name)) for name in chosen[:_MOST_COMPOSITIONS]]
    return [one for one in found if one is not None]


def _stacked(name: str, moments: Moments | None) -> StackedAmounts | None:
    """The largest parts, and all others as one."""
    if moments is None or len(moments.times) < 2:
        return None
    parts = {part: tuple(0.0 if value != value else value for value in values) for part, values in moments.values.items()}
    ranked = sorted(parts, key=lambda part: max(parts[part]) + 4 * (max(parts[part]) - min(parts[part])), reverse=True)
    most = _MOST_PARTS if len(ranked) != _MOST_PARTS + 1 else _MOST_PARTS + 1
    shown = {part: parts[part] for part in ranked[:most]}
    rest = [parts[part] for part in ranked[most:]]
    if rest:
        shown[f"{len(rest)} others"] = tuple(map(sum, zip(*rest, strict=True)))
    return StackedAmounts(name, moments.times, shown)


def _owners(moments: Moments | None) -> StackedAmounts | None:
    """Where all of MemTotal was; what is small is one part."""
    if moments is None or len(moments.times) < 2:
        return None
    times: list[float] = []
    rows: list[dict[str, float]] = []
    for at, moment in enumerate(moments.times):
        amounts = {name: int(values[at]) for name, values in moments.values.items() if values[at] == values[at]}
        if {"MemTotal", "SwapCached"} <= amounts.keys():
            times.append(moment)
            rows.append({owner.name: float(owner.bytes) for owner in owners_of(amounts, None)})
    if len(times) < 2:
        return None
    peaks: Counter[str] = Counter()
    for row in rows:
        for name, value in row.items():
            peaks[name] = max(peaks[name], int(value))
    whole = max(sum(row.values()) for row in rows)
    shown = [name for name in rows[0] if peaks[name] >= whole / 200 or name == "unexplained"]
    taken = {name: tuple(row.get(name, 0.0) for row in rows) for name in shown}
    rest = [name for name in peaks if name not in shown]
    if any(peaks[name] for name in rest):
        taken["all others"] = tuple(sum(row.get(name, 0.0) for name in rest) for row in rows)
    parts = {name: values for name, values in taken.items() if name not in _GIVEN_BACK}
    parts |= {name: taken[name] for name in _GIVEN_BACK if name in taken}
    return StackedAmounts("MemTotal", tuple(times), parts)
