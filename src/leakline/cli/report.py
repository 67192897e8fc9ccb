"""`leakline report`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leakline.cli.options import Duration, Size, closed_pipe_allowed, say_on_stderr
from leakline.errors import InvalidRequest, ParseError

if TYPE_CHECKING:
    from leakline.present.screen import Color

_MOST_PANELS = 4


@click.command("report")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--series", "pattern", metavar="REGEX", help="Only series whose name this finds.")
@click.option(
    "-n", "--limit", "most", type=click.IntRange(1, 40), default=_MOST_PANELS, show_default=True, help="Series in a chart."
)
@click.option("--limit-bytes", type=Size(), metavar="SIZE", help="What each process may reach; else what memory had left.")
@click.option("--warm-up", type=Duration(), default="1h", show_default=True, help="No LEAK is called in this time after the start.")
@click.option("--horizon", type=Duration(), default="1d", show_default=True, help="A limit that is reached within it is a risk.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A chart: FILE.svg, or FILE.png; of findings, any of their formats.",
)
@click.option("-f", "--force", is_flag=True, help="Let --output replace a file.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colours.")
def command(
    file: Path,
    pattern: str | None,
    most: int,
    limit_bytes: int | None,
    warm_up: float,
    horizon: float,
    output: Path | None,
    force: bool,
    color: Color,
) -> int:
    """Show what a recording, or a file of findings, holds: in words, or as a chart or another format with -o.

    The chart has a panel for each series, the worst first: samples, the floors that are judged, the likeliest shape through them,
    the rate with its interval, and the limit.
    """
    from leakline.analysis.trend import Settings, curve_of, judge
    from leakline.present.screen import write_lines
    from leakline.present.series_chart import Panel, series_svg
    from leakline.present.trends import describe_trends
    from leakline.session.judging import recorded_series, severity
    from leakline.store.schema import is_recording

    if not is_recording(file):
        _convert(file, output, force=force, most=most, color=color)
        return 0
    if output is not None and output.suffix not in (".svg", ".png"):
        raise InvalidRequest(f"{output} does not end in .svg or .png", hint="Leave -o out for text.")
    if output is not None and output.exists() and not force:
        raise InvalidRequest(f"{output} exists", hint="Choose another file, or replace it with --force.")
    try:
        wanted = re.compile(pattern or "")
    except re.error as error:
        raise InvalidRequest(f"--series {pattern!r} is not a regular expression: {error}") from error
    series = [one for one in recorded_series(file, limit_bytes) if wanted.search(one.name)]
    if not series:
        raise InvalidRequest(f"{file} holds no such series", hint="`leakline trend FILE --all` lists them.")
    judged = dict(enumerate(judge(series, Settings(warm_up, horizon))))
    worst = sorted(judged, key=lambda number: severity(judged[number]))
    trends = [judged[number] for number in worst]
    if output is None:
        with closed_pipe_allowed():
            write_lines(describe_trends(trends[:most] if pattern is None else trends), sys.stdout, color)
            sys.stdout.flush()
        return 0
    panels = [Panel(series[number], judged[number], curve_of(series[number])) for number in worst[:most]]
    svg = series_svg(panels, file.name)
    if output.suffix == ".png":
        from leakline.present.png import png_of

        data = png_of(svg)
    else:
        data = svg.encode()
    try:
        output.write_bytes(data)
    except OSError as error:
        raise InvalidRequest(f"cannot write {output}: {error.strerror}", hint="Choose another file.") from error
    if len(trends) > most:
        say_on_stderr(f"{most} of {len(trends)} series are drawn: -n and --series choose")
    return 0


def _convert(file: Path, output: Path | None, *, force: bool, most: int, color: Color) -> None:
    """Write findings, which `--json` has written, as another format."""
    from leakline.cli.options import Output
    from leakline.session.reporting import read_findings

    writer = Output(output, as_json=False, force=force, limit=most, color=color, quiet=False)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"cannot read {file}: {error.strerror}", hint="Give another file.") from error
    try:
        reports = read_findings(data).targets
    except ParseError as error:
        hint = "`leakline record -o FILE` writes a recording, `--json` findings; `leakline trend` judges other files."
        raise ParseError(f"{file} is no recording and holds no findings: {error.message}", hint=hint) from error
    writer.write(reports)
