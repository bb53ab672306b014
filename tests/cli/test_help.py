"""Every command has help with an example, is documented, and exits as documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sidecar_faces.cli import main
from sidecar_faces.errors import ExitCode

DOCS = Path(__file__).resolve().parents[2] / "docs"


def commands(group: click.Group = main, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name)


ALL = list(commands())


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_shows_an_example_and_every_option_is_explained(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0
    assert re.search(rf"^  sidecar-faces .*{' '.join(words)}", result.output, re.MULTILINE)
    command: click.Command = main
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert all(p.help for p in command.params if isinstance(p, click.Option))


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_and_option_is_in_the_docs(words: tuple[str, ...]) -> None:
    text = (DOCS / "commands.md").read_text()
    assert f"`{' '.join(words)}" in text


def test_every_exit_code_is_in_the_docs() -> None:
    text = (DOCS / "exit-codes.md").read_text()
    for code in ExitCode:
        assert f"| {int(code)} |" in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_SIDECAR_FACES_COMPLETE" in result.output


def test_completion_offers_the_commands() -> None:
    environment = {
        "_SIDECAR_FACES_COMPLETE": "bash_complete",
        "COMP_WORDS": "sidecar-faces re",
        "COMP_CWORD": "1",
    }
    result = CliRunner().invoke(main, env=environment, prog_name="sidecar-faces")
    assert "plain,rescan" in result.output
