"""`leakline export`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leakline.cli.options import speaker
from leakline.errors import InvalidRequest, NotPossible

if TYPE_CHECKING:
    from collections.abc import Sequence

_LABEL = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)=(.*)", re.DOTALL)
_TAKEN = frozenset({"host", "kind", "service", "pid", "epoch", "time", "bytes", "limit_bytes", "filename"})


@click.command("export")
@click.argument("recording", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--parquet", "output", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="FILE", help="Where to."
)
@click.option("--host", metavar="NAME", help="The host's name; else what the recording says.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="One more label of all series: version=1.4.")
@click.option("-f", "--force", is_flag=True, help="Replace a file that is there.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
def command(recording: Path, output: Path, host: str | None, labels: tuple[str, ...], force: bool, quiet: bool) -> int:
    """Write a recording as Parquet: a row for each sample, for `leakline fleet --parquet`, DuckDB, pandas and others.

    Processes are named by their command, the kernel's counters and control groups by their own names; times are seconds since 1970.
    """
    try:
        from leakline.session.exporting import export_parquet
    except ModuleNotFoundError as error:
        raise NotPossible(f"to write Parquet takes {error.name}", hint="pip install 'leakline[fleet]' brings it.") from error
    from leakline.present.text import counted

    if output.exists() and not force:
        raise InvalidRequest(f"{output} exists", hint="Choose another file, or replace it with --force.")
    series, rows = export_parquet(recording, output, host, _named(labels))
    speaker(quiet=quiet)(f"{output}: {series:,} series, {counted(rows, 'sample')}")
    return 0


def _named(labels: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in labels:
        match = _LABEL.fullmatch(text)
        if match is None or match[1] in _TAKEN:
            raise click.BadParameter(f"{text!r} is no label: version=1.4", param_hint="--label")
        found[match[1]] = match[2]
    return found
