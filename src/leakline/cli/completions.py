"""`leakline completions`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completions")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print the completion script for a shell.

    \b
    bash: leakline completions bash > ~/.local/share/bash-completion/completions/leakline
    zsh:  leakline completions zsh > "${fpath[1]}/_leakline"
    fish: leakline completions fish > ~/.config/fish/completions/leakline.fish
    """  # noqa: D301  click takes a backspace for "do not wrap this paragraph"
    from leakline.cli.main import cli

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completions for {shell}")
    click.echo(found(cli, {}, "leakline", "_LEAKLINE_COMPLETE").source())
    return 0
