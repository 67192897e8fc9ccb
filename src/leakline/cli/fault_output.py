"""Where a report on page faults goes, and as what."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from leakline.cli.options import closed_pipe_allowed, say_on_stderr
from leakline.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leakline.model.faults import FaultReport
    from leakline.present.screen import Color


def fault_output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--json, -o, -f, -n, --color, -q; the command gets them as `out`."""

    @functools.wraps(function)
    def call(*args: Any, output: Path | None, **rest: Any) -> Any:  # noqa: ANN401
        mine: dict[str, Any] = {name: rest.pop(name) for name in ("as_json", "force", "limit", "color", "quiet")}
        return function(*args, out=FaultOutput(output, **mine), **rest)

    options = (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object: schema leakline.faults/1."),
        click.option(
            "-o",
            "--output",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Write to a file: .svg and .png draw faults over time, .json makes it JSON, anything else text.",
        ),
        click.option("-f", "--force", is_flag=True, help="Let --output replace a file."),
        click.option("-n", "--limit", type=click.IntRange(1), default=10, show_default=True, help="Rows in the text."),
        click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colours."),
        click.option("-q", "--quiet", is_flag=True, help="Do not say on stderr what is being done."),
    )
    decorated: Callable[..., Any] = call
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


class FaultOutput:
    """Text, JSON, or a picture, on a stream or in a file.

    Raises:
        InvalidRequest: the file exists, and --force was not given; or it cannot be written.

    """

    def __init__(self, path: Path | None, *, as_json: bool, force: bool, limit: int, color: Color, quiet: bool) -> None:
        self._path, self._limit, self._quiet = path, limit, quiet
        self._color: Color = color
        ending = "" if path is None else path.suffix
        self._json = as_json or ending == ".json"
        self._picture = ending.removeprefix(".") if ending in (".svg", ".png", ".html") and not as_json else None
        if path is not None and path.exists() and not force:
            raise InvalidRequest(f"{path} exists", hint="Choose another file, or replace it with --force.")
        if path is not None and not path.parent.is_dir():
            raise InvalidRequest(f"{path.parent} is not a folder", hint="Make it first.")
        if self._picture == "html":
            from leakline.present.html.page import require_jinja

            require_jinja()

    def say(self, text: str) -> None:
        """Say on stderr what is being done, or nothing with --quiet."""
        if not self._quiet:
            say_on_stderr(text)

    def require_file(self) -> None:
        """Refuse JSON on stdout: it belongs to the program that is started."""
        if self._json and self._path is None:
            raise click.UsageError("--json needs --output FILE: stdout is the program's")

    def write(self, reports: Sequence[FaultReport], stream: IO[str], *, sites: bool) -> None:
        """Write the reports, with each line's stacks or without: to the file, else to the stream."""
        if self._path is None:
            with closed_pipe_allowed():
                self._write(reports, stream, self._color, sites=sites)
                stream.flush()
            return
        try:
            if self._picture is not None:
                self._path.write_bytes(self._drawn(reports))
                return
            with self._path.open("w", encoding="utf-8") as file:
                self._write(reports, file, "never", sites=sites)
        except OSError as error:
            raise InvalidRequest(f"cannot write {self._path}: {error.strerror}", hint="Choose another file.") from error

    def _drawn(self, reports: Sequence[FaultReport]) -> bytes:
        if self._picture == "html":
            from leakline.session.html_page import html_report, page_of_faults

            return html_report(page_of_faults(reports))
        from leakline.present.fault_chart import faults_svg
        from leakline.present.png import png_of

        svg = faults_svg(reports)
        return png_of(svg) if self._picture == "png" else svg.encode()

    def _write(self, reports: Sequence[FaultReport], stream: IO[str], color: Color, *, sites: bool) -> None:
        from leakline.model.faults import FaultReports
        from leakline.present.faults import describe_faults
        from leakline.present.json import to_json
        from leakline.present.screen import write_lines

        if self._json:
            stream.write(to_json(reports[0] if len(reports) == 1 else FaultReports(targets=tuple(reports))))
        else:
            write_lines(describe_faults(reports, self._limit, sites=sites), stream, color)
