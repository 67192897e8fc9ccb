"""`leakline diagnose`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from leakline.cli.options import Duration, Output, WithCommand, fail_on_option, fails, output_options, speaker, target_options

if TYPE_CHECKING:
    from pathlib import Path

    from leakline.present.screen import Color


@click.command("diagnose", cls=WithCommand)
@target_options
@click.option(
    "--budget",
    type=Duration(),
    default="60s",
    show_default=True,
    help="Time at most; a certain answer ends it earlier.",
)
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
    from leakline.session.diagnosing import Diagnosis
    from leakline.session.interruption import Interruption
    from leakline.session.targets import select
    from leakline.sources.procfs import ProcFs

    launched: list[str] | None = ctx.meta.get("leakline.command")
    options: dict[str, Any] = {"as_json": as_json, "force": force, "limit": limit, "color": color}
    say = speaker(quiet=quiet)
    interruption = Interruption()
    if launched is not None:
        _check_launch(pids, more_pids, name, launched, fail_on, as_json=as_json, to_file=output is not None)
        from leakline.session.launching import diagnose_command

        result = diagnose_command(ProcFs(), launched, interruption, say, budget, Output(output, **options).write)
        return findings_exit if findings_exit is not None and fails(result.reports, "low") else result.status
    if findings_exit is not None:
        raise click.UsageError("--findings-exit goes with -- COMMAND; for a running process there is --fail-on")
    writer = Output(output, **options)
    procfs = ProcFs()
    with interruption.listening():
        if pids or more_pids or name is not None:
            reports = Diagnosis(procfs, interruption, say, budget).run(select(procfs, [*pids, *more_pids], name))
        else:
            from leakline.session.diagnosing_machine import MachineDiagnosis
            from leakline.sources.machine import Machine

            reports = MachineDiagnosis(Machine(), interruption, say, budget).run()
    writer.write(reports)
    return int(fails(reports, fail_on))


def _check_launch(
    pids: tuple[int, ...],
    more_pids: tuple[int, ...],
    name: str | None,
    launched: list[str],
    fail_on: str | None,
    *,
    as_json: bool,
    to_file: bool,
) -> None:
    if not launched:
        raise click.UsageError("there is no command behind --")
    if pids or more_pids or name is not None:
        raise click.UsageError("either processes that run, or -- COMMAND")
    if as_json and not to_file:
        raise click.UsageError("--json with -- COMMAND needs --output FILE: stdout is the program's")
    if fail_on is not None:
        raise click.UsageError("with -- COMMAND the exit status is the program's; use --findings-exit N")
