"""`leakline scan`."""

from __future__ import annotations

from pathlib import Path

import click

from leakline.cli.findings_output import Output, output_options
from leakline.cli.options import Address, Duration
from leakline.cli.targets import Targets, target_options

_FILE = click.Path(dir_okay=False, path_type=Path)
_SHORTEST_SECONDS = 0.1


@click.command("scan")
@target_options
@click.option(
    "--confirm",
    type=click.IntRange(1, 100),
    default=2,
    show_default=True,
    help="Looks; two that agree give high confidence.",
)
@click.option(
    "--stop-deadline",
    type=Duration(),
    default="1s",
    show_default=True,
    help="Let go of a target that does not stop by then.",
)
@click.option("--no-stop", is_flag=True, help="Let it run on: nothing found is more than possible.")
@click.option("--max-pause", type=Duration(), help="Do not let it stand still for longer at a time; refuse where that cannot be.")
@click.option("--diff", "before", type=_FILE, metavar="BEFORE", help="What there is more of than in an earlier scan's file.")
@click.option("--every", type=Duration(), help="Look so often, and tell which blocks become more and more.")
@click.option("-d", "--duration", type=Duration(), help="How long --every goes on; else until Ctrl-C.")
@click.option("--why", type=Address(), metavar="ADDRESS", help="Who holds the block there: the path from a root.")
@click.option("--show-content", is_flag=True, help="Characters that lost blocks hold; they may be secrets.")
@click.option("--core", "--open", "core", type=_FILE, help="Search a core dump, or an image that --save wrote.")
@click.option("--save", type=_FILE, help="Keep the image of the last look, as a core file, for analysis elsewhere.")
@output_options
def command(
    targets: Targets,
    confirm: int,
    stop_deadline: float,
    no_stop: bool,
    max_pause: float | None,
    before: Path | None,
    every: float | None,
    duration: float | None,
    why: int | None,
    show_content: bool,
    core: Path | None,
    save: Path | None,
    out: Output,
) -> int:
    """Find the lost heap blocks of a running process.

    The process stands still for some milliseconds at each look, while its memory is copied; then it goes on, and the copy
    is searched for blocks that no pointer leads to. It needs no restart, no rebuild and no debug symbols, and glibc 2.28 to
    2.43 as the allocator.
    """
    from leakline.session.interruption import Interruption
    from leakline.session.looking import ScanOptions, each, look, look_into_file
    from leakline.session.saved_scans import load_earlier
    from leakline.session.searching import Details
    from leakline.sources.procfs import ProcFs

    if core is not None and (targets or no_stop or every is not None or save is not None or max_pause is not None):
        raise click.UsageError("--core searches a file: it goes with no process, and nothing that is about one")
    if duration is not None and every is None:
        raise click.UsageError("--duration is how long --every goes on")
    if every is not None and every < _SHORTEST_SECONDS:
        raise click.BadParameter("at least 100ms", param_hint="--every")
    if save is not None and save.exists() and not out.force:
        raise click.UsageError(f"{save} exists: --force replaces it")
    census = out.as_json or before is not None or every is not None
    options = ScanOptions(
        looks=confirm,
        stop=not no_stop,
        stop_deadline=stop_deadline,
        max_pause=max_pause,
        details=Details(census=census, content=show_content, why=why),
        before=None if before is None else load_earlier(before),
        every=every,
        duration=duration,
        save=save,
    )
    if core is not None:
        reports = [look_into_file(core, options, say=out.say)]
    else:
        procfs, interruption = ProcFs(), Interruption()
        with interruption.listening():
            chosen = targets.select(procfs)
            if len(chosen) > 1 and (save is not None or why is not None or before is not None or every is not None):
                raise click.UsageError("--save, --why, --diff and --every are about one process")
            reports = each(chosen, lambda pid: look(procfs, pid, options, interruption=interruption, say=out.say), out.say)
    out.write(reports)
    return out.status(reports)
