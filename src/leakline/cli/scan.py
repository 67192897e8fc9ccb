"""`leakline scan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from leakline.cli.options import Duration, Output, fail_on_option, fails, output_options, speaker, target_options

if TYPE_CHECKING:
    from pathlib import Path

    from leakline.present.screen import Color


@click.command("scan")
@target_options
@click.option(
    "--confirm",
    type=click.IntRange(1, 100),
    default=2,
    show_default=True,
    help="Looks; two that agree give high confidence.",
)
@click.option(
    "--stop-deadline",
    type=Duration(),
    default="1s",
    show_default=True,
    help="Let go of a target that does not stop by then.",
)
@click.option("--no-stop", is_flag=True, help="Let it run on: nothing found is more than possible.")
@fail_on_option
@output_options
def command(
    pids: tuple[int, ...],
    more_pids: tuple[int, ...],
    name: str | None,
    confirm: int,
    stop_deadline: float,
    no_stop: bool,
    fail_on: str | None,
    as_json: bool,
    output: Path | None,
    force: bool,
    limit: int,
    color: Color,
    quiet: bool,
) -> int:
    """Find the lost heap blocks of a running process.

    The process stands still for some milliseconds at each look, while its memory is copied; then it goes on, and the copy
    is searched for blocks that no pointer leads to. It needs no restart, no rebuild and no debug symbols, and glibc 2.28 to
    2.42 as the allocator.
    """
    from leakline.session.interruption import Interruption
    from leakline.session.looking import each, look
    from leakline.session.targets import select
    from leakline.sources.procfs import ProcFs

    writer = Output(output, as_json=as_json, force=force, limit=limit, color=color)
    procfs, interruption, say = ProcFs(), Interruption(), speaker(quiet=quiet)
    with interruption.listening():
        chosen = select(procfs, [*pids, *more_pids], name)
        options: dict[str, Any] = {"looks": confirm, "interruption": interruption, "say": say, "stop_deadline": stop_deadline}
        options["stop"] = not no_stop
        reports = each(chosen, lambda pid: look(procfs, pid, **options), say)
    writer.write(reports)
    return int(fails(reports, fail_on))
