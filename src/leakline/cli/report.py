"""`leakline report`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from leakline.cli.filters import FILTERS, filtered
from leakline.cli.findings_output import Output, output_options
from leakline.cli.options import Duration, Size
from leakline.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    _Judging = tuple[re.Pattern[str] | None, int | None, float, float]

_MOST_PANELS = 4


@click.command("report")
@click.argument(
    "files", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True), nargs=-1, required=True, metavar="FILE..."
)
@click.option("--series", "pattern", metavar="REGEX", help="Of a recording: only series whose name this finds.")
@click.option("--limit-bytes", type=Size(), metavar="SIZE", help="What each process may reach; else what memory had left.")
@click.option("--warm-up", type=Duration(), default="1h", show_default=True, help="No LEAK is called in this time after the start.")
@click.option("--horizon", type=Duration(), default="1d", show_default=True, help="A limit that is reached within it is a risk.")
@click.option("--no-source", is_flag=True, help="Of .html: leave out the lines of source around a finding.")
@output_options
@click.pass_context
def command(
    ctx: click.Context,
    files: tuple[Path, ...],
    pattern: str | None,
    limit_bytes: int | None,
    warm_up: float,
    horizon: float,
    no_source: bool,
    out: Output,
) -> int:
    """Show what files hold: a recording in words or as a chart, or the findings of whoever made them; all of it as a page.

    FILE is a recording; or one or more of: findings of leakline (--json), text or XML of valgrind, logs of AddressSanitizer and
    LeakSanitizer, /sys/kernel/debug/kmemleak. Findings about the same program become one report, equal ones one finding.
    With -o FILE.html all of these, and what `maps --json` and `faults --json` wrote, go into one page for a browser.
    """
    from leakline.store.schema import is_recording

    if out.form == "html":
        _refuse(ctx, ("as_json", "limit"), "is for what is printed: this is a page")
        settings = (_compiled(pattern), limit_bytes, warm_up, horizon)
        return _write_page(files, settings, out, source=not no_source)
    _refuse(ctx, ("no_source",), "goes with -o FILE.html")

    recordings = [file for file in files if str(file) != "-" and file.is_file() and is_recording(file)]
    if not recordings:
        from leakline.session.reading_reports import read_reports

        _refuse(ctx, ("pattern", "limit_bytes", "warm_up", "horizon"), "goes with a recording: these are findings")
        reports = read_reports(files, out.say)
        out.write(reports)
        return out.status(reports)
    if len(files) > 1:
        raise InvalidRequest("a recording is shown alone", hint=f"leakline report {recordings[0]}")
    _refuse(ctx, ("as_json", "form", "fail_on", *FILTERS), "is about findings: this is a recording, which `leakline trend` judges")
    panels = out.limit if ctx.get_parameter_source("limit") is ParameterSource.COMMANDLINE else _MOST_PANELS
    return _show_recording(recordings[0], (_compiled(pattern), limit_bytes, warm_up, horizon), panels, out)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise InvalidRequest(f"--series {pattern!r} is not a regular expression: {error}") from error


def _write_page(files: Sequence[Path], judging: _Judging, out: Output, *, source: bool) -> int:
    """One page of all files, to the file or to stdout."""
    from leakline.analysis.trend import Settings
    from leakline.session.html_page import gather, html_report

    pattern, limit_bytes, warm_up, horizon = judging
    page = gather(
        files,
        out.say,
        settings=Settings(warm_up, horizon),
        limit=limit_bytes,
        pattern=pattern,
        keep=filtered,
        source=source,
    )
    out.write_bytes(html_report(page))
    if out.path is not None:
        out.say(f"the page is in {out.path}")
    return out.status(page.reports)


def _refuse(ctx: click.Context, names: Sequence[str], why: str) -> None:
    for parameter in ctx.command.params:
        if parameter.name in names and ctx.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[-1]} {why}")


def _show_recording(file: Path, judging: _Judging, most: int, out: Output) -> int:
    """The chart has a panel for each series, the worst first: samples, floors, the likeliest shape, the rate, the limit."""
    from leakline.analysis.trend import Settings, curve_of, judge
    from leakline.present.series_chart import Panel, series_svg
    from leakline.present.trends import describe_trends
    from leakline.session.judging import recorded_series, severity

    if out.form not in ("text", "svg", "png") or (out.path is not None and out.form == "text"):
        raise InvalidRequest(f"{out.path} does not end in .svg or .png", hint="Leave -o out for text.")
    wanted, limit_bytes, warm_up, horizon = judging
    series = [one for one in recorded_series(file, limit_bytes) if wanted is None or wanted.search(one.name)]
    if not series:
        raise InvalidRequest(f"{file} holds no such series", hint="`leakline trend FILE --all` lists them.")
    judged = dict(enumerate(judge(series, Settings(warm_up, horizon))))
    worst = sorted(judged, key=lambda number: severity(judged[number]))
    trends = [judged[number] for number in worst]
    if out.form == "text":
        out.write_lines(describe_trends(trends[:most] if wanted is None else trends))
        return 0
    panels = [Panel(series[number], judged[number], curve_of(series[number])) for number in worst[:most]]
    svg = series_svg(panels, file.name)
    if out.form == "png":
        from leakline.present.png import png_of

        out.write_bytes(png_of(svg))
    else:
        out.write_bytes(svg.encode())
    if len(trends) > most:
        out.say(f"{most} of {len(trends)} series are drawn: -n and --series choose")
    return 0
