"""`leakline snapshot`."""

from __future__ import annotations

from pathlib import Path

import click

from leakline.cli.options import speaker


@click.command("snapshot")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The archive: .tar, .tar.gz or .tar.xz."
)
@click.option("-f", "--force", is_flag=True, help="Let --output replace a file.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
def command(output: Path, force: bool, quiet: bool) -> int:
    """Keep this machine's /proc and /sys files in an archive, for --root on another machine.

    It holds the command lines of all processes and the paths of their files: read it before you give it away.
    """
    from leakline.errors import InvalidRequest
    from leakline.session.capturing import write_snapshot

    if output.exists() and not force:
        raise InvalidRequest(f"{output} exists", hint="Choose another file, or replace it with --force.")
    count, unreadable = write_snapshot(output)
    say = speaker(quiet=quiet)
    say(f"{count:,} files in {output}")
    if unreadable:
        say(f"{unreadable:,} files could not be read: run as root to have them too")
    return 0
