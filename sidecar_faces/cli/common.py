"""What the commands share: settings, libraries, tables and JSON on stdout."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from sidecar_faces.config import Settings, load
from sidecar_faces.errors import LibraryError
from sidecar_faces.library.lock import hold
from sidecar_faces.library.scan import DEFAULT_EXCLUDES
from sidecar_faces.log import printable
from sidecar_faces.store import Store

F = TypeVar("F", bound=Callable[..., Any])

_WIDE = 10_000
"""Columns of a table that no terminal shows: nothing wraps."""

errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
"""Progress and messages."""


@dataclass(frozen=True, slots=True)
class App:
    """What `main` hands to the commands."""

    config_file: Path | None

    def settings(self, **flags: Any) -> Settings:
        """Settings in force with the flags of a command on top."""
        return load(flags, self.config_file)


paths_argument = click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(exists=True)
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")


def place_options(command: F) -> F:
    """Where sidecars and landmark files lie: the same for every command that looks for them."""
    for option in (
        click.option(
            "--landmarks",
            metavar="beside|DIR|off",
            help="Landmark files beside the photos, in a folder that mirrors the library, or not at all.",
        ),
        click.option(
            "--sidecar-dir",
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder for the sidecars of a read-only library; mirrors its tree.",
        ),
    ):
        command = option(command)
    return command


def emit(data: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout; long values wrap on a terminal and are kept whole in a pipe."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _WIDE
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


def excludes(settings: Settings) -> tuple[str, ...]:
    """Globs to leave out."""
    return (*(DEFAULT_EXCLUDES if settings.default_excludes else ()), *settings.exclude)


def outermost(paths: Iterable[str]) -> list[str]:
    """Absolute paths without those that lie below another."""
    result: list[str] = []
    for path in sorted(os.path.abspath(p) for p in paths):
        if not result or not (path == result[-1] or path.startswith(os.path.join(result[-1], ""))):
            result.append(path)
    return result


def library_of(path: str, store: Store) -> str:
    """The library that a path belongs to: one that was indexed, else the folder itself."""
    for root in store.libraries():
        if path == root or path.startswith(os.path.join(root, "")):
            return root
    return path if os.path.isdir(path) else os.path.dirname(path)


def require_photo(path: str) -> str:
    """The absolute path of one photo. Raises LibraryError for a folder."""
    if os.path.isdir(path):
        raise LibraryError(f"{printable(path)}: is a folder; name one photo.")
    return os.path.abspath(path)


def hold_libraries(
    stack: ExitStack, paths: Iterable[str], store: Store, settings: Settings, command: str
) -> list[tuple[str, str]]:
    """Hold the libraries of PATHs until the stack ends; (path, its library) for each. Raises LockedError."""
    targets = [(path, library_of(path, store)) for path in outermost(paths)]
    for root in outermost(root for _, root in targets):
        stack.enter_context(hold(root, settings.lock_dir, f"sidecar-faces {command}"))
    return targets
