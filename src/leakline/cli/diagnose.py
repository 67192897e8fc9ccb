"""`leakline diagnose`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from leakline.cli.options import (
    Duration,
    Output,
    WithCommand,
    any_named,
    closed_pipe_allowed,
    fail_on_option,
    fails,
    group_options,
    launched_status,
    output_options,
    select_targets,
    speaker,
    target_options,
)

if TYPE_CHECKING:
    from pathlib import Path

    from leakline.present.screen import Color
    from leakline.session.diagnosing import DiagnosisOptions


@click.command("diagnose", cls=WithCommand)
@target_options
@group_options
@click.option(
    "--budget",
    type=Duration(),
    default="60s",
    show_default=True,
    help="Time at most; a certain answer ends it earlier.",
)
@click.option("--max-pause", type=Duration(), help="A pause at most; where a stop would be longer, it is looked at while it runs.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and what it would cost, and do none of it.")
@fail_on_option
@click.option(
    "--findings-exit",
    type=click.IntRange(1, 255),
    help="With -- COMMAND: exit with this status if something was found.",
)
@output_options
@click.pass_context
def command(
    ctx: click.Context,
    pids: tuple[int, ...],
    more_pids: tuple[int, ...],
    name: str | None,
    budget: float,
    max_pause: float | None,
    dry_run: bool,
    fail_on: str | None,
    findings_exit: int | None,
    as_json: bool,
    output: Path | None,
    force: bool,
    limit: int,
    color: Color,
    quiet: bool,
) -> int:
    """Climb from a rising process to the line that leaks.

    Measures the processes, sees which mapping grows, looks for lost heap blocks, records allocations, and joins them: the
    cheapest rung first, and no rung that the one before does not call for. Says on stderr what it does and why it goes on.

    Without a process the whole machine is measured: if user space explains what is lost, the processes that grow are diagnosed,
    else the kernel: which counter grows, whose things it counts, and which line allocates them.

    With -- COMMAND the program is started and left alone: its input and output stay its own, the report goes to --output
    or stderr, and the exit status is the program's.
    """
    from leakline.session.diagnosing import Diagnosis, DiagnosisOptions
    from leakline.session.interruption import Interruption
    from leakline.sources.procfs import ProcFs

    launched: list[str] | None = ctx.meta.get("leakline.command")
    options: dict[str, Any] = {"as_json": as_json, "force": force, "limit": limit, "color": color, "quiet": quiet}
    say = speaker(quiet=quiet)
    interruption = Interruption()
    allowed = DiagnosisOptions(budget=budget, max_pause=max_pause)
    if dry_run:
        return _print_plan(select_targets(ProcFs(), [*pids, *more_pids], name), allowed, color, as_json=as_json)
    if launched is not None:
        _check_launch(pids, more_pids, name, launched)
        writer = Output(output, **options)
        writer.require_file()
        from leakline.session.launching import diagnose_command

        result = diagnose_command(ProcFs(), launched, interruption, say, allowed, writer.write)
        return launched_status(result.reports, result.status, findings_exit, fail_on)
    if findings_exit is not None:
        raise click.UsageError("--findings-exit goes with -- COMMAND; for a running process there is --fail-on")
    writer = Output(output, **options)
    procfs = ProcFs()
    with interruption.listening():
        if any_named([*pids, *more_pids], name):
            reports = Diagnosis(procfs, interruption, say, allowed).run(select_targets(procfs, [*pids, *more_pids], name))
        else:
            from leakline.session.diagnosing_machine import MachineDiagnosis
            from leakline.sources.machine import Machine

            reports = MachineDiagnosis(Machine(), interruption, say, allowed).run()
    writer.write(reports)
    return int(fails(reports, fail_on))


def _print_plan(pids: list[int], options: DiagnosisOptions, color: Color, *, as_json: bool) -> int:
    from leakline.present.json import to_json
    from leakline.present.plans import describe_plan
    from leakline.present.screen import write_lines
    from leakline.session.planning import plan
    from leakline.sources.procfs import ProcFs

    found = plan(ProcFs(), pids, options)
    with closed_pipe_allowed():
        if as_json:
            sys.stdout.write(to_json(found))
        else:
            write_lines(describe_plan(found), sys.stdout, color)
        sys.stdout.flush()
    return 0


def _check_launch(pids: tuple[int, ...], more_pids: tuple[int, ...], name: str | None, launched: list[str]) -> None:
    if not launched:
        raise click.UsageError("there is no command behind --")
    if any_named([*pids, *more_pids], name):
        raise click.UsageError("either processes that run, or -- COMMAND")
