"""`leakline doctor`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from leakline.cli.options import closed_pipe_allowed

if TYPE_CHECKING:
    from leakline.present.screen import Color


@click.command("doctor")
@click.option("--target", type=click.IntRange(1), metavar="PID", help="Try it on this process, and look for its debug symbols.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: schema leakline.doctor/1.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colours.")
def command(target: int | None, as_json: bool, color: Color) -> int:
    """Show what works on this machine, and how to get the rest.

    Each mechanism is tried, on a process of our own or on --target; nothing is guessed from versions.
    """
    from leakline import __version__
    from leakline.model.capability import DoctorReport
    from leakline.present.doctor import describe_doctor
    from leakline.present.json import to_json
    from leakline.present.screen import write_lines
    from leakline.sources.capabilities import examine, host
    from leakline.sources.procfs import ProcFs

    kernel, machine = host()
    report = DoctorReport(
        version=__version__,
        kernel=kernel,
        machine=machine,
        uid=os.geteuid(),
        target=target,
        capabilities=examine(ProcFs(), target),
    )
    with closed_pipe_allowed():
        if as_json:
            sys.stdout.write(to_json(report))
        else:
            write_lines(describe_doctor(report), sys.stdout, color)
        sys.stdout.flush()
    return 0
