"""A machine as `top` shows it: made, so that every run looks the same."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence

from leakline.analysis.trend import Settings, judge
from leakline.model.memory import SystemMemory
from leakline.model.overview import Overview, ProcessRow
from leakline.model.recording import ProcessAmounts, ProcessIdentity
from leakline.model.trend import Series

KIB, MIB = 1 << 10, 1 << 20
SAMPLES = 90
# command line, user, parent, MiB, and how it goes on
_PROGRAMS = (
    ("/sbin/init", "root", 0, 4, "flat"),
    ("/usr/lib/systemd/systemd-journald", "root", 1, 31, "flat"),
    ("/usr/sbin/sshd -D", "root", 1, 3, "flat"),
    ("/usr/bin/postgres -D /var/lib/postgresql/15/main", "postgres", 1, 48, "wave"),
    ("postgres: checkpointer", "postgres", 4, 12, "flat"),
    ("postgres: walwriter", "postgres", 4, 9, "flat"),
    ("/opt/shop/bin/gateway --listen 8080", "shop", 1, 220, "leak"),
    ("/opt/shop/bin/cart --workers 4", "shop", 1, 96, "grow"),
    ("/opt/shop/bin/thumbs", "shop", 1, 340, "ramp"),
    ("/usr/bin/redis-server 127.0.0.1:6379", "redis", 1, 512, "settle"),
    ("/usr/bin/\x1b[2J\x1b]0;owned\x07evil", "nobody", 1, 7, "flat"),
    ("/opt/日本語/サーバー --設定 値", "shop", 1, 15, "flat"),
    ("nginx: master process /usr/sbin/nginx", "root", 1, 2, "flat"),
    *((f"nginx: worker process {n}", "www-data", 13, 5 + n, "flat") for n in range(12)),
)


def values(shape: str, size: float) -> list[float]:
    """What it held at each second."""
    at = range(SAMPLES)
    made = {
        "flat": [size] * SAMPLES,
        "leak": [size + t * 0.25 for t in at],
        "grow": [size + t * 0.02 + 0.3 * math.sin(t) for t in at],
        "wave": [size + 6 * math.sin(t / 4) for t in at],
        "ramp": [size + 3 * min(t, 30) for t in at],
        "settle": [size - 60 * math.exp(-t / 12) for t in at],
    }[shape]
    return [round(value * 256) * 4096.0 for value in made]


def identity(number: int) -> ProcessIdentity:
    cmdline, user, parent, _, _ = _PROGRAMS[number]
    command = os.path.basename(cmdline.split(" ")[0])[:15].rstrip(":")
    parents = {0: 0, 1: 1, 4: 1243, 13: 1309}
    return ProcessIdentity(_pid(number), 5000 + number, parents[parent], user, command, cmdline, "/system.slice/shop.service")


def _pid(number: int) -> int:
    return 1 if number == 0 else 1221 + number * 22 // 3


HELD = {_pid(number): values(shape, size) for number, (_, _, _, size, shape) in enumerate(_PROGRAMS)}


def history(process: ProcessIdentity, points: int) -> Sequence[float]:
    held = HELD[process.pid]
    return [held[round(place * (SAMPLES - 1) / (points - 1))] for place in range(points)]


def overview(*, aged: bool = True) -> Overview:
    """A minute and a half after the first look."""
    rows = []
    series = []
    for number in range(len(_PROGRAMS)):
        held = HELD[_pid(number)]
        limit = 256 * MIB if _PROGRAMS[number][4] == "leak" else None
        series.append(
            Series(name="x", times=tuple(map(float, range(SAMPLES))), values=tuple(held), limit=limit, age=9000.0 if aged else None)
        )
    for number, trend in enumerate(judge(series, Settings())):
        uss = int(HELD[_pid(number)][-1])
        unreadable = number == 2
        amounts = ProcessAmounts(
            None if unreadable else uss, None if unreadable else uss + 700 * KIB, uss + 5 * MIB, 12 * MIB if number == 9 else 0,
            uss, 5 * MIB, 0, uss // 512, uss // 4096, number,
        )  # fmt: skip
        rows.append(ProcessRow(identity(number), amounts, None if unreadable else trend))
    memory = SystemMemory(total=16 << 30, free=2 << 30, available=9 << 30, swap_total=4 << 30, swap_free=3 << 30)
    return Overview(time=_at(), elapsed=float(SAMPLES), rows=rows, memory=memory, unreadable=1)


def _at() -> float:
    return time.mktime((2026, 11, 22, 17, 42, 52, 0, 0, -1))


def moments() -> Iterator[Overview]:
    yield overview()
