"""`leakline watch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from leakline.cli.findings_output import Output, output_options
from leakline.cli.options import Duration, Rate, Size, say_on_stderr

if TYPE_CHECKING:
    from subprocess import Popen

    from leakline.analysis.trend import Settings
    from leakline.model.finding import Report
    from leakline.session.interruption import Interruption
    from leakline.session.watching import Update

_LONGEST_COMMAND_SECONDS = 10.0


class _PidOrAll(click.ParamType[int]):
    """A process number, or `all`: 0."""

    name = "pid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        return 0 if value == "all" else click.IntRange(1).convert(value, param, ctx)


@click.command("watch")
@click.argument("pids", nargs=-1, type=_PidOrAll(), metavar="[PID|all]...")
@click.option("-p", "--pid", "more_pids", type=click.IntRange(1), multiple=True, help="A process; may be repeated.")
@click.option("--name", metavar="REGEX", help="Processes whose command or program name this finds.")
@click.option("--cgroup", metavar="PATH", help="Processes in this control group, and in those below it.")
@click.option("--kernel", "of_kernel", is_flag=True, help="The kernel's own counters, too or alone.")
@click.option("-i", "--interval", type=Duration(), default="1s", show_default=True, help="From sample to sample.")
@click.option("-d", "--duration", type=Duration(), help="How long; else until Ctrl-C.")
@click.option(
    "--limit-bytes",
    type=Size(),
    metavar="SIZE",
    help="What each may reach; else its control group's limit, its own, or what memory has left.",
)
@click.option("--grow-over", type=Rate(), metavar="RATE", help="Only growth of so much or more: 1MiB/h.")
@click.option(
    "--exec", "command_line", metavar="COMMAND", help="Run this by sh when growth firms up; the findings come by stdin, as JSON."
)
@click.option("--warm-up", type=Duration(), default="1h", show_default=True, help="No LEAK is called in this time after the start.")
@click.option("--horizon", type=Duration(), default="1d", show_default=True, help="A limit that is reached within it is a risk.")
@output_options
def command(
    pids: tuple[int, ...],
    more_pids: tuple[int, ...],
    name: str | None,
    cgroup: str | None,
    of_kernel: bool,
    interval: float,
    duration: float | None,
    limit_bytes: int | None,
    grow_over: float | None,
    command_line: str | None,
    warm_up: float,
    horizon: float,
    out: Output,
) -> int:
    """Watch processes, and say when their memory is judged to grow.

    Samples USS + swap, says on stderr when a verdict changes, which mapping grows and which rung comes next, and reports what grows
    at the end: after --duration, at Ctrl-C, or when the processes have ended. A process that is started anew goes on where the last
    one ended. Of `all`, or a --cgroup, only what grows is said. With --kernel slab caches, vmalloc, page tables and what no counter
    shows are watched too. The verdicts are those of `leakline trend`.
    """
    from leakline.analysis.trend import Settings
    from leakline.session.interruption import Interruption
    from leakline.session.sampling import Choice
    from leakline.session.watching import Watch
    from leakline.sources.machine import Machine

    if interval < 0.01:
        raise click.BadParameter("at least 10ms", param_hint="--interval")
    everything = 0 in pids
    chosen = [pid for pid in (*pids, *more_pids) if pid]
    some = bool(everything or chosen or name or cgroup)
    if not (some or of_kernel):
        raise click.UsageError("no target: give PIDs, `all`, --name, --cgroup or --kernel")
    interruption = Interruption()
    watch = Watch(Machine(), interruption, Settings(warm_up, horizon), limit_bytes, grow_over or 0.0)
    choice = Choice.of(chosen, name=name, cgroup=cgroup, everything=everything)
    many = everything or cgroup is not None
    started: list[Popen[bytes]] = []
    kernel = _Kernel(interruption, Settings(warm_up, horizon), grow_over or 0.0, quiet=out.quiet) if of_kernel else None

    def on_tick() -> None:
        if kernel is not None and kernel.tick() and command_line is not None:
            started[:] = [*_still_running(started), _run(command_line, kernel.report())]

    longest = float("inf") if duration is None else duration
    with interruption.listening():
        for update in watch.run(choice, interval, longest, on_tick) if some else ():
            accused = watch.accuses(update.trend)
            if not out.quiet and (accused or update.trend.at_risk or not (many or update.trend.accuses)):
                _say(update)
            if command_line is not None and accused:
                started[:] = [*_still_running(started), _run(command_line, watch.report(update))]
        for _ in () if some else interruption.ticks(interval, longest):
            on_tick()
        reports = watch.reports(every=not many) if some else []
        reports += [kernel.report()] if kernel is not None else []
    _await(started)
    if many and some:
        unread = f", {watch.unreadable} more may not be read" if watch.unreadable else ""
        out.say(f"{watch.services} watched{unread}; {len(reports)} grow")
    out.write(reports)
    return out.status(reports)


class _Kernel:
    """The kernel's counters, beside the processes."""

    def __init__(self, interruption: Interruption, settings: Settings, least_rate: float, *, quiet: bool) -> None:
        import time

        from leakline.session.kernel import KernelWatch
        from leakline.sources.machine import Machine

        self._watch = KernelWatch(Machine(), interruption, settings=settings)
        self._least_rate, self._quiet, self._began = least_rate, quiet, time.monotonic_ns()
        self._watch.begin()

    def tick(self) -> bool:
        """Take a sample, and say what has come to grow; whether there is something new."""
        from leakline.present.kernel import describe_growth

        self._watch.look()
        found = [growth for growth in self._watch.changes() if (growth.rate_bytes_per_second or 0.0) >= self._least_rate]
        for growth in found if not self._quiet else ():
            for line, style in describe_growth(growth):
                if style != "dim":
                    say_on_stderr(line.removeprefix("  "))
        return any(not growth.reclaimable for growth in found)

    def report(self) -> Report:
        """What grows."""
        report = self._watch.finding_report(self._began)
        kept = tuple(f for f in report.findings if (f.rate_bytes_per_second or 0.0) >= self._least_rate)
        import msgspec

        return msgspec.structs.replace(report, findings=kept)


