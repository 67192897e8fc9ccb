"""Series of a Prometheus-compatible store: which there are, the floors of their blocks, and the samples of a few.

The floors are made by the store: `quantile_over_time(0.25, metric[W])` every W. A block holds its first moment and not its last:
Prometheus before 3 counts a sample at the left end of a range, VictoriaMetrics and Prometheus 3 do not; which it is, is asked.
"""

from __future__ import annotations

import math
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from leakline.errors import LeaklineError, NotPossible, ParseError
from leakline.model.fleet_floors import FloorBatch, RawSeries, Window
from leakline.sources.prometheus.http import Answer, decode
from leakline.sources.prometheus.shards import Shard, is_plain, quoted, shards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from leakline.sources.prometheus.http import Http

Labels = dict[str, str]
_A_REQUEST = 1000
_ALIGNED = 1_000_000_000  # a multiple of ten seconds
_QUANTILE = 0.25
_NEWCOMER = -1
"""For a series that has come since they were listed."""


class Selection(NamedTuple):
    """Which series are meant."""

    metric: str
    matchers: tuple[str, ...] = ()
    """In PromQL."""

    def __str__(self) -> str:
        return f"{self.metric}{{{','.join(self.matchers)}}}"

    def of(self, shard: Shard) -> str:
        """Only those of a shard."""
        return f"{self.metric}{{{','.join((*self.matchers, *shard.matchers))}}}"


class _Row(msgspec.Struct):
    metric: Labels
    values: list[tuple[float, float]]


class _Matrix(msgspec.Struct):
    result: list[_Row]


class _TextRow(msgspec.Struct):
    metric: Labels
    values: list[tuple[float, str]]


class _TextMatrix(msgspec.Struct):
    result: list[_TextRow]


class _Sample(msgspec.Struct):
    metric: Labels
    value: tuple[float, str]


class _Vector(msgspec.Struct):
    result: list[_Sample]


class _Table(NamedTuple):
    """A range of samples of some series, one after the other."""

    labels: list[Labels]
    lengths: NDArray[np.int64]
    times: NDArray[np.float64]
    values: NDArray[np.float64]


