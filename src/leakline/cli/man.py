"""`leakline man`."""

from __future__ import annotations

import click


@click.command("man")
@click.argument("name", required=False, metavar="[COMMAND]")
def command(name: str | None) -> int:
    """Print the manual page of a command, or of leakline itself: `leakline man diagnose | man -l -`."""
    from click_man.core import generate_man_page

    from leakline import __version__
    from leakline.cli.main import COMMANDS, cli

    if name is not None and name not in COMMANDS:
        raise click.UsageError(f"there is no command {name}")
    top = click.Context(cli, info_name="leakline")
    context = top
    if name is not None:
        found = cli.get_command(top, name)
        assert found is not None  # it is in COMMANDS  # noqa: S101
        context = click.Context(found, info_name=name, parent=top)
    click.echo(generate_man_page(context, __version__))
    return 0