def _run(command_line: str, report: Report) -> Popen[bytes]:
    """Start a command that reads the findings; it is not waited for, so that sampling goes on."""
    import os
    import subprocess

    from leakline.present.json import to_json

    file = os.memfd_create("findings")
    try:
        os.write(file, to_json(report).encode())
        os.lseek(file, 0, os.SEEK_SET)
        return subprocess.Popen(["sh", "-c", command_line], stdin=file, stdout=2)  # our stdout is for the report
    finally:
        os.close(file)


def _still_running(processes: list[Popen[bytes]]) -> list[Popen[bytes]]:
    """Those that have not ended; what the others say by their status is told."""
    running = []
    for process in processes:
        status = process.poll()
        if status is None:
            running.append(process)
        elif status:
            say_on_stderr(f"the command of --exec ended with status {status}")
    return running


def _await(processes: list[Popen[bytes]]) -> None:
    import time

    deadline = time.monotonic() + _LONGEST_COMMAND_SECONDS
    while (processes := _still_running(processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in processes:
        say_on_stderr(f"the command of --exec still runs as process {process.pid}")


def _say(update: Update) -> None:
    from leakline.present.text import amount
    from leakline.present.trends import explain

    trend = update.trend
    risk = "AT-RISK " if trend.at_risk else ""
    say_on_stderr(f"{trend.duration_seconds:.0f} s: {trend.name}: {risk}{trend.verdict}: {explain(trend)}")
    if update.mapping is not None:
        grown, pid = update.mapping, update.target.pid
        say_on_stderr(f"  {grown.name} at {grown.start:#x} grew most, by {amount(grown.increase)}; next: leakline diagnose {pid}")
