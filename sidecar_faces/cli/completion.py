"""`completion`: the shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    sidecar-faces completion bash >> ~/.bashrc
    sidecar-faces completion zsh >> ~/.zshrc
    sidecar-faces completion fish > ~/.config/fish/completions/sidecar-faces.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - the three shells that click knows
    click.echo(kind(ctx.find_root().command, {}, "sidecar-faces", "_SIDECAR_FACES_COMPLETE").source())
