"""`top` on a made machine: each screen as it was looked at, and each key."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import unicodedata
from collections.abc import Awaitable, Callable, Iterator
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import NotSupported
from leakline.model.finding import Report
from leakline.model.overview import FaultsOverTime, KindOverTime, Overview, ProcessOverTime, ProcessRow
from leakline.model.recording import ProcessAmounts, ProcessIdentity
from leakline.tui.app import LiveApp
from leakline.tui.columns import SORTS, as_tree, ordered
from leakline.tui.inspection import ProcessPage
from leakline.tui.lines import Line, cells, changed, fit, overlaid, part
from leakline.tui.listing import ProcessList
from leakline.tui.parts import Timeline
from tests.fake import top_scene

SNAPSHOTS = Path(__file__).parents[1] / "fixtures/top"
_DEPTH = ProcessOverTime(
    kinds=[
        KindOverTime("heap", 1, 250 << 20, 243 << 20, 242 << 20, [(220 + n / 4) * (1 << 20) for n in range(90)]),
        KindOverTime("thread stack", 12, 96 << 20, 700 << 10, 700 << 10, [700.0 * 1024] * 90),
        KindOverTime("text", 31, 12 << 20, 9 << 20, 400 << 10, [900.0 * 1024 - 6000 * n for n in range(90)]),
        KindOverTime("mmapped malloc chunk", 0, 0, 0, 0, [float("nan")] * 10 + [1 << 20, 0.0] * 40),
    ],
    kinds_note=None,
    minor=FaultsOverTime(5_310_201, 64.2, [60.0, 61.0, 70.0, 64.2] * 20),
    major=FaultsOverTime(12, 0.0, [0.0] * 79 + [1.0]),
    seconds=89.0,
)


class Scene:
    """Processes that are looked at."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.scanned: list[int] = []

    def moments(self) -> Iterator[Overview]:
        yield top_scene.overview()
        self.done.wait(30)

    def inspect(self, process: ProcessIdentity) -> Iterator[ProcessOverTime]:
        assert process.pid in top_scene.HELD
        yield _DEPTH
        self.done.wait(30)

    def expected_pause(self, process: ProcessIdentity) -> tuple[int, int]:
        assert process.pid in top_scene.HELD
        return 12_300_000, 243 << 20

    def scan(self, process: ProcessIdentity, say: Callable[[str], None]) -> Report:
        self.scanned.append(process.pid)
        say("its maps are read")
        raise NotSupported("its allocator is \x1b[31mtcmalloc", hint="`leakline trace` sees it.")


def run(
    size: tuple[int, int], act: Callable[[LiveApp, Callable[..., Awaitable[None]]], Awaitable[None]], *, color: bool = True
) -> Scene:
    """A screen of that size."""
    scene = Scene()

    async def session() -> None:
        listing = ProcessList(top_scene.history, "db1")
        app = LiveApp(listing, scene.moments(), scene, lambda: False, color=color)
        async with app.run_test(size=size) as pilot:

            async def press(*keys: str) -> None:
                await pilot.press(*keys)
                await pilot.pause()

            while listing.overview is None:
                await asyncio.sleep(0.01)
            await pilot.pause()
            try:
                await act(app, press)
            finally:
                scene.done.set()

        assert app.failure is None

    asyncio.run(session())
    return scene


def described(lines: list[Line]) -> str:
    """Text, and below each line that has styles where these are."""
    found = []
    for line in lines:
        found.append("".join(text for text, _ in line).rstrip())
        place, said = 0, []
        for text, style in line:
            if style and text.strip(" "):
                said.append(f"{place}-{place + cells(text)} {style}")
            place += cells(text)
        found.append("    " + ", ".join(said) if said else "")
    return "\n".join(found) + "\n"


SCREENS: dict[str, tuple[tuple[int, int], tuple[str, ...], bool]] = {
    "list-80x24": ((80, 24), (), True),
    "list-no-color": ((80, 24), ("down",), False),
    "list-140x20": ((140, 20), ("down", "space", "space", "u", "down", "down", "enter"), True),
    "list-40x10": ((40, 10), (), True),
    "tree": ((80, 24), ("f5", "down", "down"), True),
    "sort-menu": ((80, 24), ("greater_than_sign", "down", "down"), True),
    "help": ((80, 24), ("f1",), True),
    "filter": ((80, 24), ("backslash", "e", "v", "i", "l", "vertical_line", "r", "e", "d", "i", "s"), True),
    "process": ((80, 24), ("enter",), True),
    "process-question": ((80, 24), ("enter", "s"), True),
}


