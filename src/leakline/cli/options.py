"""Options and arguments that several commands share, and what they mean."""

from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from leakline import __version__
from leakline.cli.filters import check_generated, filter_options, filtered, say_after
from leakline.errors import InvalidRequest
from leakline.present.export.forms import BINARY, ENDINGS, FORMS, encode, form_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from leakline.model.finding import Report
    from leakline.present.export.forms import Form
    from leakline.present.screen import Color
    from leakline.sources.procfs import ProcFs

F = TypeVar("F", bound="Callable[..., Any]")
_FORMAT = "leakline.format"
_LONGEST_SECONDS = 3653 * 86400.0
_LARGEST = 1 << 60
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_SIZES = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Duration(click.ParamType[float]):
    """A number of seconds, or with a unit: 500ms 10s 5m 1h 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Seconds."""
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h|d|)", str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration: 30, 500ms, 10s, 5m, 1h or 7d", param, ctx)
        seconds = float(match[1]) * _UNITS[match[2]]
        if seconds > _LONGEST_SECONDS:
            self.fail(f"{value!r} is longer than ten years", param, ctx)
        return seconds


class Every(Duration):
    """A duration, or `every=` and a duration."""

    name = "every"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Seconds."""
        return super().convert(value.removeprefix("every=") if isinstance(value, str) else value, param, ctx)


class Size(click.ParamType[int]):
    """A number of bytes, or with a unit: 64KiB 10MiB 1GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Bytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+)\s*([a-z]*)", str(value).lower())
        if match is None or match[2] not in _SIZES:
            self.fail(f"{value!r} is not a size: 4096, 64KiB, 10MiB or 1GiB", param, ctx)
        size = int(match[1][:40]) * _SIZES[match[2]]
        if size > _LARGEST:
            self.fail(f"{value!r} is more than any machine has", param, ctx)
        return size


class Address(click.ParamType[int]):
    """An address in a process, hexadecimal."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """A number."""
        if isinstance(value, int):
            return value
        if re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,16}", str(value)) is None:
            self.fail(f"{value!r} is not an address: 0x55d0c0de4010", param, ctx)
        return int(value, 16)


class Rate(click.ParamType[float]):
    """A size in a time: 1MiB/h, 64KiB/s."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Bytes per second."""
        if isinstance(value, (int, float)):
            return float(value)
        size, slash, unit = str(value).partition("/")
        if not slash or unit not in ("s", "m", "h", "d"):
            self.fail(f"{value!r} is not a rate: 64KiB/s, 1MiB/h or 1GiB/d", param, ctx)
        return Size().convert(size, param, ctx) / _UNITS[unit]


