"""`leakline trend`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leakline.cli.options import Duration, Size, closed_pipe_allowed
from leakline.errors import InvalidRequest

if TYPE_CHECKING:
    from leakline.present.screen import Color

_UNITS = ("B", "KiB", "MiB", "GiB", "kB", "MB", "GB", "pages")


@click.command("trend")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True), metavar="FILE...")
@click.option("--time", "time_column", metavar="COLUMN", help="Seconds, or times as 2026-11-22T17:42:52.")
@click.option("--value", "value_column", metavar="COLUMN", help="The memory.")
@click.option("--by", "by_column", metavar="COLUMN", help="A series for each value of this column.")
@click.option(
    "--epoch", "epoch_column", metavar="COLUMN", help="What changes when a process was started anew; else `pid`, if there is one."
)
@click.option("--unit", type=click.Choice(_UNITS), help="What the values count; else as the column's name ends, or bytes.")
@click.option("--limit", type=Size(), metavar="SIZE", help="What it may reach at most: shows when it will.")
@click.option("--warm-up", type=Duration(), default="1h", show_default=True, help="No LEAK is called in this time after the start.")
@click.option("--horizon", type=Duration(), default="1d", show_default=True, help="A limit that is reached within it is a risk.")
@click.option("--all", "every", is_flag=True, help="Of a recording, what needs no fix too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: schema leakline.trend/1.")
@click.option("--fail-on", type=click.Choice(["growing", "leak"]), help="Exit with 1 if a series is judged so, or worse.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colours.")
def command(
    files: tuple[Path, ...],
    time_column: str | None,
    value_column: str | None,
    by_column: str | None,
    epoch_column: str | None,
    unit: str | None,
    limit: int | None,
    warm_up: float,
    horizon: float,
    every: bool,
    as_json: bool,
    fail_on: str | None,
    color: Color,
) -> int:
    """Judge whether series of memory grow without end.

    Series come from `leakline record`, CSV, JSON lines, pidstat -r, sar -r, psrecord --log or Prometheus range answers; `-` is
    stdin. The verdicts: STABLE, SETTLING, PLATEAU, STEP, PERIODIC and DECLINING need no fix; UNDECIDED needs more samples; GROWING
    names what keeps it from LEAK. Of a recording the worst come first, and what needs no fix is counted in one line.
    """
    from leakline.analysis.trend import Settings, judge
    from leakline.model.trend import TrendReport
    from leakline.present.json import to_json
    from leakline.present.screen import write_lines
    from leakline.present.trends import count_trends, describe_trends
    from leakline.session.judging import by_severity, judge_recording
    from leakline.sources.series_files import UNITS, Columns, parse_series
    from leakline.store.schema import is_recording

    columns = Columns(time_column, value_column, by_column, epoch_column, None if unit is None else UNITS[unit])
    settings = Settings(warm_up, horizon)
    series, recorded = [], []
    for path in files:
        if str(path) != "-" and is_recording(path):
            if any((time_column, value_column, by_column, epoch_column, unit)):
                raise InvalidRequest(f"{path} is a recording: its columns and units are known", hint="Leave --time to --unit out.")
            recorded += judge_recording(path, settings, limit)
        else:
            series += parse_series(_bytes(path), "-" if str(path) == "-" else path.name, columns, limit)
    recorded, judged = by_severity(recorded), judge(series, settings)
    trends = [*recorded, *judged]
    with closed_pipe_allowed():
        if as_json:
            sys.stdout.write(to_json(TrendReport(series=tuple(trends))))
        else:
            shown = [trend for trend in recorded if every or trend.is_noteworthy or trend.at_risk]
            quiet = [trend for trend in recorded if not (every or trend.is_noteworthy or trend.at_risk)]
            write_lines([*describe_trends([*shown, *judged]), *count_trends(quiet)], sys.stdout, color)
        sys.stdout.flush()
    worse = {"growing": ("GROWING", "LEAK"), "leak": ("LEAK",)}.get(fail_on or "", ())
    return int(any(trend.verdict in worse for trend in trends))


def _bytes(path: Path) -> bytes:
    if str(path) == "-" and sys.stdin is None:
        raise InvalidRequest("stdin is closed", hint="Give a file.")
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}", hint="`-` reads stdin.") from error
