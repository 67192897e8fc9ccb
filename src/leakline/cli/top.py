"""`leakline top`."""

from __future__ import annotations

import os
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leakline.cli.options import Duration, Size
from leakline.cli.targets import process_options

if TYPE_CHECKING:
    from leakline.analysis.trend import Settings
    from leakline.present.screen import Color
    from leakline.tui.app import TopApp

_SORTS = ("growth", "uss", "pss", "rss", "swap", "faults", "pid", "user", "command")


@click.command("top")
@process_options
@click.option("--cgroup", metavar="PATH", help="Processes in this control group, and in those below it.")
@click.option("-u", "--user", help="Show this user's processes only; the key u chooses another.")
@click.option("--open", "recording", type=click.Path(dir_okay=False, path_type=Path), help="Replay a recording instead.")
@click.option("-i", "--interval", type=Duration(), default="1s", show_default=True, help="From look to look.")
@click.option("-s", "--sort", type=click.Choice(_SORTS), default="growth", show_default=True, help="What stands first.")
@click.option(
    "--limit-bytes",
    type=Size(),
    metavar="SIZE",
    help="What each may reach; else its control group's limit, its own, or what memory has left.",
)
@click.option("--warm-up", type=Duration(), default="1h", show_default=True, help="No LEAK is called in this time after the start.")
@click.option("--horizon", type=Duration(), default="1d", show_default=True, help="A limit that is reached within it is a risk.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colours.")
def command(
    pids: tuple[int, ...],
    more_pids: tuple[int, ...],
    name: str | None,
    cgroup: str | None,
    user: str | None,
    recording: Path | None,
    interval: float,
    sort: str,
    limit_bytes: int | None,
    warm_up: float,
    horizon: float,
    color: Color,
) -> int:
    """Show live what processes hold, which of them grow, and how sure that is.

    All processes, or those that are named. Enter opens one: its mappings by kind over time, its page faults, and, after a question,
    a scan for lost blocks. The keys are htop's: F1 shows them; F9, which kills, is not among them.
    """
    if recording is not None and (pids or more_pids or name or cgroup):
        raise click.UsageError("--open shows a recording: the keys F4 and u choose what of it")
    if interval < 0.1:
        raise click.BadParameter("at least 100ms", param_hint="--interval")
    _require_terminal()
    _require_textual()
    from leakline.analysis.trend import Settings
    from leakline.present.screen import wants_color

    colored = wants_color(sys.stdout, color)
    settings = Settings(warm_up, horizon)
    if recording is not None:
        _run(_replay(recording, settings, limit_bytes, sort, user, color=colored))
        return 0
    from leakline.session.inspecting import LiveProcesses
    from leakline.session.interruption import Interruption
    from leakline.session.overviewing import LiveOverview
    from leakline.session.sampling import Choice
    from leakline.sources.machine import Machine
    from leakline.tui.app import LiveApp
    from leakline.tui.listing import ProcessList

    machine, interruption = Machine(), Interruption()
    chosen = [*pids, *more_pids]
    choice = Choice.of(chosen, name=name, cgroup=cgroup, everything=not (chosen or name or cgroup))
    live = LiveOverview(machine, choice, interruption, settings, limit_bytes)
    moments = live.moments(interval)
    with interruption.listening():
        first = next(moments)  # what is wrong with the targets is said before the screen opens
        listing = ProcessList(live.history, os.uname().nodename, sort=sort, user=user)
        processes = LiveProcesses(machine, interruption, interval)
        try:
            _run(LiveApp(listing, chain([first], moments), processes, lambda: interruption.asked, color=colored))
        finally:
            interruption.ask()
    return 0


def _replay(path: Path, settings: Settings, limit: int | None, sort: str, user: str | None, *, color: bool) -> TopApp:
    from leakline.session.replaying import Replay
    from leakline.tui.app import ReplayApp
    from leakline.tui.listing import ProcessList
    from leakline.tui.parts import Timeline

    replay = Replay(path, settings, limit)
    timeline = Timeline(len(replay))
    whole = replay.elapsed(len(replay) - 1)
    listing = ProcessList(
        lambda process, points: replay.history(process, timeline.place, points),
        path.name,
        sort=sort,
        user=user,
        timeline=timeline,
        whole=whole,
    )
    return ReplayApp(listing, replay, timeline, color=color)


def _run(app: TopApp) -> None:
    app.run(mouse=False)
    if app.failure is not None:
        raise app.failure


def _require_terminal() -> None:
    from leakline.errors import InvalidRequest

    hint = "`leakline watch all` says in lines what grows; `leakline ps` shows all processes once."
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if not stream.isatty():
            raise InvalidRequest(f"top is a screen, and {stream.name.strip('<>')} is no terminal", hint=hint)
    if os.environ.get("TERM") == "dumb":
        raise InvalidRequest("top is a screen, and this terminal (TERM=dumb) has none", hint=hint)


def _require_textual() -> None:
    from leakline.errors import NotPossible

    try:
        import textual  # noqa: F401
    except ImportError as error:
        hint = "pip install 'leakline[tui]'; without it `leakline watch all` says in lines what grows."
        raise NotPossible("top takes the library textual", hint=hint) from error
