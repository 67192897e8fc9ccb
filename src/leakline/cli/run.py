"""`leakline run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from leakline.cli.filters import active_filters
from leakline.cli.findings_output import Output, findings_exit_option, output_options
from leakline.cli.options import Duration, WithCommand

if TYPE_CHECKING:
    from leakline.model.finding import Report
    from leakline.session.running import Follow


_SHORTEST_SECONDS = 0.5


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
@click.option("--every", type=Duration(), help="Look so often while it runs too, a report each time (agent).")
@click.option(
    "--catch-signals", is_flag=True, help="Look at what a signal ends, too: slows signals and shuts debuggers out (agent)."
)
@click.option("--valgrind-option", "arguments", multiple=True, metavar="OPTION", help="For valgrind; may be repeated.")
@click.option("--show-content", is_flag=True, help="Characters that lost blocks hold; they may be secrets.")
@findings_exit_option
@output_options
@click.pass_context
def command(
    ctx: click.Context,
    engine: Literal["agent", "valgrind", "asan", "lsan"],
    follow: Follow,
    every: float | None,
    catch_signals: bool,
    arguments: tuple[str, ...],
    show_content: bool,
    findings_exit: int | None,
    out: Output,
) -> int:
    """Start a program, and name what it has lost at its end, with the stacks that allocated it.

    Any dynamically linked program on glibc, unchanged: an agent goes along that records the exact stack of every allocation. At
    the end, after the program's own exit handlers, blocks that no root leads to are lost, as valgrind would say. Its input and
    output stay its own; the report goes to --output or stderr; the exit status is the program's.
    """
    import sys

    from leakline.errors import LeaklineError
    from leakline.session.running import Run, RunOptions
    from leakline.session.searching import Details
    from leakline.sources.procfs import ProcFs

    launched: list[str] = ctx.meta.get("leakline.command") or []
    if not launched:
        raise click.UsageError("there is no command: leakline run -- COMMAND")
    if arguments and engine != "valgrind":
        raise click.UsageError("--valgrind-option goes with --engine valgrind")
    if engine != "agent" and (every is not None or catch_signals):
        raise click.UsageError("--every and --catch-signals go with --engine agent")
    if every is not None and every < _SHORTEST_SECONDS:
        raise click.BadParameter("at least 500ms", param_hint="--every")
    out.require_file()
    details = Details(census=out.as_json, content=show_content)
    options = RunOptions(follow=follow, details=details, every=every, catch_signals=catch_signals)

    def publish(report: Report) -> None:
        try:
            out.write([report], sys.stderr, replace=True)
        except (LeaklineError, OSError) as error:  # the next one may find room
            out.say(f"no report this time: {error}")

    if engine == "agent":
        outcome = Run(ProcFs(), options, out.say, publish).run(launched)
    else:
        from leakline.session.checking import CheckerOptions, run_checker

        rules = active_filters()
        checking = CheckerOptions(
            follow=follow != "none", arguments=arguments, suppressions="" if rules is None else rules.for_valgrind
        )
        outcome = run_checker(engine, launched, checking, out.say)
    if outcome.reports:
        out.write(outcome.reports, sys.stderr, replace=every is not None)
    return out.launched_status(outcome.reports, outcome.status, findings_exit)
