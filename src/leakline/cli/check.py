"""`leakline check`."""

from __future__ import annotations

import click

from leakline.cli.findings_output import Output, output_options
from leakline.cli.targets import Targets, target_options


@click.command("check")
@target_options
@click.option("--show-content", is_flag=True, help="Characters that lost blocks hold; they may be secrets.")
@output_options
def command(
    targets: Targets,
    show_content: bool,
    out: Output,
) -> int:
    """Name what a program that `leakline run` started has lost so far, while it runs on.

    Two looks, as `leakline scan` takes them, of the process and of its descendants that run under the agent too; what both call
    lost is reported with the exact stack that allocated it.
    """
    from leakline.session.agent_checks import check_now
    from leakline.session.interruption import Interruption
    from leakline.session.looking import each
    from leakline.session.searching import Details
    from leakline.sources.procfs import ProcFs

    procfs, interruption = ProcFs(), Interruption()
    details = Details(census=out.as_json, content=show_content)
    with interruption.listening():
        chosen = targets.select(procfs)
        reports = each(chosen, lambda pid: check_now(procfs, pid, details, interruption=interruption, say=out.say), out.say)
    out.write(reports)
    return out.status(reports)
