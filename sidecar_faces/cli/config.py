"""`config`: show and check the settings."""

from __future__ import annotations

import click

from sidecar_faces.cli.common import App, emit, json_option, print_table
from sidecar_faces.config import Settings, config_file


@click.group()
def config() -> None:
    """Show or check the settings."""


@config.command()
@json_option
@click.pass_obj
def show(app: App, *, as_json: bool) -> None:
    """Print every setting in force, with what it means.

    \b
    sidecar-faces config show
    SIDECAR_FACES_DETAIL=fine sidecar-faces config show --json
    """
    settings = app.settings()
    values = settings.model_dump(mode="json")
    if as_json:
        return emit(values)
    click.echo(f"# file: {config_file(app.config_file) or 'none'}")
    fields = Settings.model_fields
    print_table(
        ("setting", "value", "meaning"), ((k, _toml(v), fields[k].description) for k, v in values.items())
    )
    return None


def _toml(value: object) -> object:
    return "(unset)" if value is None else value


@config.command()
@click.pass_obj
def validate(app: App) -> None:
    """Check the settings; exit code 3 and a line per bad key where they are wrong.

    \b
    sidecar-faces --config ./sidecar-faces.toml config validate
    """
    app.settings()
    click.echo(f"The settings are valid (file: {config_file(app.config_file) or 'none'}).")
