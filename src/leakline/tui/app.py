"""The live screen on a terminal: keys and looks come in, lines go out. Whatever takes time runs in threads of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Protocol

from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.message import Message

from leakline.errors import LeaklineError
from leakline.tui.canvas import Canvas
from leakline.tui.help import HELP
from leakline.tui.inspection import ProcessPage
from leakline.tui.lines import fit_line, framed, overlaid, styles
from leakline.tui.listing import ProcessList

if TYPE_CHECKING:
    from collections.abc import Iterator

    from textual import events
    from textual.binding import BindingType
    from textual.timer import Timer

    from leakline.model.finding import Report
    from leakline.model.overview import Overview, ProcessOverTime, ProcessRow
    from leakline.model.recording import ProcessIdentity
    from leakline.session.replaying import Replay, Trends
    from leakline.tui.lines import Line
    from leakline.tui.parts import Timeline

_FRAME_SECONDS = 0.2
Work = Callable[[], Callable[[], None]]
"""What a thread does; what it returns is then done on the screen's own thread."""


class Processes(Protocol):
    """Where live processes come from."""

    def inspect(self, process: ProcessIdentity) -> Iterator[ProcessOverTime]:
        """Look at one again and again; whoever takes the looks waits in between.

        Raises:
            LeaklineError: it has ended, or may not be read.

        """

    def expected_pause(self, process: ProcessIdentity) -> tuple[int, int]:
        """How long a scan would hold it still, in nanoseconds, and the bytes that it copies.

        Raises:
            LeaklineError: it cannot be scanned.

        """

    def scan(self, process: ProcessIdentity, say: Callable[[str], None]) -> Report:
        """Scan it.

        Raises:
            LeaklineError: it cannot be scanned.

        """


class Done(Message):
    """A thread has something for the screen."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act = act


class TopApp(App[None]):
    """What live screen and replay have in common.

    Args:
        listing: the first screen.
        color: whether there are colours.

    """

    CSS = "Screen { overflow: hidden; layers: one; }"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c,ctrl+q", "quit", show=False, priority=True)]
    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    TITLE = "leakline top"

    def __init__(self, listing: ProcessList, *, color: bool) -> None:
        super().__init__(ansi_color=True)
        self.listing = listing
        self.page: ProcessPage | None = None
        self.canvas = Canvas(styles(color=color))
        self.failure: BaseException | None = None
        """Why it ended, where it did not end by a key."""
        self._helping = False
        self._over = threading.Event()

    def compose(self) -> ComposeResult:
        """The one widget."""
        yield self.canvas

    def on_mount(self) -> None:
        """Begin."""
        self.canvas.focus()
        self.begin()
        self.paint()

    def on_unmount(self) -> None:
        """End what runs in threads."""
        self._over.set()

    def begin(self) -> None:
        """Start what brings the processes."""

    def on_resize(self) -> None:
        """Paint for the new size."""
        self.canvas.forget()
        self.call_after_refresh(self.paint)

    def paint(self) -> None:
        """Show what there is."""
        width, height = self.size
        if width < 1 or height < 1:
            return
        view = self.listing if self.page is None else self.page
        lines = view.lines(width, height)
        if self._helping:
            box = framed("Keys", [fit_line([(f" {text}", "")], 66) for text in HELP][: max(1, height - 2)], min(68, width))
            lines = overlaid(lines, box, max(0, (width - 68) // 2), max(0, (height - len(box)) // 2))
        self.canvas.show(_exactly(lines, width, height))

    # Keys

    async def on_key(self, event: events.Key) -> None:
        """Whatever is pressed."""
        event.stop()
        event.prevent_default()
        key = event.character if event.character is not None and event.is_printable else event.key
        if key == "ctrl+z":
            self.action_suspend_process()
            self.canvas.forget()
        elif self._helping:
            self._helping = False
        elif key == "ctrl+l":
            self.canvas.forget()
            self.refresh()
        elif self.page is None:
            self._on_listing(key)
        else:
            self._on_page(self.page, key)
        self.paint()

    def _on_listing(self, key: str) -> None:
        command = self.listing.key(key)
        if command == "quit":
            self.exit()
        elif command == "help":
            self._helping = True
        elif command == "moved":
            self.moved()
        elif command == "open" and self.listing.chosen is not None:
            self.open(self.listing.chosen)

    def _on_page(self, page: ProcessPage, key: str) -> None:
        command = page.key(key)
        if command == "quit":
            self.exit()
        elif command == "back":
            self.page = None
        elif command == "help":
            self._helping = True
        elif command == "moved":
            self.moved()
        elif command == "ask":
            self.ask(page)
        elif command == "scan":
            self.scan(page)

    def open(self, row: ProcessRow) -> None:
        """Show one process."""
        raise NotImplementedError

    def moved(self) -> None:
        """Show another moment."""

    def ask(self, page: ProcessPage) -> None:
        """Say what a scan would cost the process."""

    def scan(self, page: ProcessPage) -> None:
        """Scan the process."""

    # Threads

    def do(self, work: Work, page: ProcessPage | None = None) -> None:
        """Run something that takes time beside the screen, and then what it returned on the screen's thread.

        Args:
            work: what.
            page: where it is told that it cannot be done; None for the list.

        """

        def run() -> None:
            try:
                act = work()
            except LeaklineError as error:
                act = self._telling(page, f"{error.message}. {error.hint}")
            except BaseException as error:  # noqa: BLE001  whoever started us is told, once the terminal is theirs again
                act = self._failing(error)
            self.hand(act)

        threading.Thread(target=run, daemon=True).start()

    def hand(self, act: Callable[[], None]) -> None:
        """From any thread: do something on the screen's own thread."""
        if not self._over.is_set():
            self.post_message(Done(act))

    def on_done(self, message: Done) -> None:
        """Do what a thread left to be done."""
        message.act()
        self.paint()

    def _handle_exception(self, error: Exception) -> None:
        """A bug of ours is told by whoever started us, once the terminal is theirs again; textual would print a traceback."""
        self._failing(error)()

    def _telling(self, page: ProcessPage | None, text: str) -> Callable[[], None]:
        def tell() -> None:
            if page is not None:
                page.note, page.scanning = text, None
            else:
                self.listing.note = text

        return tell

    def _failing(self, error: BaseException) -> Callable[[], None]:
        def fail() -> None:
            self.failure = error
            self.exit()

        return fail


