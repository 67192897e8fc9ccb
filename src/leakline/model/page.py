"""What a page shows: all that was read from recordings, findings and tables, and nothing that is yet to be worked out."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from leakline.model.faults import FaultReport
from leakline.model.finding import Report
from leakline.model.mappings import VmaTable
from leakline.model.recording import Extremes
from leakline.model.trend import SeriesTrend, TrendCurve


class SourceExcerpt(msgspec.Struct, frozen=True, kw_only=True):
    """Some lines around a place in the code."""

    first: int
    """The number of the first of them."""
    lines: tuple[str, ...]


class DrawnSeries(NamedTuple):
    """One series, what is judged of it, and what that rests on."""

    kind: str
    """process, mapping, cgroup, slab, meminfo."""
    trend: SeriesTrend
    extremes: Extremes
    curve: TrendCurve | None
    """None where it is too short for one, or not worth a large chart."""


class StackedAmounts(NamedTuple):
    """Parts of a whole over time, at moments that were really seen: of each stretch that with the least and that with the most."""

    name: str
    """Of the whole."""
    times: tuple[float, ...]
    """Seconds since the recording began."""
    parts: dict[str, tuple[float, ...]]
    """Bytes of each, 0 where it was not there; the largest first."""


class PageRecording(msgspec.Struct, frozen=True, kw_only=True):
    """What a page shows of one recording."""

    name: str
    host: str | None
    kernel: str | None
    began: float | None
    """Seconds since 1970."""
    duration: float
    interval: float
    """Seconds."""
    ticks: int
    series: tuple[DrawnSeries, ...]
    """The worst first."""
    left_out: int
    """Series that are not among them."""
    compositions: tuple[StackedAmounts, ...]
    """Of processes by groups of mappings."""
    system: StackedAmounts | None
    """Owners of MemTotal."""
    slabs: StackedAmounts | None
    """The kernel's caches."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A whole page."""

    title: str
    files: tuple[str, ...]
    made: float
    """When: seconds since 1970."""
    reports: tuple[Report, ...] = ()
    excerpts: dict[tuple[str, int], SourceExcerpt] = {}
    """By file and line of a finding's place."""
    recordings: tuple[PageRecording, ...] = ()
    mappings: tuple[VmaTable, ...] = ()
    faults: tuple[FaultReport, ...] = ()
