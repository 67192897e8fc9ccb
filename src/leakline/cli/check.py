"""`leakline check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from leakline.cli.options import Output, fail_on_option, fails, output_options, speaker, target_options

if TYPE_CHECKING:
    from pathlib import Path

    from leakline.present.screen import Color


@click.command("check")
@target_options
@click.option("--show-content", is_flag=True, help="Characters that lost blocks hold; they may be secrets.")
@fail_on_option
@output_options
def command(
    pids: tuple[int, ...],
    more_pids: tuple[int, ...],
    name: str | None,
    show_content: bool,
    fail_on: str | None,
    as_json: bool,
    output: Path | None,
    force: bool,
    limit: int,
    color: Color,
    quiet: bool,
) -> int:
    """Name what a program that `leakline run` started has lost so far, while it runs on.

    Two looks, as `leakline scan` takes them, of the process and of its descendants that run under the agent too; what both call
    lost is reported with the exact stack that allocated it.
    """
    from leakline.session.agent_checks import check_now
    from leakline.session.interruption import Interruption
    from leakline.session.looking import each
    from leakline.session.searching import Details
    from leakline.session.targets import select
    from leakline.sources.procfs import ProcFs

    writer = Output(output, as_json=as_json, force=force, limit=limit, color=color)
    procfs, interruption, say = ProcFs(), Interruption(), speaker(quiet=quiet)
    details = Details(census=writer.as_json, content=show_content)
    with interruption.listening():
        chosen = select(procfs, [*pids, *more_pids], name)
        reports = each(chosen, lambda pid: check_now(procfs, pid, details, interruption=interruption, say=say), say)
    writer.write(reports)
    return int(fails(reports, fail_on))
