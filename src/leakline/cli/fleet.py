"""`leakline fleet`."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakline.cli.fleet_source import Store, source_options
from leakline.cli.options import Duration, closed_pipe_allowed, say_on_stderr
from leakline.errors import InvalidRequest

if TYPE_CHECKING:
    from leakline.model.fleet import FleetReport
    from leakline.present.screen import Color

_FORMS = {".json": "json", ".csv": "csv", ".html": "html"}
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class _Moment(click.ParamType[float]):
    """Seconds since 1970, or a time as 2026-11-22T17:42:52Z."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        try:
            seconds = float(value) if re.fullmatch(r"\d{1,11}(\.\d*)?", value) else datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            seconds = 0.0
        if not 0 < seconds < 1e11:
            self.fail(f"{value!r} is not a time: 1764151200, or 2026-11-26T10:00:00Z", param, ctx)
        return seconds


class _Labels(click.ParamType[tuple[str, ...]]):
    """Names of labels: job,instance."""

    name = "labels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:  # noqa: ANN401
        names = tuple(value.split(","))
        if not all(map(_LABEL.fullmatch, names)):
            self.fail(f"{value!r} names no labels: job,instance", param, ctx)
        return names


@click.command("fleet")
@source_options
@click.option(
    "--by", type=_Labels(), metavar="A,B", help="Labels that tell services apart; else what no restart and no host changes."
)
@click.option(
    "--release-label", "release", type=_Labels(), metavar="A,B", help="Labels that name a release; else version or image tag."
)
@click.option("--window", type=Duration(), default="3d", show_default=True, help="How long to look back.")
@click.option("--end", type=_Moment(), help="Where the window ends; else now.")
@click.option("--warm-up", type=Duration(), default="1h", show_default=True, help="No LEAK is called in this time after the start.")
@click.option("--horizon", type=Duration(), default="1d", show_default=True, help="A limit that is reached within it is a risk.")
@click.option(
    "--false-discovery-rate",
    "false_rate",
    type=click.FloatRange(0.0001, 0.5),
    default=0.05,
    show_default=True,
    help="The share of what is called a discovery that may be false.",
)
@click.option(
    "--fail-on", type=click.Choice(["growing", "leak"]), help="Exit with 1 if a service is judged so, or a release leaks."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: schema leakline.fleet/1.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "csv", "html"]), help="Where the end of the file's name does not tell."
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file: .html, .json, .csv, else text."
)
@click.option("-f", "--force", is_flag=True, help="Let --output replace a file.")
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="Rows of each part of the text.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colours.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
def command(
    store: Store,
    by: tuple[str, ...] | None,
    release: tuple[str, ...] | None,
    window: float,
    end: float | None,
    warm_up: float,
    horizon: float,
    false_rate: float,
    fail_on: str | None,
    as_json: bool,
    form: str | None,
    output: Path | None,
    force: bool,
    limit: int,
    color: Color,
    quiet: bool,
) -> int:
    """Judge the memory of many hosts by what is recorded of them: what leaks, since which release, how surely.

    The store makes the floors of all series; samples are read of those alone that may grow, and judged as `leakline trend` does.
    Restarts and new names of pods are joined into services; the evidence of all instances of a release is pooled.
    """
    import os
    import time

    # Products of small matrices: several threads would only take the processor from whoever makes the floors.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from leakline.analysis.trend import Settings
    from leakline.model.fleet_floors import Window
    from leakline.session.fleet import FleetOptions, judge_fleet

    if as_json and form not in (None, "json"):
        raise click.UsageError(f"either --json, or --format {form}")
    kind = form or ("json" if as_json else "text" if output is None else _FORMS.get(output.suffix.lower(), "text"))
    if output is not None and output.exists() and not force:
        raise InvalidRequest(f"{output} exists", hint="Choose another file, or replace it with --force.")
    if kind == "html":
        from leakline.present.html.page import require_jinja

        require_jinja()
    options = FleetOptions(store.metric.name, release or store.metric.release, by, Settings(warm_up, horizon), false_rate)
    with store.open() as source:
        asked = Window.until(time.time() if end is None else end, window)
        report = judge_fleet(source, asked, options, (lambda _text: None) if quiet else say_on_stderr)
    if output is None and kind == "text":
        from leakline.present.fleet import describe_fleet
        from leakline.present.screen import write_lines

        with closed_pipe_allowed():
            write_lines(describe_fleet(report, limit), sys.stdout, color)
            sys.stdout.flush()
    else:
        _write(_encoded(report, kind, limit), output)
    verdicts = {"growing": ("GROWING", "LEAK"), "leak": ("LEAK",)}.get(fail_on or "", ())
    worse = any(one.verdict in verdicts for one in report.services)
    return int(worse or (fail_on is not None and any(one.discovered for one in report.rollouts)))


def _encoded(report: FleetReport, kind: str, limit: int) -> str:
    if kind == "json":
        from leakline.present.json import to_json

        return to_json(report)
    if kind == "csv":
        from leakline.present.fleet import fleet_csv

        return fleet_csv(report)
    if kind == "html":
        from leakline import __version__
        from leakline.present.html.fleet import fleet_page

        return fleet_page(report, __version__)
    from io import StringIO

    from leakline.present.fleet import describe_fleet
    from leakline.present.screen import write_lines

    text = StringIO()
    write_lines(describe_fleet(report, limit), text, "never")
    return text.getvalue()


def _write(text: str, output: Path | None) -> None:
    if output is None:
        with closed_pipe_allowed():
            sys.stdout.write(text)
            sys.stdout.flush()
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"cannot write {output}: {error.strerror}", hint="Choose another file.") from error
