"""`top` on real processes, in real terminals."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from leakline.analysis.trend import Settings
from leakline.errors import ParseError, TargetGone
from leakline.session.inspecting import LiveProcesses
from leakline.session.interruption import Interruption
from leakline.session.overviewing import LiveOverview
from leakline.session.replaying import Replay
from leakline.session.sampling import Choice
from leakline.sources.machine import Machine
from leakline.tui.app import LiveApp, ReplayApp, TopApp
from leakline.tui.listing import ProcessList
from leakline.tui.parts import Timeline
from tests.conftest import Build, Leakline, Start, assert_unharmed

COMMAND = [sys.executable, "-m", "leakline", "top"]
Press = Callable[..., Awaitable[None]]


def piloted(app: TopApp, act: Callable[[Press], Awaitable[None]]) -> None:
    async def session() -> None:
        async with app.run_test(size=(100, 40)) as pilot:

            async def press(*keys: str) -> None:
                await pilot.press(*keys)
                await pilot.pause()

            await asyncio.wait_for(act(press), 60)

    asyncio.run(session())
    assert app.failure is None


async def until(what: Callable[[], object]) -> None:
    while not what():
        await asyncio.sleep(0.02)


@pytest.fixture
def interruption() -> Iterator[Interruption]:
    asked = Interruption()
    yield asked
    asked.ask()


def live(choice: Choice, interruption: Interruption, interval: float) -> LiveApp:
    machine = Machine()
    overview = LiveOverview(machine, choice, interruption, Settings(), None)
    listing = ProcessList(overview.history, "here")
    processes = LiveProcesses(machine, interruption, interval)
    return LiveApp(listing, overview.moments(interval), processes, lambda: interruption.asked, color=True)


def test_one_process_is_looked_into_and_scanned_after_a_question(build: Build, start: Start, interruption: Interruption) -> None:
    program = start(build("kinds.c"), HOLD="1")
    app = live(Choice.of([program.pid]), interruption, 0.1)

    async def act(press: Press) -> None:
        await until(lambda: app.listing.rows)
        assert app.listing.rows[0].amounts.uss
        await press("enter")
        page = app.page
        assert page is not None
        await until(lambda: page.depth is not None and page.depth.minor is not None and page.depth.minor.history)
        assert page.depth is not None
        kinds = {kind.name: kind for kind in page.depth.kinds}
        assert kinds["heap"].held > 0
        assert kinds["heap"].mappings == 1
        assert page.depth.minor is not None
        assert page.depth.minor.total > 0
        await press("s")
        await until(lambda: page.asking)
        assert page.report is None, "nothing is stopped before the answer"
        await press("y")
        await until(lambda: page.report)
        await press()
        assert "2,080 bytes in 20 blocks" in app.canvas.text, "kinds.c loses 20 blocks, whose usable size is 104"
        assert "stood still for" in app.canvas.text
        await press("escape")

    piloted(app, act)
    assert_unharmed(program)


def test_what_grows_comes_to_the_top_and_the_end_of_all_is_told(build: Build, start: Start, interruption: Interruption) -> None:
    grows, clean = start(build("grows.c"), "malloc"), start("/bin/sleep", "60", ready=False)
    app = live(Choice.of([grows.pid, clean.pid]), interruption, 0.1)

    async def act(press: Press) -> None:
        await until(lambda: app.listing.rows and app.listing.rows[0].trend is not None and app.listing.rows[0].trend.accuses)
        assert app.listing.rows[0].identity.pid == grows.pid
        await press()
        assert re.search(rf"{grows.pid} .* \+\d+[KM]/s GROWING", app.canvas.text)
        assert_unharmed(grows)
        for program in (grows, clean):
            program.kill()
            program.wait()
        await until(lambda: app.listing.note)
        await press()
        assert "all of them have ended" in app.canvas.text

    piloted(app, act)


def test_a_recording_is_replayed_moment_by_moment(build: Build, start: Start, leakline: Leakline, tmp_path: Path) -> None:
    grows, steady = start(build("grows.c"), "malloc"), start("/bin/sleep", "60", ready=False)
    path = tmp_path / "x.leakline"
    leakline("record", grows.pid, steady.pid, "-i", "0.1", "-d", "2.5", "--maps", "every=200ms", "-o", path, "-q")
    replay = Replay(path, Settings(), None)
    count = len(replay)
    assert 15 <= count <= 27
    by_pid = {row.identity.pid: row for row in replay.at(count - 1, {}).rows}
    assert by_pid.keys() == {grows.pid, steady.pid}
    first = {row.identity.pid: row for row in replay.at(0, {}).rows}
    growth = by_pid[grows.pid].amounts.uss - first[grows.pid].amounts.uss  # type: ignore[operator]
    assert 0.5e6 < growth < 4e6, "8 KiB a hundred times a second"
    assert by_pid[steady.pid].amounts.held == first[steady.pid].amounts.held
    early, late = replay.trends(3), replay.trends(count - 1)
    key = by_pid[grows.pid].key
    assert (early[key].verdict, late[key].verdict) == ("INSUFFICIENT", "GROWING"), "later samples do not count"
    memory = replay.at(0, {}).memory
    assert memory is not None
    assert memory.total == Machine().page_size * os.sysconf("SC_PHYS_PAGES") or memory.total > 0
    timeline = Timeline(count)
    listing = ProcessList(
        lambda process, points: replay.history(process, timeline.place, points),
        "x",
        timeline=timeline,
        whole=replay.elapsed(count - 1),
    )
    app = ReplayApp(listing, replay, timeline, color=True)

    async def act(press: Press) -> None:
        await until(lambda: listing.rows and listing.rows[0].trend is not None)
        await press()
        assert f"{grows.pid} " in app.canvas.text.splitlines()[3]
        assert "GROWING" in app.canvas.text
        await press("enter")
        assert "heap" in app.canvas.text
        assert "a recording holds no heap" in app.canvas.text
        held = app.page.row.amounts.held if app.page is not None else None
        await press("{")
        assert app.page is not None
        assert (app.page.row.amounts.held or 0) < (held or 0)
        await press("escape", "}", "left", "left", "p")
        assert timeline.playing
        await until(lambda: timeline.place == count - 1 and not timeline.playing)

    piloted(app, act)


@pytest.mark.parametrize("damage", [b"", b"SQLite format 3\0", b"not a recording"])
def test_what_is_no_recording_is_said_to_be_none(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.leakline"
    path.write_bytes(damage)
    with pytest.raises(ParseError):
        Replay(path, Settings(), None)


def in_terminal(*arguments: str, keys: bytes = b"", **environment: str) -> tuple[int, str]:
    """Status and all that came to a terminal of 80x24."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=slave, stdout=slave, stderr=slave, env={**os.environ, **environment}, start_new_session=True
    )
    os.close(slave)
    found, deadline, pressed = b"", time.monotonic() + 60, False
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            try:
                found += os.read(master, 1 << 16)
            except OSError:  # EIO: nobody holds the other end
                break
        if keys and not pressed and b"Quit" in found:
            os.write(master, keys)
            pressed = True
    status = process.wait(10)
    os.close(master)
    return status, found.decode(errors="replace")