class PrometheusStore:
    """One store.

    Args:
        http: how it is asked.
        selection: which series.
        limits: those that say what each may reach; None for none.
        concurrency: how many requests are made at once.

    """

    def __init__(self, http: Http, selection: Selection, limits: Selection | None = None, concurrency: int = 3) -> None:
        self._http = http
        self._selection = selection
        self._limits = limits
        self._concurrency = concurrency
        self._counts_left_end: bool | None = None
        self.partial: list[str] = []
        """What is missing, and why."""

    @property
    def address(self) -> str:
        """Where it is, without secrets."""
        return self._http.address

    def series(self, window: Window) -> list[Labels]:
        """The labels of each series that has samples in the window, without the metric's name."""
        form = {"match[]": str(self._selection), "start": str(window.start), "end": str(window.end)}
        found = decode(self._noted(self._http.ask("/api/v1/series", form)), list[Labels])
        return [{name: value for name, value in labels.items() if name != "__name__"} for labels in found]

    def floors(self, series: Sequence[Mapping[str, str]], window: Window) -> Iterator[FloorBatch]:
        """The floors of all blocks, in batches as they come; of a batch that fails only why."""
        self._find_left_end()
        pieces = shards(series, _A_REQUEST)
        places = {_key(labels): number for number, labels in enumerate(series)}

        def ask(shard: Shard) -> FloorBatch:
            return _batch(self._matrix(self._floor_form(shard, window), "/api/v1/query_range"), places, window)

        for shard, found in self._each(ask, pieces):
            if isinstance(found, LeaklineError):
                self._miss(len(shard.numbers), found)
            else:
                yield found

    def samples(self, series: Sequence[Mapping[str, str]], window: Window, chosen: Sequence[int]) -> Iterator[RawSeries]:
        """The samples of some series.

        Args:
            series: the labels of all.
            window: from when to when.
            chosen: the numbers of those that are wanted.

        """
        self._find_left_end()
        pieces = shards(series, _A_REQUEST, chosen)
        places = {_key(series[number]): number for number in chosen}

        def ask(shard: Shard) -> list[RawSeries]:
            form = {"query": f"{self._selection.of(shard)}[{self._span(window.length_ms)}]", "time": _time(window.end - 0.001)}
            found = []
            table = self._matrix(form, "/api/v1/query")
            ends = np.cumsum(table.lengths)[:-1]
            for labels, times, values in zip(table.labels, np.split(table.times, ends), np.split(table.values, ends), strict=True):
                number = places.get(_key(labels))
                if number is not None:
                    order = np.argsort(times, kind="stable")
                    found.append(RawSeries(number, times[order], values[order]))
            return found

        for shard, answer in self._each(ask, pieces):
            if isinstance(answer, LeaklineError):
                self._miss(len(shard.numbers), answer)
            else:
                yield from answer

    def points(self, labels: Mapping[str, str], window: Window) -> int:
        """How many samples a series has in the window."""
        named = [f"{name}={quoted(value)}" for name, value in labels.items() if is_plain(name)]
        selection = Selection(self._selection.metric, (*self._selection.matchers, *named))
        form = {"query": f"count_over_time({selection}[{window.length_ms}ms])", "time": _time(window.end)}
        vector = decode(self._noted(self._http.ask("/api/v1/query", form)), _Vector)
        return int(max((_number(sample.value[1]) for sample in vector.result), default=0.0))

    def limits(self, window: Window) -> list[tuple[Labels, float]]:
        """What each series of the limits' metric said last; none that is not above 0."""
        if self._limits is None:
            return []
        form = {"query": f"last_over_time({self._limits}[{window.length_ms}ms])", "time": _time(window.end)}
        vector = decode(self._noted(self._http.ask("/api/v1/query", form)), _Vector)
        found = []
        for sample in vector.result:
            value = _number(sample.value[1])
            if math.isfinite(value) and value > 0:
                found.append(({name: text for name, text in sample.metric.items() if name != "__name__"}, value))
        return found

    def _find_left_end(self) -> None:
        if self._counts_left_end is None:
            form = {"query": "count_over_time(vector(1)[10s:10s])", "time": str(_ALIGNED)}
            vector = decode(self._noted(self._http.ask("/api/v1/query", form)), _Vector)
            if len(vector.result) != 1 or vector.result[0].value[1] not in ("1", "2"):
                raise NotPossible(
                    "the store does not count as Prometheus does", hint="Prometheus, VictoriaMetrics, Thanos and Mimir do."
                )
            self._counts_left_end = vector.result[0].value[1] == "2"

    def _span(self, milliseconds: int) -> str:
        """A range that holds so many milliseconds: with its left end one more than it says."""
        return f"{milliseconds - 1 if self._counts_left_end else milliseconds}ms"

    def _floor_form(self, shard: Shard, window: Window) -> dict[str, str]:
        width = window.width_ms
        first = window.start + width / 1000 - 0.001
        return {
            "query": f"quantile_over_time({_QUANTILE}, {self._selection.of(shard)}[{self._span(width)}])",
            "start": _time(first),
            "end": _time(first + width / 1000 * (window.blocks - 1)),
            "step": f"{width}ms",
            "nocache": "1",  # VictoriaMetrics moves the ends of a range otherwise
        }

    def _matrix(self, form: Mapping[str, str], path: str) -> _Table:
        answer = self._noted(self._http.ask(path, form))
        try:
            rows = [(row.metric, row.values) for row in decode(answer, _Matrix, strict=False).result]
        except ParseError:  # +Inf and its like are text that only Python reads
            text = decode(answer, _TextMatrix)
            rows = [(row.metric, [(at, _number(value)) for at, value in row.values]) for row in text.result]
        pairs = np.array([pair for _, values in rows for pair in values], dtype=float).reshape(-1, 2)
        return _Table(
            [labels for labels, _ in rows],
            np.array([len(values) for _, values in rows], dtype=np.int64),
            pairs[:, 0],
            np.where(np.isfinite(pairs[:, 1]), pairs[:, 1], np.nan),
        )

    def _noted(self, answer: Answer) -> Answer:
        for text in answer.warnings:
            if text not in self.partial:
                self.partial.append(text)
        return answer

    def _miss(self, count: int, error: LeaklineError) -> None:
        self.partial.append(f"{count:,} series are missing: {error.message}")

    def _each(self, ask: Callable[[Shard], Any], pieces: Iterable[Shard]) -> Iterator[tuple[Shard, Any]]:
        """What each request brings, or its error, in whatever order they end; few are made ahead of whoever reads them."""
        rest = iter(pieces)
        pool = ThreadPoolExecutor(self._concurrency)
        try:
            running: dict[Future[Any], Shard] = {pool.submit(ask, shard): shard for shard in islice(rest, self._concurrency)}
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    shard = running.pop(future)
                    following = next(rest, None)
                    if following is not None:
                        running[pool.submit(ask, following)] = following
                    try:
                        yield shard, future.result()
                    except LeaklineError as error:
                        yield shard, error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # whoever presses Ctrl-C does not wait for an answer


def _batch(table: _Table, places: Mapping[frozenset[tuple[str, str]], int], window: Window) -> FloorBatch:
    numbers = np.array([places.get(_key(labels), _NEWCOMER) for labels in table.labels], dtype=np.int64)
    blocks = np.rint((table.times - window.start) * 1000 / window.width_ms).astype(np.int64) - 1
    if len(blocks) and (blocks.min() < 0 or blocks.max() >= window.blocks):
        raise ParseError("the store answers with times that nobody asked for", hint="Check --prometheus.")
    floors = np.full((len(numbers), window.blocks), np.nan)
    floors[np.repeat(np.arange(len(numbers)), table.lengths), blocks] = table.values
    known = numbers != _NEWCOMER
    return FloorBatch(numbers[known], floors[known])


def _key(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in labels.items() if name != "__name__")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ParseError(f"the store answers with {text[:40]!r}, which is no number", hint="Check --prometheus.") from error


def _time(seconds: float) -> str:
    return f"{seconds:.3f}"
