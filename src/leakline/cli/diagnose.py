"""`leakline diagnose`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from leakline.cli.findings_output import Output, findings_exit_option, output_options
from leakline.cli.options import Duration, WithCommand
from leakline.cli.targets import Targets, target_options

if TYPE_CHECKING:
    from leakline.session.diagnosing import DiagnosisOptions


@click.command("diagnose", cls=WithCommand)
@target_options
@click.option(
    "--budget",
    type=Duration(),
    default="60s",
    show_default=True,
    help="Time at most; a certain answer ends it earlier.",
)
@click.option("--max-pause", type=Duration(), help="A pause at most; where a stop would be longer, it is looked at while it runs.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and what it would cost, and do none of it.")
@findings_exit_option
@output_options
@click.pass_context
def command(
    ctx: click.Context,
    targets: Targets,
    budget: float,
    max_pause: float | None,
    dry_run: bool,
    findings_exit: int | None,
    out: Output,
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
    interruption = Interruption()
    allowed = DiagnosisOptions(budget=budget, max_pause=max_pause)
    if dry_run:
        return _print_plan(targets.select(ProcFs()), allowed, out)
    if launched is not None:
        _check_launch(targets, launched)
        out.require_file()
        from leakline.session.launching import diagnose_command

        result = diagnose_command(ProcFs(), launched, interruption, out.say, allowed, out.write)
        return out.launched_status(result.reports, result.status, findings_exit)
    if findings_exit is not None:
        raise click.UsageError("--findings-exit goes with -- COMMAND; for a running process there is --fail-on")
    procfs = ProcFs()
    with interruption.listening():
        if targets:
            reports = Diagnosis(procfs, interruption, out.say, allowed).run(targets.select(procfs))
        else:
            from leakline.session.diagnosing_machine import MachineDiagnosis
            from leakline.sources.machine import Machine

            reports = MachineDiagnosis(Machine(), interruption, out.say, allowed).run()
    out.write(reports)
    return out.status(reports)


def _print_plan(pids: list[int], options: DiagnosisOptions, out: Output) -> int:
    from leakline.present.json import to_json
    from leakline.present.plans import describe_plan
    from leakline.session.planning import plan
    from leakline.sources.procfs import ProcFs

    found = plan(ProcFs(), pids, options)
    if out.as_json:
        out.write_bytes(to_json(found).encode())
    else:
        out.write_lines(describe_plan(found))
    return 0


def _check_launch(targets: Targets, launched: list[str]) -> None:
    if not launched:
        raise click.UsageError("there is no command behind --")
    if targets:
        raise click.UsageError("either processes that run, or -- COMMAND")
