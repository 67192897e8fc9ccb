"""`leakline trace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from leakline.cli.findings_output import Output, output_options
from leakline.cli.options import Duration, Size
from leakline.cli.targets import Targets, target_options

if TYPE_CHECKING:
    from leakline.session.tracing import Via
    from leakline.sources.bpf import Stacks

    Engine = Via | Literal["faults"]


@click.command("trace")
@target_options
@click.option(
    "--via", type=click.Choice(["auto", "bpf", "breakpoint", "faults"]), default="auto", show_default=True, help="How to record."
)
@click.option("-d", "--duration", type=Duration(), default="10s", show_default=True, help="How long to record.")
@click.option("--min-size", type=Size(), default="0", show_default=True, help="Leave out smaller requests (bpf).")
@click.option("--min-age", type=Duration(), default="0", show_default=True, help="Leave out blocks that are younger at the end.")
@click.option(
    "--sample",
    type=Size(),
    default="0",
    metavar="BYTES",
    help="Record one allocation in so many bytes, and no frees: 512KiB costs next to nothing (bpf).",
)
@click.option(
    "--stacks",
    type=click.Choice(["copied", "frame-pointers", "caller"]),
    default="copied",
    show_default=True,
    help="Exact by unwinding a copy; by frame pointers, where programs have them; or the caller alone (bpf).",
)
@output_options
def command(
    targets: Targets,
    via: Engine,
    duration: float,
    min_size: int,
    min_age: float,
    sample: int,
    stacks: Stacks,
    out: Output,
) -> int:
    """Record the allocations of a running process, and tell which are lost.

    `bpf` records every allocation and free (root, or CAP_BPF with CAP_PERFMON). `breakpoint` needs no privilege on one's
    own processes: it watches the call sites that make blocks of the sizes that are lost already. In the end two scans tell
    what is lost (definite) from what is only not freed yet (reachable). `faults` needs no privilege either: it watches which lines
    touch new pages, of any allocator or mmap, and which of these pages stay (growing); it does not look for lost blocks.
    """
    from leakline.session.interruption import Interruption
    from leakline.session.looking import TraceOptions, each, watch_allocations
    from leakline.sources.bpf import RecordingOptions
    from leakline.sources.procfs import ProcFs

    procfs, interruption, say = ProcFs(), Interruption(), out.say
    with interruption.listening():
        chosen = targets.select(procfs)
        if via == "faults":
            from leakline.session.fault_growth import watch_growth

            reports = each(chosen, lambda pid: watch_growth(procfs, pid, duration, interruption=interruption, say=say), say)
        else:
            recording = RecordingOptions(min_size=min_size, sampled_bytes=sample, stacks=stacks)
            options = TraceOptions(seconds=duration, via=via, min_age=min_age, recording=recording)
            reports = each(chosen, lambda pid: watch_allocations(procfs, pid, options, interruption=interruption, say=say), say)
    out.write(reports)
    return out.status(reports)
