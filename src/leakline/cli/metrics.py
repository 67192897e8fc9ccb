"""`leakline metrics`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from leakline import __version__
from leakline.cli.options import Duration, closed_pipe_allowed
from leakline.errors import InvalidRequest


@click.command("metrics")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--textfile", type=click.Path(dir_okay=False, path_type=Path), metavar="PATH", help="Write this file, again and again."
)
@click.option(
    "--top", type=click.IntRange(0, 10_000), default=20, show_default=True, help="Processes and control groups with own metrics."
)
@click.option("-i", "--interval", type=Duration(), default="15s", show_default=True, help="From look to look.")
@click.option("-d", "--duration", type=Duration(), help="How long; else until Ctrl-C, or without --textfile for one look.")
@click.option("--warm-up", type=Duration(), default="1h", show_default=True, help="No LEAK is called in this time after the start.")
@click.option("--horizon", type=Duration(), default="1d", show_default=True, help="A limit that is reached within it is a risk.")
def command(
    file: Path | None,
    textfile: Path | None,
    top: int,
    interval: float,
    duration: float | None,
    warm_up: float,
    horizon: float,
) -> int:
    """Write what `leakline serve` tells by /metrics: to stdout, or for node_exporter's textfile collector.

    With --textfile the file is replaced as a whole at each look, and removed at the end: what is there is never half written.
    Without, it is printed after the last look; with FILE it is that of a recording.
    """
    from leakline.analysis.trend import Settings
    from leakline.present.export.openmetrics import metrics
    from leakline.session.interruption import Interruption
    from leakline.session.monitoring import Monitor
    from leakline.session.recorded_views import RecordedViews
    from leakline.session.sampling import Choice
    from leakline.sources.machine import Machine

    if interval < 0.01:
        raise click.BadParameter("at least 10ms", param_hint="--interval")
    if textfile is not None and textfile.suffix != ".prom":
        raise click.BadParameter("node_exporter reads files that end in .prom", param_hint="--textfile")
    interruption = Interruption()
    settings = Settings(warm_up, horizon)
    if file is not None:
        feed: Monitor | RecordedViews = RecordedViews(file, interruption, settings)
    else:
        feed = Monitor(Machine(), interruption, settings, Choice.of((), everything=True), interval)
    lasting = duration if duration is not None else float("inf") if textfile is not None else 0.0
    text = ""
    with interruption.listening():
        try:
            for view in feed.views(lasting):
                text = metrics(view, "text", top, __version__)
                if textfile is not None:
                    _replace(textfile, text)
        finally:
            if textfile is not None:
                textfile.unlink(missing_ok=True)
    if textfile is None:
        with closed_pipe_allowed():
            sys.stdout.write(text)
            sys.stdout.flush()
    return 0


def _replace(path: Path, text: str) -> None:
    """Put a whole file in the place of another, for all to read; the collector leaves names alone that begin with a dot."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text)
        unfinished.chmod(0o644)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise InvalidRequest(f"cannot write {path}: {error.strerror}", hint="Choose a folder that is there, with room.") from error
