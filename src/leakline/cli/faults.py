"""`leakline faults`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from leakline.cli.fault_output import FaultOutput, fault_output_options
from leakline.cli.options import Duration, Size, WithCommand
from leakline.cli.targets import Targets, target_options


@click.command("faults", cls=WithCommand)
@target_options
@click.option("-i", "--interval", type=Duration(), help="Say what came in each stretch of time; a column of pictures (1s).")
@click.option("-d", "--duration", type=Duration(), help="How long; else until Ctrl-C, or until the processes have ended.")
@click.option("--sites", is_flag=True, help="Each code line with its stack.")
@click.option(
    "--by", type=click.Choice(["line", "vma", "cause", "thread"]), default="line", show_default=True, help="What to join."
)
@click.option("--major", is_flag=True, help="Only faults that had to wait for a disk, swap or another process.")
@click.option("--every", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Look at every Nth fault only.")
@click.option("--stack-bytes", type=Size(), default="1KiB", show_default=True, help="How much of a stack is copied.")
@click.option("--core", type=click.Path(dir_okay=False, path_type=Path), help="Explain the signal that left this core dump.")
@click.option("--findings-exit", type=click.IntRange(1, 255), help="Exit with this status if a fault was fatal.")
@fault_output_options
@click.pass_context
def command(
    ctx: click.Context,
    targets: Targets,
    interval: float | None,
    duration: float | None,
    sites: bool,
    by: Literal["line", "vma", "cause", "thread"],
    major: bool,
    every: int,
    stack_bytes: int,
    core: Path | None,
    findings_exit: int | None,
    out: FaultOutput,
) -> int:
    """Show how a process gets its pages, and of what it died.

    Each page fault with its cause (first touch, copy on write, read from disk...), its mapping and its code line. A program that is
    started by `-- COMMAND` is followed to its end: a SIGSEGV or SIGBUS is explained, its own handlers run, and its exit status is
    passed on. No privilege is needed for one's own processes where kernel.perf_event_paranoid is at most 2; root sees more.
    """
    import sys

    from leakline.session.faulting import FaultSettings
    from leakline.session.interruption import Interruption
    from leakline.sources.procfs import ProcFs

    launched: list[str] = ctx.meta.get("leakline.command") or []
    if bool(launched) + bool(core) + bool(targets) > 1:
        raise click.UsageError("give processes, or -- COMMAND, or --core FILE")
    if launched:
        out.require_file()
    if duration is not None and (launched or core):
        raise click.UsageError("--duration goes with processes that run already: a program that is started is followed to its end")
    if sites and by != "line":
        raise click.UsageError("--sites goes with --by line")
    if interval is not None and interval < 0.01:
        raise click.BadParameter("at least 10ms", param_hint="--interval")
    if core is not None:
        from leakline.session.core_faults import explain_core

        out.write([explain_core(core, out.say)], sys.stdout, sites=sites)
        return 0
    size = min(max(stack_bytes // 8 * 8, 0), 65528)  # the kernel's own limit
    settings = FaultSettings(
        by=by, every=every, stack_bytes=size, major_only=major, interval=interval or 1.0, tell=interval is not None
    )
    interruption = Interruption()
    with interruption.listening():
        if launched:
            from leakline.session.fault_launching import FaultLaunch

            outcome = FaultLaunch(ProcFs(), settings, out.say).run(launched)
            if outcome.report is None:
                return outcome.status
            out.write([outcome.report], sys.stderr, sites=sites)
            fatal = any(group.crash is not None and group.crash.fatal for group in outcome.report.faults)
            return findings_exit if findings_exit is not None and fatal else outcome.status
        from leakline.session.faulting import watch_faults

        chosen = targets.select(ProcFs())
        seconds = float("inf") if duration is None else duration
        reports = watch_faults(ProcFs(), chosen, seconds, settings, interruption=interruption, say=out.say)
    out.write(reports, sys.stdout, sites=sites)
    return 0
