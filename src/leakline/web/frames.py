"""What goes to browsers: rows of processes, differences from look to look, one process in depth; as server-sent events.

Source: WHATWG HTML, 9.2 Server-sent events. The data of an event is JSON in one line.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from leakline.present.trends import explain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from leakline.model.live import MachineView, Points, ProcessDepth, ProcessView, View

_SPARK_POINTS = 40
_MOST_POINTS = 300
_MOST_MACHINE = 600
_RETRY_MS = 2000
_encode = msgspec.json.Encoder().encode


class Frames:
    """Makes frames of views, and knows what the last one said.

    Args:
        about: what does not change: the host, the version, whether it is a recording.

    """

    def __init__(self, about: dict[str, Any]) -> None:
        self._about = about
        self._rows: dict[str, bytes] = {}
        self._machine: deque[tuple[float, int | None]] = deque(maxlen=_MOST_MACHINE)
        self._last: View | None = None

    def difference(self, view: View, identifier: str) -> bytes:
        """What changed since the last view."""
        rows = {process.key: _encode(_row(process)) for process in view.processes}
        changed = [row for key, row in rows.items() if self._rows.get(key) != row]
        gone = [key for key in self._rows if key not in rows]
        self._rows, self._last = rows, view
        if view.past is None:
            self._machine.append((view.time, view.machine.used))
            head = _encode({**_head(view), "gone": gone})
        else:
            self._machine = deque(zip(view.past.times, view.past.used, strict=True), maxlen=_MOST_MACHINE)
            head = _encode({**_head(view), "gone": gone, "history": self._history()})
        return _event("tick", head[:-1] + b',"rows":[' + b",".join(changed) + b"]}", identifier)

    def whole(self, identifier: str, sparks: bytes) -> bytes:
        """All that a client must know that comes now.

        Args:
            identifier: of the last view.
            sparks: what `sparks` made.

        """
        view = self._last
        if view is None:
            return f"retry: {_RETRY_MS}\n\n".encode()
        head = _encode({**_head(view), "about": self._about, "history": self._history()})
        rows = head[:-1] + b',"sparks":' + sparks + b',"rows":[' + b",".join(self._rows.values()) + b"]}"
        return f"retry: {_RETRY_MS}\n".encode() + _event("all", rows, identifier)

    def _history(self) -> dict[str, list[Any]]:
        return {"times": [round(when, 2) for when, _ in self._machine], "used": [used for _, used in self._machine]}


def sparks(histories: Mapping[str, Points]) -> bytes:
    """What each process held, in a few points, as JSON."""
    return _encode({key: _thinned(points.values, _SPARK_POINTS) for key, points in histories.items()})


def depth_frame(key: str, depth: ProcessDepth | None) -> bytes:
    """One process in depth."""
    return _event("process", _encode(depth_of(key, depth)), None)


def depth_of(key: str, depth: ProcessDepth | None) -> dict[str, Any]:
    """One process in depth, as plain values; what only said that it is gone where it is not known."""
    if depth is None:
        return {"key": key, "known": False}
    trend = depth.process.trend
    held = depth.held
    step = max(1, -(-len(held.times) // _MOST_POINTS))
    kinds = max(1, -(-len(depth.kind_times) // _MOST_POINTS))
    return {
        "key": key,
        "known": True,
        "ended": depth.ended,
        "row": _row(depth.process),
        "why": None if trend is None else explain(trend),
        "held": {"times": _rounded(held.times[::-1][::step][::-1]), "values": _whole(held.values[::-1][::step][::-1])},
        "kinds": {
            "times": _rounded(depth.kind_times[::-1][::kinds][::-1]),
            "values": {name: values[::-1][::kinds][::-1] for name, values in depth.kinds.items()},
            "unknown": depth.kinds_unknown,
        },
    }


def _head(view: View) -> dict[str, Any]:
    verdicts = [process.trend.verdict for process in view.processes if process.trend is not None]
    return {
        "time": round(view.time, 3),
        "machine": _machine(view.machine),
        "unreadable": view.unreadable,
        "growing": sum(process.accuses for process in view.processes),
        "leaking": verdicts.count("LEAK"),
        "ended": view.ended,
        "trouble": view.trouble,
    }


def _machine(machine: MachineView) -> dict[str, Any]:
    return {**msgspec.structs.asdict(machine), "used": machine.used, "swap_used": machine.swap_used}


def _row(process: ProcessView) -> dict[str, Any]:
    row = msgspec.structs.asdict(process)
    trend = row.pop("trend")
    row["verdict"] = None if trend is None else trend.verdict
    row["at_risk"] = trend is not None and trend.at_risk
    row["probability"] = None if trend is None or trend.probability is None else round(trend.probability, 4)
    row["rate"] = None if trend is None else trend.rate_bytes_per_second
    row["rate_interval"] = None if trend is None else trend.rate_interval
    row["limit"] = None if trend is None else trend.limit
    row["eta"] = None if trend is None else trend.limit_eta_seconds
    return {name: _text(value) if isinstance(value, str) else value for name, value in row.items()}


def _text(name: str) -> str:
    """A name that can stand in UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _thinned(values: Sequence[float], most: int) -> list[int | None]:
    step = max(1, -(-len(values) // most))
    return _whole(values[::-1][::step][::-1])


def _whole(values: Sequence[float]) -> list[int | None]:
    return [int(value) if value == value else None for value in values]  # NaN is not itself


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 2) for value in values]


def _event(name: str, data: bytes, identifier: str | None) -> bytes:
    head = f"event: {name}\n" if identifier is None else f"event: {name}\nid: {identifier}\n"
    return head.encode() + b"data: " + data + b"\n\n"
