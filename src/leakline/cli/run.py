"""`leakline run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from leakline.cli.filters import active_filters
from leakline.cli.options import (
    Output,
    WithCommand,
    check_exit_options,
    findings_exit_options,
    launched_status,
    output_options,
    speaker,
)

if TYPE_CHECKING:
    from pathlib import Path

    from leakline.present.screen import Color
    from leakline.session.running import Follow


@click.command("run", cls=WithCommand)
@click.option(
    "--engine",
    type=click.Choice(["agent", "valgrind", "asan", "lsan"]),
    default="agent",
    show_default=True,
    help="Who watches: leakline's agent, valgrind memcheck, AddressSanitizer, LeakSanitizer.",
)
@click.option(
    "--follow-fork",
    "follow",
    type=click.Choice(["all", "exec", "none"]),
    default="all",
    show_default=True,
    help="Which children report too: all, those that start another program, none.",
)
@click.option("--valgrind-option", "arguments", multiple=True, metavar="OPTION", help="For valgrind; may be repeated.")
@click.option("--show-content", is_flag=True, help="Characters that lost blocks hold; they may be secrets.")
@findings_exit_options
@output_options
@click.pass_context
def command(
    ctx: click.Context,
    engine: Literal["agent", "valgrind", "asan", "lsan"],
    follow: Follow,
    arguments: tuple[str, ...],
    show_content: bool,
    findings_exit: int | None,
    fail_on: str | None,
    as_json: bool,
    output: Path | None,
    force: bool,
    limit: int,
    color: Color,
    quiet: bool,
) -> int:
    """Start a program, and name what it has lost at its end, with the stacks that allocated it.

    Any dynamically linked program on glibc, unchanged: an agent goes along that records the exact stack of every allocation. At
    the end, after the program's own exit handlers, blocks that no root leads to are lost, as valgrind would say. Its input and
    output stay its own; the report goes to --output or stderr; the exit status is the program's.
    """
    import sys

    from leakline.session.interruption import Interruption
    from leakline.session.running import Run, RunOptions
    from leakline.session.searching import Details
    from leakline.sources.procfs import ProcFs

    launched: list[str] = ctx.meta.get("leakline.command") or []
    if not launched:
        raise click.UsageError("there is no command: leakline run -- COMMAND")
    if arguments and engine != "valgrind":
        raise click.UsageError("--valgrind-option goes with --engine valgrind")
    check_exit_options(findings_exit, fail_on)
    writer = Output(output, as_json=as_json, force=force, limit=limit, color=color, quiet=quiet)
    writer.require_file()
    options = RunOptions(follow=follow, details=Details(census=writer.as_json, content=show_content))
    say = speaker(quiet=quiet)
    with Interruption().listening():
        if engine == "agent":
            outcome = Run(ProcFs(), options, say).run(launched)
        else:
            from leakline.session.checking import CheckerOptions, run_checker

            rules = active_filters()
            checking = CheckerOptions(
                follow=follow != "none", arguments=arguments, suppressions="" if rules is None else rules.for_valgrind
            )
            outcome = run_checker(engine, launched, checking, say)
    if outcome.reports:
        writer.write(outcome.reports, sys.stderr)
    return launched_status(outcome.reports, outcome.status, findings_exit, fail_on)
