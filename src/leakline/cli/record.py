"""`leakline record`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leakline.cli.options import Duration, Every, WithCommand, closed_pipe_allowed, say_on_stderr
from leakline.cli.targets import process_options
from leakline.errors import InvalidRequest

if TYPE_CHECKING:
    from leakline.model.recording import Tick


@click.command("record", cls=WithCommand)
@process_options
@click.option("--cgroup", metavar="PATH", help="Processes in this control group, and in those below it.")
@click.option("--children", is_flag=True, help="Those that these start, too.")
@click.option("-i", "--interval", type=Duration(), default="1s", show_default=True, help="From tick to tick.")
@click.option("-d", "--duration", type=Duration(), help="How long; else until Ctrl-C.")
@click.option("--maps", "maps_every", type=Every(), metavar="every=DURATION", help="What each group of mappings holds, so often.")
@click.option("--kernel", is_flag=True, help="What no counter shows too; slab caches, vmalloc, control groups every 10 s.")
@click.option("--keep", type=Duration(), help="Thin out ticks that are older than this; else all stay.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The recording.")
@click.option("--append", is_flag=True, help="Go on with a recording that is there.")
@click.option("-f", "--force", is_flag=True, help="Replace a file that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as one JSON object at the end.")
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr each time when a tick is safe in the file.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
@click.pass_context
def command(
    ctx: click.Context,
    pids: tuple[int, ...],
    more_pids: tuple[int, ...],
    name: str | None,
    cgroup: str | None,
    children: bool,
    interval: float,
    duration: float | None,
    maps_every: float | None,
    kernel: bool,
    keep: float | None,
    output: Path,
    append: bool,
    force: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> int:
    """Sample processes and the machine into a file, for minutes or weeks.

    All processes, unless some are named, or a program is started by `-- COMMAND`: that one, with all that it starts, until they
    end; its exit status is passed on. Each tick is safe once it is written: neither a kill nor a full disk takes it back.
    `leakline trend FILE` judges what was recorded, while it goes on too; `leakline report FILE -o chart.svg` draws it.
    """
    from leakline.session.interruption import Interruption
    from leakline.session.recording import Recording, Wish
    from leakline.session.sampling import Choice
    from leakline.sources.machine import Machine

    if interval < 0.01:
        raise click.BadParameter("at least 10ms", param_hint="--interval")
    if keep is not None and keep < 24 * interval:
        raise click.BadParameter("at least 24 intervals", param_hint="--keep")
    if append and force:
        raise click.UsageError("--append goes on with the file that --force would replace")
    if output.exists() and not output.is_file():
        raise InvalidRequest(f"{output} is no file", hint="Choose another one.")
    launched: list[str] = ctx.meta.get("leakline.command") or []
    chosen = [*pids, *more_pids]
    named = bool(chosen) or name is not None or cgroup is not None
    if launched and named:
        raise click.UsageError("-- COMMAND records what it starts: PID, --name and --cgroup go without it")
    if launched and as_json:
        raise click.UsageError("--json is for stdout, which with -- COMMAND is the program's")
    if children and not (named or launched):
        raise click.UsageError("--children goes with PID, --name or --cgroup: without them all processes are recorded")
    wish = Wish(
        choice=Choice.of(chosen, name=name, cgroup=cgroup, everything=not named, children=children),
        interval=interval,
        duration=float("inf") if duration is None else duration,
        maps_every=maps_every,
        kernel=kernel,
        keep=keep,
        append=append,
        replace=force,
    )

    def say(text: str) -> None:
        if not quiet:
            say_on_stderr(text)

    def on_tick(count: int, tick: Tick) -> None:
        if verbose:
            say_on_stderr(
                f"tick {count} is safe; {tick.fresh} processes were read anew, the oldest value is {tick.oldest:.1f} s old"
            )

    interruption = Interruption()
    status = 0
    with interruption.listening():
        if launched:
            from leakline.session.launching import Outcome, record_command

            ended = record_command(launched, output, wish, interruption, say, on_tick)
            if isinstance(ended, Outcome):
                return ended.status
            summary, status = ended
        else:
            summary = Recording(Machine(), output, wish, interruption, say).run(on_tick)
    from leakline.present.json import to_json
    from leakline.present.text import amount, counted

    if as_json:
        with closed_pipe_allowed():
            sys.stdout.write(to_json(summary))
            sys.stdout.flush()
    missed = f", {counted(summary.missed_ticks, 'tick')} missed" if summary.missed_ticks else ""
    say(
        f"{output}: {counted(summary.ticks, 'tick')} of {counted(summary.processes, 'process').replace('processs', 'processes')}, "
        f"{amount(summary.bytes)}{missed}; {summary.cpu_seconds / max(summary.duration_seconds, 1e-9):.2%} of a core"
    )
    return status
