"""Options that leave known findings out, of all commands that print findings: suppressions and a baseline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from leakline.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leakline.model.finding import Report
    from leakline.session.filtering import Filters

F = TypeVar("F", bound="Callable[..., Any]")
_KEY = "leakline.filters"
_FILE = click.Path(dir_okay=False, path_type=Path)
FILTERS = ("suppressions", "gen_suppressions", "baseline", "verbose")


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:  # noqa: ANN401
    ctx.meta[f"{_KEY}.{param.name}"] = value


def filter_options(function: F) -> F:
    """--suppressions, --gen-suppressions, --baseline, -v: kept in the context, where `active_filters` finds them."""
    options = (
        click.option(
            "--suppressions",
            type=_FILE,
            multiple=True,
            expose_value=False,
            callback=_keep,
            help="Leave out what a file's rules mean: valgrind's, LeakSanitizer's, or fingerprints; may be repeated.",
        ),
        click.option(
            "--gen-suppressions",
            type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
            expose_value=False,
            callback=_keep,
            help="Write rules for what was found: by fingerprint; in valgrind's form to FILE.supp; - is stdout.",
        ),
        click.option(
            "--baseline", type=_FILE, expose_value=False, callback=_keep, help="Show only what an earlier report does not have."
        ),
        click.option(
            "-v", "--verbose", is_flag=True, expose_value=False, callback=_keep, help="Say which suppressions were of no use."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _asked(ctx: click.Context, name: str) -> Any:  # noqa: ANN401
    return ctx.meta.get(f"{_KEY}.{name}")


def active_filters() -> Filters | None:
    """The filters that this command line asks for; their files are read at the first call.

    Raises:
        InvalidRequest: a file cannot be read.
        ParseError: it is not what it should be.

    """
    ctx = click.get_current_context(silent=True)
    if ctx is None or not (_asked(ctx, "suppressions") or _asked(ctx, "baseline")):
        return None
    if _KEY not in ctx.meta:
        from leakline.session.filtering import Filters

        ctx.meta[_KEY] = Filters(_asked(ctx, "suppressions"), _asked(ctx, "baseline"))
    filters: Filters = ctx.meta[_KEY]
    return filters


def filtered(reports: Sequence[Report]) -> Sequence[Report]:
    """The reports as the user wants to see them."""
    filters = active_filters()
    return reports if filters is None else filters.apply(reports)


def check_generated(*, force: bool, stdout_is_taken: bool) -> None:
    """Refuse early what could not be written in the end.

    Raises:
        InvalidRequest: the file exists, and --force was not given.

    """
    ctx = click.get_current_context(silent=True)
    path = None if ctx is None else _asked(ctx, "gen_suppressions")
    if path is None:
        return
    if str(path) == "-":
        if stdout_is_taken:
            raise click.UsageError("--gen-suppressions - writes to stdout, which is taken: give a file")
    elif path.exists() and not force:
        raise InvalidRequest(f"{path} exists", hint="Choose another file, or replace it with --force.")


def say_after(shown: Sequence[Report], say: Callable[[str], None]) -> None:
    """Write the suppressions that were asked for, and say with -v which rules were of no use.

    Raises:
        InvalidRequest: the file cannot be written.

    """
    ctx = click.get_current_context(silent=True)
    if ctx is None:
        return
    filters: Filters | None = ctx.meta.get(_KEY)
    if filters is not None and _asked(ctx, "verbose"):
        for rule in filters.unused:
            say(f"of no use: the suppression {rule.name} ({rule.source})")
    path: Path | None = _asked(ctx, "gen_suppressions")
    if path is None:
        return
    from leakline.present.export.samples import all_reports
    from leakline.present.suppressions import suppressions_for

    found = [finding for report in all_reports(shown) for finding in report.findings if finding.kind != "reachable"]
    text = suppressions_for(found, valgrind=path.suffix == ".supp")
    if str(path) == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"cannot write {path}: {error.strerror}", hint="Choose another file.") from error