class LiveApp(TopApp):
    """The live machine.

    Args:
        listing: the first screen.
        moments: brings them, and waits in between.
        processes: looks at one of them.
        interrupted: whether somebody asked us to end.
        color: whether there are colours.

    """

    def __init__(
        self,
        listing: ProcessList,
        moments: Iterator[Overview],
        processes: Processes,
        interrupted: Callable[[], bool],
        *,
        color: bool,
    ) -> None:
        super().__init__(listing, color=color)
        self._moments = moments
        self._interrupted = interrupted
        self._processes = processes

    def begin(self) -> None:
        """Take the looks as they come."""
        self.do(self._watch)

    def _watch(self) -> Callable[[], None]:
        for overview in self._moments:
            self.hand(lambda overview=overview: self._take(overview))  # type: ignore[misc]
            if self._over.is_set():
                break
        return self._end

    def _take(self, overview: Overview) -> None:
        listing = self.listing
        if not listing.frozen:
            listing.take(overview)
            listing.note = overview.note
        if self.page is not None:
            key = self.page.row.key
            self.page.row = next((row for row in overview.rows if row.key == key), self.page.row)

    def _end(self) -> None:
        if self._interrupted():
            self.exit()
        self.listing.note = "all of them have ended; these were their last values. q leaves"

    def open(self, row: ProcessRow) -> None:
        """Look at one process as long as its page is open."""
        page = self.page = ProcessPage(row)

        def look() -> Callable[[], None]:
            for depth in self._processes.inspect(row.identity):
                if self._over.is_set() or self.page is not page:
                    break
                self.hand(lambda depth=depth: setattr(page, "depth", depth))  # type: ignore[misc]
            return lambda: None

        self.do(look, page)

    def ask(self, page: ProcessPage) -> None:
        """Say what a scan would cost the process."""
        page.scanning, page.note = "a part of its memory is copied while it runs, to tell how long a scan would take ...", None

        def measure() -> Callable[[], None]:
            cost = self._processes.expected_pause(page.row.identity)

            def show() -> None:
                page.scanning, page.asking = None, cost

            return show

        self.do(measure, page)

    def scan(self, page: ProcessPage) -> None:
        """Scan the process, and say meanwhile what is being done."""
        page.scanning = "scanning ..."

        def say(text: str) -> None:
            self.hand(lambda: setattr(page, "scanning", text) if page.scanning is not None else None)

        def work() -> Callable[[], None]:
            report = self._processes.scan(page.row.identity, say)

            return lambda: page.found(report)

        self.do(work, page)


class ReplayApp(TopApp):
    """A recording.

    Args:
        listing: the first screen, with a time slider.
        replay: the recording.
        color: whether there are colours.

    """

    def __init__(self, listing: ProcessList, replay: Replay, timeline: Timeline, *, color: bool) -> None:
        super().__init__(listing, color=color)
        self._replay = replay
        self._timeline = timeline
        self._trends: Trends = {}
        self._judged = -1
        """The tick that the judgements are of."""
        self._judging = False
        self._clock: Timer | None = None

    def begin(self) -> None:
        """Show the end of the recording."""
        self._clock = self.set_interval(_FRAME_SECONDS, self._play, pause=True)
        self.moved()

    def moved(self) -> None:
        """Show the moment that the slider is at; the verdicts of that moment follow."""
        if self._clock is not None:
            if self._timeline.playing:
                self._clock.resume()
            else:
                self._clock.pause()
        self._show()
        self._judge()

    def _play(self) -> None:
        self._timeline.advance()
        self.moved()
        self.paint()

    def _show(self) -> None:
        place = self._timeline.place
        overview = self._replay.at(place, self._trends)
        self.listing.take(overview)
        self.listing.note = None if self._judged == place else "judging what had been measured by then ..."
        page = self.page
        if page is not None:
            page.row = next((row for row in overview.rows if row.key == page.row.key), page.row)
            page.depth = self._replay.process(page.row.identity, place)
            page.moment = overview.elapsed, overview.time

    def _judge(self) -> None:
        """Judge beside the screen; of moments that went by meanwhile only the last."""
        place = self._timeline.place
        if self._judging or self._judged == place:
            return
        self._judging = True

        def work() -> Callable[[], None]:
            trends = self._replay.trends(place)

            def show() -> None:
                self._trends, self._judged, self._judging = trends, place, False
                self._show()
                self._judge()

            return show

        self.do(work)

    def open(self, row: ProcessRow) -> None:
        """Show one process as it was."""
        self.page = ProcessPage(row, self._timeline, self._replay.elapsed(len(self._replay) - 1))
        self._show()


def _exactly(lines: list[Line], width: int, height: int) -> list[Line]:
    """So many lines: a screen has no more, and what was there before is painted over."""
    return [*lines[:height], *[((" " * width, ""),)] * (height - len(lines))]
