"""`leakline kernel`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakline.cli.findings_output import Output, output_options
from leakline.cli.options import Duration
from leakline.cli.tabular import machine_of, root_option
from leakline.errors import InvalidRequest

if TYPE_CHECKING:
    from leakline.model.kernel import KernelReport
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
    out: Output,
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
    machine = machine_of(root)
    if locate:
        from leakline.session.kernel_locating import locate_leaks

        if root is not None or recording is not None:
            raise InvalidRequest("--locate asks the kernel that runs, not another one, nor a recording")
        if parts:
            raise click.UsageError("--locate takes --counter NAME")
        with interruption.listening():
            report = locate_leaks(machine, source, counter, duration, interruption, out.say)
        out.write([report])
        return out.status([report])
    if counter is not None or source != "auto":
        raise click.UsageError("--source and --counter go with --locate")
    if out.fail_on is not None:
        raise click.UsageError("--fail-on goes with --locate")
    if out.form not in ("text", "json"):
        raise click.UsageError(f"{out.form} goes with --locate: counters are text or json")
    if recording is not None:
        from leakline.session.kernel_recorded import kernel_of_recording

        if parts or root is not None:
            raise click.UsageError("a recording holds no tables; it goes without --slab and so on, and without --root")
        _write(kernel_of_recording(recording, Settings(warm_up=warm_up)), out)
        return 0
    with interruption.listening():
        found = KernelWatch(machine, interruption, parts, Settings(warm_up=warm_up)).run(interval, duration, out.say)
    _write(found, out)
    return 0


def _write(report: KernelReport, out: Output) -> None:
    from leakline.present.json import to_json
    from leakline.present.kernel import describe_kernel

    if out.as_json:
        out.write_bytes(to_json(report).encode())
    else:
        out.write_lines(describe_kernel(report, out.limit))