@pytest.mark.parametrize("name", SCREENS)
def test_each_screen_is_as_it_was_looked_at(name: str) -> None:
    size, keys, color = SCREENS[name]
    seen: list[str] = []

    async def act(app: LiveApp, press: Callable[..., Awaitable[None]]) -> None:
        await press(*keys)
        for _ in range(100):
            await asyncio.sleep(0.01)
            ready = app.page is None or (app.page.depth is not None and (app.page.asking is not None or "s" not in keys))
            if ready:
                break
        await press()
        view = app.listing if app.page is None else app.page
        text = described(app.canvas.shown)
        assert all(sum(cells(part) for part, _ in line) == size[0] for line in app.canvas.shown)
        assert len(app.canvas.shown) == size[1], view
        svg = app.export_screenshot()
        painted = ["".join(re.findall(r"<text[^>]*>([^<]*)</text>", row)) for row in svg.split("\n")]
        on_screen = re.sub(r"\s", "", unescape("".join(painted)).replace("\xa0", ""))
        assert re.sub(r"\s", "", app.canvas.text) in on_screen, "what textual paints is what was made"
        assert "\x1b" not in text
        seen.append(text)

    run(size, act, color=color)
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("LEAKLINE_WRITE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(seen[0])
    assert seen[0] == path.read_text(), "LEAKLINE_WRITE_SNAPSHOTS=1 writes them anew: look at them then"


def test_the_keys_are_those_of_htop() -> None:
    async def act(app: LiveApp, press: Callable[..., Awaitable[None]]) -> None:
        listing = app.listing
        assert [row.identity.command for row in listing.rows[:2]] == ["gateway", "cart"], "what grows stands first"
        await press("slash", *"redis", "enter")
        assert listing.chosen is not None
        assert listing.chosen.identity.command == "redis-server"
        await press("f3")
        assert listing.chosen.identity.command == "redis-server", "there is one only"
        await press("slash", *"nginx", "f3", "enter", "n")
        found = listing.rows.index(listing.chosen)
        assert "nginx" in (listing.rows[found].identity.cmdline or "")
        await press("home", "pagedown", "pageup", "end")
        assert listing.chosen is listing.rows[-1]
        await press("home", "space", "space")
        assert {key for key, _ in listing.tags} == {listing.rows[0].identity.pid, listing.rows[1].identity.pid}
        await press("U")
        assert not listing.tags
        await press("f4", *"nginx", "enter")
        assert {row.identity.command for row in listing.rows} == {"nginx"}
        await press("escape")
        assert len(listing.rows) == 25
        for keys, first in (
            (("M",), "redis-server"),
            (("N",), "init"),
            (("I",), "nginx"),
            (("f6", "end", "enter"), "\x1b[2J\x1b]0;owned\x07e"),
        ):
            await press(*keys)
            assert listing.rows[0].identity.command == first, keys
        await press("u", "end", "enter")
        assert {row.identity.user for row in listing.rows} == {"www-data"}
        await press("u", "home", "enter", "t")
        assert listing.rows[0].identity.pid == 1
        await press("f9", "k")
        assert app.is_running
        await press("q")
        assert not app.is_running

    run((80, 24), act)


def test_a_scan_asks_first_and_says_why_it_cannot_be() -> None:
    async def act(app: LiveApp, press: Callable[..., Awaitable[None]]) -> None:
        async def until(what: Callable[[ProcessPage], object]) -> None:
            while app.page is None or not what(app.page):
                await asyncio.sleep(0.01)
            await press()

        await press("enter", "s")
        await until(lambda page: page.asking)
        assert "gateway (1265) will stand still 2 times, for about 12.3 ms each" in app.canvas.text
        await press("n")
        assert "will stand still" not in app.canvas.text
        await press("s")
        await until(lambda page: page.asking)
        await press("y")
        await until(lambda page: page.note)
        assert "tcmalloc" in app.canvas.text
        assert "leakline trace" in app.canvas.text
        await press("escape")
        assert app.page is None
        await press("enter", "f10")
        assert not app.is_running

    assert run((80, 24), act).scanned == [1265]


def test_only_cells_that_changed_are_painted_anew() -> None:
    async def act(app: LiveApp, press: Callable[..., Awaitable[None]]) -> None:
        painted: list[int] = []
        before = app.canvas.refresh

        def refresh(*regions: object, **options: object) -> object:
            painted.extend(region.area for region in regions)  # type: ignore[attr-defined]
            return before(*regions, **options)  # type: ignore[arg-type]

        app.canvas.refresh = refresh  # type: ignore[method-assign, assignment]
        app.paint()
        assert not painted
        await press("down")
        assert sum(painted) <= 4 * 80, "two rows, and what is said of the chosen one"

    run((80, 24), act)


def test_a_smaller_terminal_shows_less() -> None:
    async def act(app: LiveApp, press: Callable[..., Awaitable[None]]) -> None:
        for width, height in ((132, 50), (80, 24), (20, 5), (3, 2)):
            app.listing.lines(width, height)
            lines = app.listing.lines(width, height)
            assert all(sum(cells(text) for text, _ in line) == width for line in lines)
            assert len(lines) <= height

    run((80, 24), act)


NAMES = st.text(max_size=60)


@given(NAMES, NAMES, NAMES, st.integers(1, 200), st.integers(1, 40), st.booleans(), st.integers(0, 1 << 62))
def test_no_name_breaks_a_line(command: str, cmdline: str, user: str, width: int, height: int, tree: bool, size: int) -> None:
    identity = ProcessIdentity(4711, 1, 4711, user, command, cmdline, cmdline)
    row = ProcessRow(identity, ProcessAmounts(size, size, size, size, size, size, size, size, size, size), None)
    listing = ProcessList(lambda _process, points: [float("nan"), float(size)][:points], command)
    listing.take(Overview(time=0.0, elapsed=0.0, rows=[row], memory=None, unreadable=0))
    if tree:
        listing.key("t")
    page = ProcessPage(row)
    page.depth = _DEPTH
    for lines in (listing.lines(width, height), page.lines(width, height)):
        for line in lines:
            text = "".join(text for text, _ in line)
            assert cells(text) == width
            assert not {unicodedata.category(character) for character in text} & {"Cc", "Cs", "Zl", "Zp"}


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), unique_by=lambda pair: pair[0], max_size=12))
def test_a_tree_has_every_process_once_whatever_a_recording_says_of_parents(pairs: list[tuple[int, int]]) -> None:
    amounts = ProcessAmounts(1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
    rows = [ProcessRow(ProcessIdentity(pid, 1, parent, None, "x", None, None), amounts, None) for pid, parent in pairs]
    placed = as_tree(ordered(rows, "pid", inverted=False))
    assert sorted(row.identity.pid for _, row in placed) == sorted(pid for pid, _ in pairs)


SPANS = st.lists(st.tuples(st.text(st.sampled_from("ab日本 ▁"), min_size=1, max_size=6), st.sampled_from(["", "dim"])), max_size=6)


@given(SPANS, SPANS)
def test_what_differs_between_two_lines_is_within_what_is_painted(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> None:
    width = max(sum(cells(text) for text, _ in line) for line in (one, other)) + 1
    before, after = ((*line, (fit("", width - sum(cells(text) for text, _ in line)), "")) for line in (one, other))
    span = changed(before, after)
    if span is None:
        assert before == after
        return
    start, end = span
    assert part(before, 0, start) == part(after, 0, start)
    assert part(before, end, width) == part(after, end, width)


@given(SPANS, st.integers(0, 20), st.integers(0, 6))
def test_a_box_covers_what_is_behind_it_and_nothing_else(line: list[tuple[str, str]], left: int, size: int) -> None:
    width = 72
    behind: Line = (*line, (fit("", width - sum(cells(text) for text, _ in line)), "")) if line else ((" " * width, ""),)
    (found,) = overlaid([behind], [(("x" * size, "frame"),)], left, 0)
    text = "".join(text for text, _ in found)
    assert cells(text) == width
    assert text.count("x") == size


def test_a_time_slider_stays_within_its_recording() -> None:
    timeline = Timeline(40)
    for key, place in (("left", 38), ("[", 36), ("{", 0), ("left", 0), ("right", 1), ("]", 3), ("}", 39), ("right", 39)):
        assert timeline.key(key)
        assert timeline.place == place
    assert timeline.key("p")
    assert (timeline.playing, timeline.place) == (True, 0), "it begins anew where it had ended"
    for _ in range(39):
        timeline.advance()
    assert (timeline.playing, timeline.place) == (False, 39)
    assert not timeline.key("x")
    assert Timeline(1).line(0.0, 0.0, 0.0, 80)


def test_what_can_be_sorted_by_is_the_same_in_the_menu_and_on_the_command_line() -> None:
    from leakline.cli.top import command

    (sort,) = [parameter for parameter in command.params if parameter.name == "sort"]
    assert tuple(sort.type.choices) == SORTS  # type: ignore[attr-defined]
