"""Where the findings of a command go, as what, and what its exit status says of them."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from leakline import __version__
from leakline.cli.filters import check_generated, filter_options, filtered, say_after
from leakline.cli.options import closed_pipe_allowed, say_on_stderr
from leakline.errors import InvalidRequest
from leakline.present.export.forms import BINARY, ENDINGS, FORMS, encode, form_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from leakline.model.finding import Confidence, Report
    from leakline.present.export.forms import Form
    from leakline.present.screen import Color, Line

_OPTIONS = (
    click.option(
        "--fail-on",
        type=click.Choice(["low", "medium", "high"]),
        help="Exit with 1 if there is a finding of this confidence or a higher one.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object: schema leakline.findings/1."),
    click.option(
        "--format",
        "form",
        type=click.Choice(FORMS),
        help="How to write the report, where the end of the file's name does not tell.",
    ),
    click.option(
        "-o",
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        help=f"Write the report to a file; the end of its name is the format: {' '.join(ENDINGS)}; text without one.",
    ),
    click.option("-f", "--force", is_flag=True, help="Let --output replace a file."),
    click.option("-n", "--limit", type=click.IntRange(1), default=10, show_default=True, help="Findings in the text."),
    click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colours."),
    click.option("-q", "--quiet", is_flag=True, help="Do not say on stderr what is being done."),
    filter_options,
)
_NAMES = ("fail_on", "as_json", "form", "force", "limit", "color", "quiet")


def findings_exit_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--findings-exit: of commands that start a program."""
    return click.option(
        "--findings-exit",
        type=click.IntRange(1, 255),
        help="With -- COMMAND: exit with this status if something was found; with --fail-on, of that confidence.",
    )(function)


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--fail-on, --json, --format, -o, -f, -n, --color, -q, and the filters; the command gets them as `out`."""

    @functools.wraps(function)
    def call(*args: Any, output: Path | None, **rest: Any) -> Any:  # noqa: ANN401
        mine: dict[str, Any] = {name: rest.pop(name) for name in _NAMES}
        return function(*args, out=Output(output, **mine), **rest)

    decorated: Callable[..., Any] = call
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


class Output:
    """Where a report goes, and as what.

    Raises:
        InvalidRequest: the file exists, and --force was not given; or it cannot be written; or its name ends in what no format has.

    """

    def __init__(
        self,
        path: Path | None,
        *,
        as_json: bool,
        form: Form | None,
        force: bool,
        limit: int,
        color: Color,
        quiet: bool,
        fail_on: Confidence | None,
    ) -> None:
        if as_json and form not in (None, "json"):
            raise click.UsageError(f"either --json, or --format {form}")
        self.path = path
        self.force = force
        self.limit = limit
        self.color: Color = color
        self.quiet = quiet
        self.form: Form = form or ("json" if as_json else "text" if path is None else form_of(path))
        self.fail_on: Confidence | None = fail_on
        if path is None and self.form in BINARY and sys.stdout.isatty():
            raise click.UsageError(f"{self.form} is nothing for a terminal: give --output FILE")
        if path is not None and path.exists() and not force:
            raise InvalidRequest(f"{path} exists", hint="Choose another file, or replace it with --force.")
        if path is not None and not path.parent.is_dir():
            raise InvalidRequest(f"{path.parent} is not a folder", hint="Make it first.")
        if self.form == "png":
            from leakline.present.png import require_png

            require_png()
        if self.form == "html":
            from leakline.present.html.page import require_jinja

            require_jinja()
        check_generated(force=force, stdout_is_taken=path is None and self.form != "text")
        filtered(())  # a rule that makes no sense is told before the work, not after it

    @property
    def as_json(self) -> bool:
        """Whether other programs get all there is."""
        return self.form == "json"

    def say(self, text: str) -> None:
        """Say on stderr what is being done, or nothing with --quiet."""
        if not self.quiet:
            say_on_stderr(text)

    def require_file(self) -> None:
        """Refuse stdout for anything but text: it belongs to the program that is started."""
        if self.form != "text" and self.path is None:
            option = "--json" if self.as_json else f"--format {self.form}"
            raise click.UsageError(f"{option} with -- COMMAND needs --output FILE: stdout is the program's")

    def write_bytes(self, data: bytes) -> None:
        """Write what is made already: to the file, else to stdout."""
        if self.path is None:
            with closed_pipe_allowed():
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
            return
        try:
            self.path.write_bytes(data)
        except OSError as error:
            raise InvalidRequest(f"cannot write {self.path}: {error.strerror}", hint="Choose another file.") from error

    def write_lines(self, lines: Iterable[Line]) -> None:
        """Write text that is not about findings: to the file, else to stdout."""
        from io import StringIO

        from leakline.present.screen import write_lines

        if self.path is None:
            with closed_pipe_allowed():
                write_lines(lines, sys.stdout, self.color)
                sys.stdout.flush()
            return
        file = StringIO()
        write_lines(lines, file, "never")
        self.write_bytes(file.getvalue().encode())

    def write(self, reports: Sequence[Report], stream: IO[str] | None = None, *, replace: bool = False) -> None:
        """Write the reports, without what is known: to the file, else to the stream (stdout). Then say in a line what they hold.

        Args:
            reports: all of them.
            stream: where they go without a file.
            replace: whoever reads the file meanwhile sees the report before or this one, never half of it.

        """
        reports = filtered(reports)
        where = ""
        if self.path is None:
            with closed_pipe_allowed():
                self._print(reports, stream or sys.stdout)
        else:
            try:
                self._store(self.path, self._encoded(reports), replace=replace)
            except OSError as error:
                raise InvalidRequest(f"cannot write {self.path}: {error.strerror}", hint="Choose another file.") from error
            where = f"; the report is in {self.path}"
        say_after(reports, self.say)
        if where or self.form != "text" or not (stream or sys.stdout).isatty():  # at a terminal the text itself is enough
            from leakline.present.findings import in_one_line

            self.say(f"{in_one_line(reports)}{where}")

    def _print(self, reports: Sequence[Report], stream: IO[str]) -> None:
        if self.form == "text":
            from leakline.present.findings import describe_reports
            from leakline.present.screen import write_lines

            write_lines(describe_reports(reports, self.limit), stream, self.color)
        elif self.form in BINARY:
            stream.buffer.write(self._encoded(reports))  # type: ignore[attr-defined]
        else:
            stream.write(self._encoded(reports).decode())
        stream.flush()

    @staticmethod
    def _store(path: Path, data: bytes, *, replace: bool) -> None:
        if not replace or (path.exists() and not path.is_file()):
            path.write_bytes(data)
            return
        whole = path.resolve()  # a link stays one
        new = whole.with_name(f".{whole.name}.{os.getpid()}")
        try:
            new.write_bytes(data)
            if whole.exists():
                new.chmod(whole.stat().st_mode & 0o7777)
            new.replace(whole)
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def _encoded(self, reports: Sequence[Report]) -> bytes:
        if self.form == "html":
            from leakline.session.html_page import html_report, page_of_reports

            return html_report(page_of_reports(reports))
        if self.form != "text":
            return encode(self.form, reports, _working_folder(), __version__)
        from io import StringIO

        from leakline.present.findings import describe_reports
        from leakline.present.screen import write_lines

        file = StringIO()
        write_lines(describe_reports(reports, self.limit), file, "never")
        return file.getvalue().encode()

    def status(self, reports: Iterable[Report]) -> int:
        """The exit status that --fail-on asks for."""
        return int(fails(reports, self.fail_on))

    def launched_status(self, reports: Iterable[Report], status: int, findings_exit: int | None) -> int:
        """The exit status of a command that has started a program: the program's own, unless another was asked for."""
        level = self.fail_on or (None if findings_exit is None else "low")
        return (findings_exit or 1) if fails(reports, level) else status


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:  # somebody has removed it
        return Path("/")


_ACCUSING = ("definite", "possible", "growing", "outstanding")


def fails(reports: Iterable[Report], level: Confidence | None) -> bool:
    """Whether a finding is as sure as --fail-on asks, of children too. What is still reachable is no accusation."""
    from leakline.model.finding import CONFIDENCES
    from leakline.present.export.samples import all_reports

    if level is None:
        return False
    reports = filtered(list(reports))
    sure_enough = CONFIDENCES[CONFIDENCES.index(level) :]
    return any(
        f.confidence in sure_enough and f.kind in _ACCUSING for report in all_reports(list(reports)) for f in report.findings
    )
