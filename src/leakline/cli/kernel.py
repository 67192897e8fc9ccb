"""`leakline kernel`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakline.cli.options import Duration, Output, closed_pipe_allowed, fail_on_option, fails, output_options, speaker
from leakline.cli.tabular import machine_of, root_option
from leakline.errors import InvalidRequest

if TYPE_CHECKING:
    from leakline.model.kernel import KernelReport
    from leakline.present.screen import Color
    from leakline.session.kernel_locating import Source

_PARTS = {
    "slab": "Slab caches, with those that share one by name.",
    "vmalloc": "Virtually contiguous memory, by who asked for it.",
    "zones": "Zones with their watermarks and per-CPU lists.",
    "buddy": "Free blocks by order: fragmentation.",
    "percpu": "Memory that each CPU has of its own.",
    "pagetables": "Page tables of processes.",
    "unexplained": "What no counter shows.",
}


def _part_options(function: Any) -> Any:  # noqa: ANN401
    for name, text in reversed(_PARTS.items()):
        function = click.option(f"--{name}", is_flag=True, help=text)(function)
    return function


@click.command("kernel")
@click.argument("recording", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-i", "--interval", type=Duration(), default="1s", show_default=True, help="From look to look.")
@click.option("-d", "--duration", type=Duration(), default="10s", show_default=True, help="How long; 0 is one look.")
@_part_options
@click.option("--warm-up", type=Duration(), default="1h", show_default=True, help="No LEAK is called before so long a look.")
@click.option("--locate", is_flag=True, help="Find the line of the kernel that allocates what grows.")
@click.option(
    "--source",
    type=click.Choice(["auto", "allocinfo", "page-owner", "slab-traces", "kmemleak", "tracepoints"]),
    default="auto",
    show_default=True,
    help="With --locate: what to ask; `auto` takes the best that this kernel has.",
)
@click.option("--counter", metavar="NAME", help="With --locate: the counter that grows: slab:kmalloc-256, or pages.")
@root_option
@fail_on_option
@output_options
def command(
    recording: Path | None,
    interval: float,
    duration: float,
    warm_up: float,
    locate: bool,
    source: Source,
    counter: str | None,
    root: Path | None,
    fail_on: str | None,
    as_json: bool,
    output: Path | None,
    force: bool,
    limit: int,
    color: Color,
    quiet: bool,
    **asked: bool,
) -> int:
    """Watch the kernel's own memory: which counter grows, whose things it counts, and which line allocates them.

    Samples slab caches, vmalloc, page tables, per-CPU memory and what no counter shows, judges each series, and counts what each
    process has more of; of a RECORDING made by `leakline record --kernel`, what was recorded. Any of --slab, --vmalloc and so on
    shows that table, and watches only its counters. With --locate the report is one of findings, as `scan` prints them.
    """
    from leakline.analysis.trend import Settings
    from leakline.session.interruption import Interruption
    from leakline.session.kernel import KernelWatch

    if interval < 0.01:
        raise click.BadParameter("at least 10ms", param_hint="--interval")
    interruption = Interruption()
    parts: list[Any] = [name for name in _PARTS if asked[name]]
    writer = Output(output, as_json=as_json, force=force, limit=limit, color=color)
    machine = machine_of(root)
    if locate:
        from leakline.session.kernel_locating import locate_leaks

        if root is not None or recording is not None:
            raise InvalidRequest("--locate asks the kernel that runs, not another one, nor a recording")
        if parts:
            raise click.UsageError("--locate takes --counter NAME")
        with interruption.listening():
            report = locate_leaks(machine, source, counter, duration, interruption, speaker(quiet=quiet))
        writer.write([report])
        return int(fails([report], fail_on))
    if counter is not None or source != "auto":
        raise click.UsageError("--source and --counter go with --locate")
    if fail_on is not None:
        raise click.UsageError("--fail-on goes with --locate")
    if writer.form not in ("text", "json"):
        raise click.UsageError(f"{writer.form} goes with --locate: counters are text or json")
    if recording is not None:
        from leakline.session.kernel_recorded import kernel_of_recording

        if parts or root is not None:
            raise click.UsageError("a recording holds no tables; it goes without --slab and so on, and without --root")
        _write(kernel_of_recording(recording, Settings(warm_up=warm_up)), writer.as_json, output, limit, color)
        return 0
    with interruption.listening():
        found = KernelWatch(machine, interruption, parts, Settings(warm_up=warm_up)).run(interval, duration, speaker(quiet=quiet))
    _write(found, writer.as_json, output, limit, color)
    return 0


def _write(report: KernelReport, as_json: bool, output: Path | None, limit: int, color: Color) -> None:
    from io import StringIO

    from leakline.present.json import to_json
    from leakline.present.kernel import describe_kernel
    from leakline.present.screen import write_lines

    text = StringIO()
    if as_json:
        text.write(to_json(report))
    elif output is not None:
        write_lines(describe_kernel(report, limit), text, "never")
    if output is not None:
        try:
            output.write_text(text.getvalue(), encoding="utf-8")
        except OSError as error:
            raise InvalidRequest(f"cannot write {output}: {error.strerror}", hint="Choose another file.") from error
        return
    with closed_pipe_allowed():
        if as_json:
            sys.stdout.write(text.getvalue())
        else:
            write_lines(describe_kernel(report, limit), sys.stdout, color)
        sys.stdout.flush()
