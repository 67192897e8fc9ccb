"""`leakline diff`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leakline.cli.options import closed_pipe_allowed, speaker

if TYPE_CHECKING:
    from leakline.present.screen import Color

_FILE = click.Path(dir_okay=False, path_type=Path, allow_dash=True)


@click.command("diff")
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
@click.option("--exit-code", is_flag=True, help="Exit with 1 if something is new, grown, shrunk or gone.")
@click.option("--all", "everything", is_flag=True, help="Show what has stayed the same too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: schema leakline.diff/1.")
@click.option("-n", "--limit", type=click.IntRange(1), default=10, show_default=True, help="Changes of each sort in the text.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colours.")
@click.option("-q", "--quiet", is_flag=True, help="Do not say on stderr what is being done.")
@click.option(
    "--suppressions",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="Leave out what a file's rules mean: valgrind's, LeakSanitizer's, or fingerprints; may be repeated.",
)
def command(
    before: Path,
    after: Path,
    exit_code: bool,
    everything: bool,
    as_json: bool,
    limit: int,
    color: Color,
    quiet: bool,
    suppressions: tuple[Path, ...],
) -> int:
    """Compare two files of findings: what is new, what grew or shrank, what is gone.

    Files are what `report` reads: findings (--json), valgrind's text and XML, sanitizers' logs, kmemleak's text. The same leak
    has the same fingerprint in all of them, whatever the build and its lines.
    """
    from leakline.analysis.finding_diff import compare
    from leakline.model.names import readable
    from leakline.present.diff import describe_diff
    from leakline.present.json import to_json
    from leakline.present.screen import write_lines
    from leakline.session.filtering import Filters
    from leakline.session.reading_reports import read_reports

    if str(before) == str(after) == "-":
        raise click.UsageError("only one of the two can be stdin")
    filters = Filters(suppressions)
    was, now = (filters.apply(read_reports([path], speaker(quiet=quiet))) for path in (before, after))
    found = compare(was, now, (readable(str(before)), readable(str(after))))
    with closed_pipe_allowed():
        if as_json:
            sys.stdout.write(to_json(found))
        else:
            write_lines(describe_diff(found, limit, everything=everything), sys.stdout, color)
        sys.stdout.flush()
    return int(exit_code and found.differs)
