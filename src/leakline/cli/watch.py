"""`leakline watch`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from leakline.cli.options import Duration, Output, Size, fail_on_option, fails, output_options, say_on_stderr, target_options

if TYPE_CHECKING:
    from pathlib import Path

    from leakline.present.screen import Color
    from leakline.session.watching import Update


@click.command("watch")
@target_options
@click.option("-i", "--interval", type=Duration(), default="1s", show_default=True, help="From sample to sample.")
@click.option("-d", "--duration", type=Duration(), help="How long; else until Ctrl-C.")
@click.option(
    "--limit-bytes",
    type=Size(),
    metavar="SIZE",
    help="What each may reach; else its control group's limit, or what memory has left.",
)
@click.option("--warm-up", type=Duration(), default="1h", show_default=True, help="No LEAK is called in this time after the start.")
@click.option("--horizon", type=Duration(), default="1d", show_default=True, help="A limit that is reached within it is a risk.")
@fail_on_option
@output_options
def command(
    pids: tuple[int, ...],
    more_pids: tuple[int, ...],
    name: str | None,
    interval: float,
    duration: float | None,
    limit_bytes: int | None,
    warm_up: float,
    horizon: float,
    fail_on: str | None,
    as_json: bool,
    output: Path | None,
    force: bool,
    limit: int,
    color: Color,
    quiet: bool,
) -> int:
    """Watch processes, and say when their memory is judged to grow.

    Samples USS + swap, says on stderr when a verdict changes, which mapping grows and which rung comes next, and reports what grows
    at the end: after --duration, at Ctrl-C, or when the processes have ended. With --name a process that is started anew goes on
    where the last one ended. The verdicts are those of `leakline trend`.
    """
    from leakline.analysis.trend import Settings
    from leakline.session.interruption import Interruption
    from leakline.session.watching import Watch
    from leakline.sources.procfs import ProcFs

    if interval < 0.01:
        raise click.BadParameter("at least 10ms", param_hint="--interval")
    writer = Output(output, as_json=as_json, force=force, limit=limit, color=color)
    interruption = Interruption()
    watch = Watch(ProcFs(), interruption, Settings(warm_up, horizon), limit_bytes)
    with interruption.listening():
        for update in watch.run([*pids, *more_pids], name, interval, float("inf") if duration is None else duration):
            if not quiet:
                _say(update)
        reports = watch.reports()
    writer.write(reports)
    return int(fails(reports, fail_on))


def _say(update: Update) -> None:
    from leakline.present.text import amount
    from leakline.present.trends import explain

    trend = update.trend
    risk = "AT-RISK " if trend.at_risk else ""
    say_on_stderr(f"{trend.duration_seconds:.0f} s: {trend.name}: {risk}{trend.verdict}: {explain(trend)}")
    if update.mapping is not None:
        grown, pid = update.mapping, update.target.pid
        say_on_stderr(f"  {grown.name} at {grown.start:#x} grew most, by {amount(grown.increase)}; next: leakline diagnose {pid}")