def _stack(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def target_options(function: F) -> F:
    """PID..., -p/--pid, --name."""
    return _stack(
        click.argument("pids", nargs=-1, type=click.IntRange(1), metavar="[PID]..."),
        click.option("-p", "--pid", "more_pids", type=click.IntRange(1), multiple=True, help="A process; may be repeated."),
        click.option("--name", metavar="REGEX", help="Processes whose command or program name this finds."),
    )(function)


def _keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    ctx.meta[f"leakline.{param.name}"] = value


def group_options(function: F) -> F:
    """-u/--user, --cgroup: `select_targets` knows what they were given."""
    return _stack(
        click.option("-u", "--user", metavar="NAME", expose_value=False, callback=_keep, help="Processes of this user."),
        click.option(
            "--cgroup",
            metavar="PATH",
            expose_value=False,
            callback=_keep,
            help="Processes in this control group, and in those below it: a container's or a service's.",
        ),
    )(function)


def any_named(pids: Iterable[int], name: str | None) -> bool:
    """Whether target_options or group_options name a process."""
    meta = click.get_current_context().meta
    return bool([*pids]) or name is not None or any(meta.get(f"leakline.{word}") for word in ("user", "cgroup"))


def select_targets(procfs: ProcFs, pids: Iterable[int], name: str | None) -> list[int]:
    """The processes that target_options and group_options name.

    Raises:
        InvalidRequest: nothing was named.
        TargetGone: there are none.

    """
    from leakline.session.targets import select

    meta = click.get_current_context().meta
    return select(procfs, list(pids), name, user=meta.get("leakline.user"), cgroup=meta.get("leakline.cgroup"))


def _keep_format(ctx: click.Context, _param: click.Parameter, value: Form | None) -> None:
    ctx.meta[_FORMAT] = value


def output_options(function: F) -> F:
    """--json, --format, -o, -f, -n, --color, -q."""
    return _stack(
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object: schema leakline.findings/1."),
        click.option(
            "--format",
            type=click.Choice(FORMS),
            expose_value=False,
            callback=_keep_format,
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
        click.option(
            "--color",
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            show_default=True,
            help="Colours.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="Do not say on stderr what is being done."),
        filter_options,
    )(function)


def fail_on_option(function: F) -> F:
    """--fail-on."""
    return click.option(
        "--fail-on",
        type=click.Choice(["low", "medium", "high"]),
        help="Exit with 1 if there is a finding of this confidence or a higher one.",
    )(function)


def findings_exit_options(function: F) -> F:
    """--findings-exit, --fail-on: of commands that start a program."""
    return _stack(
        click.option("--findings-exit", type=click.IntRange(1, 255), help="Exit with this status if something was found."),
        click.option(
            "--fail-on",
            type=click.Choice(["low", "medium", "high"]),
            help="Exit with 1, or as --findings-exit says, if there is a finding of this confidence or a higher one.",
        ),
    )(function)


def launched_status(reports: Iterable[Report], status: int, findings_exit: int | None, fail_on: str | None) -> int:
    """The exit status of a command that has started a program: the program's own, unless another was asked for."""
    level = fail_on or (None if findings_exit is None else "low")
    return (findings_exit or 1) if fails(reports, level) else status


class WithCommand(click.Command):
    """Takes what stands behind `--` as a command to start."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take it out, for the others."""
        if "--" in args:
            at = args.index("--")
            ctx.meta["leakline.command"] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """With the command."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


@contextmanager
def closed_pipe_allowed() -> Iterator[None]:
    """Whoever reads us may have seen enough, as `head` does: that is no error, and what follows goes nowhere."""
    try:
        yield
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with suppress(BrokenPipeError):
                stream.flush()
                continue
            os.dup2(nowhere, stream.fileno())


def say_on_stderr(text: str) -> None:
    """One line for the person at the keyboard."""
    from leakline.present.text import printable

    try:
        with closed_pipe_allowed():
            sys.stderr.write(f"leakline: {printable(text)}\n")
            sys.stderr.flush()
    except OSError:  # a log on a full disk is no reason to end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def speaker(*, quiet: bool) -> Callable[[str], None]:
    """Says on stderr what is being done, or nothing."""
    return (lambda _text: None) if quiet else say_on_stderr


def as_page(path: Path | None, ctx: click.Context) -> bool:
    """Whether --format or the end of the file's name asks for HTML."""
    asked: Form | None = ctx.meta.get(_FORMAT)
    return asked == "html" or (asked is None and path is not None and path.name.lower().endswith(".html"))


class Output:
    """Where a report goes, and as what.

    Raises:
        InvalidRequest: the file exists, and --force was not given; or it cannot be written; or its name ends in what no format has.

    """

    def __init__(self, path: Path | None, *, as_json: bool, force: bool, limit: int, color: Color, quiet: bool = True) -> None:
        self._path = path
        self._limit = limit
        self._say = speaker(quiet=quiet)
        self._color: Color = color
        context = click.get_current_context(silent=True)
        asked: Form | None = None if context is None else context.meta.get(_FORMAT)
        if as_json and asked not in (None, "json"):
            raise click.UsageError(f"either --json, or --format {asked}")
        self.form: Form = asked or ("json" if as_json else "text" if path is None else form_of(path))
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

    def require_file(self) -> None:
        """Refuse stdout for anything but text: it belongs to the program that is started."""
        if self.form != "text" and self._path is None:
            option = "--json" if self.as_json else f"--format {self.form}"
            raise click.UsageError(f"{option} with -- COMMAND needs --output FILE: stdout is the program's")

    def write_bytes(self, data: bytes) -> None:
        """Write what is made already: to the file, and say so, else to stdout."""
        if self._path is None:
            with closed_pipe_allowed():
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
            return
        try:
            self._path.write_bytes(data)
        except OSError as error:
            raise InvalidRequest(f"cannot write {self._path}: {error.strerror}", hint="Choose another file.") from error
        self._say(f"the page is in {self._path}")

    def write(self, reports: Sequence[Report], stream: IO[str] | None = None, *, replace: bool = False) -> None:
        """Write the reports, without what is known: to the file, else to the stream (stdout). Then say in a line what they hold.

        Args:
            reports: all of them.
            stream: where they go without a file.
            replace: whoever reads the file meanwhile sees the report before or this one, never half of it.

        """
        reports = filtered(reports)
        where = ""
        if self._path is None:
            with closed_pipe_allowed():
                self._print(reports, stream or sys.stdout)
        else:
            try:
                self._store(self._path, self._encoded(reports), replace=replace)
            except OSError as error:
                raise InvalidRequest(f"cannot write {self._path}: {error.strerror}", hint="Choose another file.") from error
            where = f"; the report is in {self._path}"
        say_after(reports, self._say)
        if where or self.form != "text" or not (stream or sys.stdout).isatty():  # at a terminal the text itself is enough
            from leakline.present.findings import in_one_line

            self._say(f"{in_one_line(reports)}{where}")

    def _print(self, reports: Sequence[Report], stream: IO[str]) -> None:
        if self.form == "text":
            from leakline.present.findings import describe_reports
            from leakline.present.screen import write_lines

            write_lines(describe_reports(reports, self._limit), stream, self._color)
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
        write_lines(describe_reports(reports, self._limit), file, "never")
        return file.getvalue().encode()


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:  # somebody has removed it
        return Path("/")


def families(reports: Iterable[Report]) -> Iterator[Report]:
    """Reports, and those of the processes that theirs have started."""
    from leakline.present.export.samples import all_reports

    return all_reports(list(reports))


_ACCUSING = ("definite", "possible", "growing", "outstanding")


def fails(reports: Iterable[Report], level: str | None) -> bool:
    """Whether a finding is as sure as --fail-on asks, of children too. What is still reachable is no accusation."""
    from leakline.model.finding import CONFIDENCES

    if level is None:
        return False
    reports = filtered(list(reports))
    sure_enough = CONFIDENCES[CONFIDENCES.index(level) :]
    return any(f.confidence in sure_enough and f.kind in _ACCUSING for report in families(reports) for f in report.findings)
