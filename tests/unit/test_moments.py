"""A recording moment by moment: what was written stands at each tick, and no file brings the screen down."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakline.analysis.trend import Settings
from leakline.errors import LeaklineError
from leakline.model.recording import CounterValue, ProcessAmounts, ProcessIdentity, RecordingStart, Tick
from leakline.session.replaying import Replay
from leakline.store.moments import MomentsReader
from leakline.store.writer import RecordingWriter
from leakline.tui.listing import ProcessList
from leakline.tui.parts import Timeline

START = RecordingStart(boot_id="boot-1", host="host", kernel="6.18", interval=1.0, ticks_per_second=100, memory=8 << 30)


def who(pid: int, start: int = 5) -> ProcessIdentity:
    return ProcessIdentity(pid, start, 1, "user", "server", "/usr/bin/server --port 80", "/group")


def holding(uss: int | None, faults: int = 7) -> ProcessAmounts:
    return ProcessAmounts(uss, None if uss is None else uss + 4096, 9 << 20, 0, uss, 0, None, 8192, faults, 1)


def at(number: int) -> Tick:
    return Tick(time=1e9 + number, boottime=100.0 + number, fresh=1, oldest=0.0)


steps = st.lists(
    st.dictionaries(st.integers(1, 4), st.none() | st.integers(0, 1 << 20).map(lambda kib: kib << 10), max_size=4),
    min_size=1,
    max_size=20,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps, st.booleans())
def test_each_moment_is_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, history: list[dict[int, int | None]], again: bool
) -> None:
    path = tmp_path_factory.mktemp("store") / "x"
    before: set[int] = set()
    starts: dict[int, int] = {}
    writer = RecordingWriter(path, START)
    for number, now in enumerate(history):
        if again and number == len(history) // 2:
            writer.close()
            writer = RecordingWriter(path, START, append=True)
        starts |= dict.fromkeys(now.keys() - before, number)
        ended = [who(pid, starts[pid]) for pid in before - now.keys()]
        counters = [CounterValue("meminfo", "MemTotal", 8 << 30), CounterValue("meminfo", "MemFree", number << 20)]
        rows = [(who(pid, starts[pid]), holding(uss, number)) for pid, uss in now.items()]
        writer.write(at(number), rows, ended, {"meminfo": counters})
        before = set(now)
    writer.close()
    with MomentsReader(path) as reader:
        moments = reader.every_moment()
    for number, now in enumerate(history):
        found = {identity.pid: amounts for identity, amounts in moments.at(number)}
        assert found == {pid: holding(uss, number) for pid, uss in now.items()}
        memory = moments.memory(number)
        assert memory is not None
        assert (memory.total, memory.free, memory.available) == (8 << 30, number << 20, None)


def test_faults_and_mappings_are_those_up_to_the_moment(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with RecordingWriter(path, START) as writer:
        for number in range(20):
            heap = [CounterValue("mapping", "[heap]", number << 20, who(10))]
            writer.write(at(number), [(who(10), holding(number << 20, 100 * number))], (), {"mapping": heap})
    replay = Replay(path, Settings(), None)
    depth = replay.process(who(10), 9)
    assert [(kind.name, kind.held, kind.change) for kind in depth.kinds] == [("[heap]", 9 << 20, 9 << 20)]
    assert depth.minor is not None
    assert (depth.minor.total, depth.minor.rate, depth.seconds) == (900, 100.0, 9.0)
    assert replay.process(who(11), 9).kinds_note is not None
    assert replay.history(who(10), 9, 4) == [0.0, 3 << 20, 6 << 20, 9 << 20]
    assert replay.trends(2)[10, 5].verdict == "INSUFFICIENT"
    assert replay.trends(19)[10, 5].samples == 20


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40959), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6), st.integers(0, 41000))
def test_a_damaged_recording_is_shown_or_refused(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, bytes]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x"
    with RecordingWriter(path, START) as writer:
        for number in range(6):
            counters = [CounterValue("meminfo", "MemTotal", 8 << 30), CounterValue("meminfo", "MemFree", number << 20)]
            rows = [(who(pid), holding(number << 12)) for pid in range(1, 30)]
            writer.write(at(number), rows, (), {"meminfo": counters, "mapping": [CounterValue("mapping", "[heap]", 4096, who(3))]})
    data = bytearray(path.read_bytes())
    for place, noise in damage:
        data[place : place + len(noise)] = noise
    path.write_bytes(bytes(data[:cut]) if cut < 40000 else bytes(data))
    try:
        replay = Replay(path, Settings(), None)
    except LeaklineError:
        return
    timeline = Timeline(len(replay))
    listing = ProcessList(lambda process, points: replay.history(process, timeline.place, points), "x", timeline=timeline)
    for place in (0, len(replay) - 1):
        listing.take(replay.at(place, replay.trends(place)))
        assert len(listing.lines(80, 24)) == 24
        for row in listing.rows[:2]:
            replay.process(row.identity, place)