def test_what_is_no_terminal_or_has_no_textual_is_told_the_next_step(leakline: Leakline, tmp_path: Path) -> None:
    result = leakline("top", status=2)
    assert "no terminal" in result.err
    assert "leakline watch all" in result.err
    (tmp_path / "textual.py").write_text("raise ImportError('hidden')\n")
    status, said = in_terminal(PYTHONPATH=str(tmp_path), TERM="xterm")
    assert status == 5
    assert "pip install 'leakline[tui]'" in said
    status, said = in_terminal(TERM="dumb")
    assert (status, "TERM=dumb" in said) == (2, True)
    status, said = in_terminal("999999999", TERM="xterm")
    assert status == TargetGone.exit_code
    assert "\x1b[?1049h" not in said, "before the screen opens"


def test_sixteen_colours_or_none_and_the_terminal_is_given_back() -> None:
    status, said = in_terminal("-p", str(os.getpid()), keys=b"q", TERM="xterm")
    assert status == 0
    assert "\x1b[?1049h" in said
    assert "\x1b[?1049l" in said[said.index("\x1b[?1049h") :]
    assert re.search(r"\x1b\[[0-9;]*4[0-7]m", said), "the head of the table has a ground of its own"
    assert not re.search(r"\x1b\[[0-9;]*[34]8;[25];", said), "no more than the terminal's sixteen colours"
    assert "\x1b[?1000h" not in said, "the mouse is left alone"
    status, said = in_terminal("-p", str(os.getpid()), keys=b"q", TERM="xterm", NO_COLOR="1")
    assert status == 0
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3[0-7]|4[0-7]|9[0-7])(?:;\d+)*m", said)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_a_person_in_tmux_finds_opens_and_leaves(build: Build, start: Start, tmp_path: Path) -> None:
    program = start(build("grows.c"), "malloc")
    socket = ["tmux", "-S", str(tmp_path / "tmux")]
    shell = f"{' '.join(COMMAND)} -i 200ms; echo STATUS $?; sleep 60"
    subprocess.run([*socket, "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", shell], check=True)

    def screen() -> str:
        return subprocess.run([*socket, "capture-pane", "-p"], capture_output=True, text=True, check=True).stdout

    def wait_for(pattern: str, seconds: float = 60) -> str:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, shown := screen()):
            assert time.monotonic() < deadline, f"{pattern} is not in\n{shown}"
            time.sleep(0.1)
        return shown

    def press(*keys: str) -> None:
        subprocess.run([*socket, "send-keys", *keys], check=True)

    try:
        shown = wait_for(rf"{program.pid} .*GROWING")
        assert len(shown.splitlines()) == 24
        assert all(len(line) <= 80 for line in shown.splitlines())
        press("F4")
        press("-l", "grows")
        press("Enter")
        wait_for(r"filter grows")
        press("Enter")
        wait_for(r"heap +1 ")
        press("s")
        wait_for(r"will stand still")
        press("y")
        wait_for(r"stood still|no leak found|no proof|not judged")
        subprocess.run([*socket, "resize-window", "-x", "120", "-y", "30"], check=True)
        time.sleep(1)
        assert len(wait_for(r"Page faults").splitlines()) == 30
        press("Escape")
        wait_for(r"COMMAND")
        press("F10")
        wait_for(r"STATUS 0")
        assert_unharmed(program)
    finally:
        subprocess.run([*socket, "kill-server"], check=False)
