"""Recordings: what is written is read again, whatever becomes of the writer or of the file."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakline.errors import InvalidRequest, LeaklineError, ParseError
from leakline.model.recording import CounterValue, ProcessAmounts, ProcessIdentity, RecordingStart, Tick
from leakline.store.reader import RecordingReader
from leakline.store.rows import amounts_after, row_of
from leakline.store.writer import RecordingWriter

START = RecordingStart(boot_id="boot-1", host="host", kernel="6.18", interval=1.0, ticks_per_second=100, memory=8 << 30)


def who(pid: int, start: int = 5, command: str = "server") -> ProcessIdentity:
    return ProcessIdentity(pid, start, 1, "user", command, f"/usr/bin/{command}", "/group")


def holding(uss: int | None, swap: int | None = 0, rss: int | None = 9 << 20) -> ProcessAmounts:
    return ProcessAmounts(uss, uss, rss, swap, uss, 0, None, 8192, 7, 1)


def at(number: int, jump: float = 0.0) -> Tick:
    return Tick(time=1e9 + number + jump, boottime=100.0 + number, fresh=1, oldest=0.0)


def series(path: Path) -> dict[str, Any]:
    with RecordingReader(path) as reader:
        return {one.name: one for one in (*reader.processes(), *reader.counters(("meminfo", "slab", "cgroup", "mapping")))}


amounts = st.tuples(*[st.none() | st.integers(0, 1 << 40)] * 8, st.integers(0, 1 << 40), st.integers(0, 1 << 40))


@given(st.lists(amounts, min_size=1, max_size=12))
def test_rows_lead_from_one_to_the_next(history: list[tuple[int | None, ...]]) -> None:
    before: tuple[int | None, ...] | None = None
    seen: tuple[int | None, ...] | None = None
    for now in history:
        seen = amounts_after(seen, row_of(before, now))
        assert seen == now
        before = now


steps = st.lists(
    st.dictionaries(st.integers(1, 4), st.none() | st.integers(0, 1 << 20).map(lambda kib: kib << 10), max_size=4),
    min_size=1,
    max_size=40,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps, st.booleans())
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, history: list[dict[int, int | None]], again: bool
) -> None:
    """Each step says what each process holds; who is not in it any more has ended."""
    path = tmp_path_factory.mktemp("store") / "x"
    expected: dict[str, list[tuple[float, float]]] = {}
    before: set[int] = set()
    starts: dict[int, int] = {}
    writer = RecordingWriter(path, START)
    for number, now in enumerate(history):
        if again and number == len(history) // 2:
            writer.close()
            writer = RecordingWriter(path, START, append=True)
        for pid in now.keys() - before:
            starts[pid] = number
        ended = [who(pid, starts[pid], f"c{pid}") for pid in before - now.keys()]
        writer.write(at(number), [(who(pid, starts[pid], f"c{pid}"), holding(uss)) for pid, uss in now.items()], ended)
        for pid, uss in now.items():
            expected.setdefault(f"c{pid}", []).append((float(number), float(9 << 20) if uss is None else float(uss)))
        before = set(now)
    writer.close()
    found = series(path)
    assert {name.split(" ")[0] for name in found} == set(expected)
    for name, one in found.items():
        assert list(zip(one.times, one.values, strict=True)) == expected[name.split(" ")[0]]


def test_a_restart_is_an_epoch_and_a_jump_of_the_clock_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with RecordingWriter(path, START) as writer:
        for number in range(10):
            pid = 10 if number < 4 else 11
            writer.write(at(number, jump=3600.0 * (number > 6)), [(who(pid), holding(1 << 20))], [who(10)] if number == 4 else [])
    (one,) = series(path).values()
    assert one.name == "server (11)"
    assert one.times == tuple(map(float, range(10)))
    assert one.epochs == (0, 0, 0, 0, 1, 1, 1, 1, 1, 1)
    assert one.age == pytest.approx(109 - 0.05)


def test_another_boot_goes_on_behind_the_last(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with RecordingWriter(path, START) as writer:
        for number in range(5):
            writer.write(at(number), [(who(10), holding(1 << 20))])
    with RecordingWriter(path, START._replace(boot_id="boot-2"), append=True) as writer:
        for number in range(5):
            writer.write(Tick(1e9 + 100 + number, 3.0 + number, 1, 0.0), [(who(10), holding(2 << 20))])
        assert (writer.ticks, writer.processes) == (10, 2)
    (one,) = series(path).values()
    assert one.times == (0, 1, 2, 3, 4, 100, 101, 102, 103, 104), "what was not recorded is a gap, not a zero"
    assert one.epochs == (0,) * 5 + (1,) * 5


def test_counters_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with RecordingWriter(path, START) as writer:
        for number in range(6):
            slab = [CounterValue("slab", "dentry", (10 + number) << 10, reclaimable=True)] if number != 3 else []
            left = [CounterValue("meminfo", "MemAvailable", 1 << 30), CounterValue("meminfo", "SwapFree", 1 << 20)]
            heap = [CounterValue("mapping", "[heap]", 4096, who(10))]
            writer.write(at(number), [(who(10), holding(4096))], (), {"slab": slab, "meminfo": left, "mapping": heap})
    found = series(path)
    assert found["dentry"].reclaimable
    assert [value / 1024 for value in found["dentry"].values if not math.isnan(value)] == [10, 11, 12, 14, 15]
    assert found["server (10) [heap]"].values == (4096.0,) * 6
    assert found["server (10)"].available == (1 << 30) + (1 << 20)


def test_thinning_keeps_the_floor_of_every_series(tmp_path: Path) -> None:
    thick, thin = tmp_path / "thick", tmp_path / "thin"
    rng = np.random.default_rng(3)
    values = (5e6 + 2000.0 * np.arange(3000) + rng.uniform(0, 3e6, 3000)).astype(int)
    for path, keep in ((thick, None), (thin, 240)):
        with RecordingWriter(path, START, keep=keep) as writer:
            for number, value in enumerate(values.tolist()):
                short = [(who(100 + number, number, f"short{number % 3}"), holding(1 << 20))]
                gone = [who(100 + number - 1, number - 1, f"short{(number - 1) % 3}")] if number else []
                writer.write(at(number), [(who(10), holding(value)), (who(11, 6, "idle"), holding(1 << 20)), *short], gone)
            assert writer.ticks == 3000, "the number of ticks that were taken"
    with sqlite3.connect(thin) as connection:
        (rows,) = connection.execute("SELECT COUNT(*) FROM tick").fetchone()
        assert 240 <= rows <= 240 + 10 + 2760 / 10 + 1
    connection.close()
    whole, rest = series(thick), series(thin)
    assert (
        {name.split(" ")[0] for name in whole}
        == {name.split(" ")[0] for name in rest}
        == {"server", "idle", "short0", "short1", "short2"}
    )
    assert set(rest["idle (11)"].values) == {float(1 << 20)}
    times, kept = np.array(rest["server (10)"].times), np.array(rest["server (10)"].values)
    assert times[-1] - times[0] > 2900
    old = [float(sorted(values[first : first + 10])[2] // 1024 * 1024) for first in range(0, 2740, 10)]
    assert kept[: len(old)].tolist() == old, "the third lowest of each ten"
    assert np.all(np.isin(kept[times > 2999 - 240], values // 1024 * 1024))


def test_a_thinned_recording_can_be_read_at_any_moment(tmp_path: Path) -> None:
    """Rows that follow a thinned block still mean what they meant."""
    path = tmp_path / "x"
    history = [[(1 + (number * pid) % 5) << 20 for pid in (1, 2, 3)] for number in range(120)]
    with RecordingWriter(path, START, keep=24) as writer:
        for number, now in enumerate(history):
            writer.write(at(number), [(who(pid, 5, f"c{pid}"), holding(uss)) for pid, uss in zip((1, 2, 3), now, strict=True)])
            for pid, one in zip((1, 2, 3), sorted(series(path).values(), key=lambda one: one.name), strict=True):
                last = min(20, number + 1)
                assert list(one.values[-last:]) == [float(step[pid - 1]) for step in history[number + 1 - last : number + 1]]


def test_what_may_be_opened_and_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with RecordingWriter(path, START) as writer:
        writer.write(at(0), [(who(1), holding(1))])
        with pytest.raises(InvalidRequest, match="is being recorded to"):
            RecordingWriter(path, START, append=True)
    with pytest.raises(InvalidRequest, match="exists"):
        RecordingWriter(path, START)
    other = tmp_path / "other"
    sqlite3.connect(other).execute("CREATE TABLE t (x)").connection.close()
    for damaged in (other, Path("/dev/null")):
        with pytest.raises(LeaklineError):
            RecordingReader(damaged)
    with pytest.raises(ParseError, match="is no recording"):
        RecordingWriter(other, START, append=True)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(ParseError, match="version 9"):
        RecordingReader(path)


def test_tables_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with RecordingWriter(path, START) as writer:
        writer.write(at(0), [(who(1), holding(1))])
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE process_row")
        connection.execute(
            "CREATE VIEW process_row AS WITH RECURSIVE r(key) AS (SELECT 1 UNION ALL SELECT key FROM r) SELECT * FROM r"
        )
    connection.close()
    with pytest.raises(ParseError, match="not those of a recording"):
        RecordingReader(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40959), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6), st.integers(0, 41000))
def test_a_damaged_recording_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, bytes]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x"
    with RecordingWriter(path, START) as writer:
        for number in range(4):
            counters = [CounterValue("meminfo", "MemAvailable", number << 20)]
            writer.write(at(number), [(who(pid), holding(number << 12)) for pid in range(1, 30)], (), {"meminfo": counters})
    data = bytearray(path.read_bytes())
    for place, noise in damage:
        data[place : place + len(noise)] = noise
    path.write_bytes(bytes(data[:cut]) if cut < 40000 else bytes(data))
    try:
        found = series(path)
    except LeaklineError:
        return
    assert all(len(one.times) == len(one.values) for one in found.values())


def test_what_a_review_found(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with RecordingWriter(path, START, keep=24) as writer:
        for number in range(400):
            gone = [who(9 + n + 5 * (number - 1), number - 1) for n in range(5)] if number else []
            here = [who(9 + n + 5 * number, number) for n in range(5)]
            heaps = [CounterValue("mapping", f"[{n}]", 4096, one) for one in here for n in range(5)]
            writer.write(at(number), [(one, holding(1 << 20)) for one in here], gone, {"mapping": heaps})
    with sqlite3.connect(path) as connection:
        (rows,) = connection.execute("SELECT COUNT(*) FROM counter_row").fetchone()
        (processes,) = connection.execute("SELECT COUNT(*) FROM process").fetchone()
    connection.close()
    assert rows < 3000, "what is gone is said once"
    assert processes < 200, "who came and went within a block is forgotten"

    path = tmp_path / "restarts"
    with RecordingWriter(path, START, keep=240) as writer:
        for number in range(1500):
            run = number // 6
            writer.write(
                at(number),
                [(who(100 + run, 6 * run), holding(1 << 20))],
                [who(99 + run, 6 * run - 6)] if run and number % 6 == 0 else [],
            )
    assert len(series(path)) == 1, "one service, however often it was started anew"

    link, unknown = tmp_path / "link", tmp_path / "unknown"
    link.symlink_to(path)
    with RecordingWriter(link, START, append=True) as writer:
        writer.write(at(2000), [(who(1), holding(1))])
        assert any(name == "server (1)" for name in series(link)), "while it goes on"
    with RecordingWriter(unknown, START) as writer:
        writer.write(at(0), [(who(1), holding(None, None, None))])
    assert series(unknown) == {}, "nothing is known of it"

    empty = tmp_path / "empty"
    with sqlite3.connect(empty) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    with RecordingWriter(empty, START, append=True) as writer:
        writer.write(at(0), [(who(1), holding(1))])
    with RecordingWriter(empty, START, replace=True) as writer:
        assert writer.ticks == 0
        with pytest.raises(InvalidRequest, match="is being recorded to"):
            RecordingWriter(empty, START, replace=True)
    with sqlite3.connect(empty) as connection:
        connection.execute("INSERT INTO tick (id, time, boottime, fresh, oldest) VALUES (?, 0, 0, 0, 0)", ((1 << 62),))
    connection.close()
    with pytest.raises(ParseError):
        RecordingWriter(empty, START, append=True)
