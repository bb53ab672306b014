"""The command line; one file per command, the only place that wires the rooms together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sidecar_faces import __version__
from sidecar_faces.cli.check_weights import check
from sidecar_faces.cli.common import App
from sidecar_faces.cli.completion import completion
from sidecar_faces.cli.config import config
from sidecar_faces.cli.doctor import doctor
from sidecar_faces.cli.export import export
from sidecar_faces.cli.inspect import inspect
from sidecar_faces.cli.models import models
from sidecar_faces.cli.rescan import rescan
from sidecar_faces.cli.serve import serve
from sidecar_faces.cli.service import install_service
from sidecar_faces.cli.show import show
from sidecar_faces.cli.status import retry, status
from sidecar_faces.cli.undo import undo
from sidecar_faces.cli.watch import watch
from sidecar_faces.errors import ExitCode, SidecarFacesError
from sidecar_faces.log import configure


class _Group(click.Group):
    """Turns our errors into one line and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SidecarFacesError as error:
            click.echo(f"sidecar-faces: {error}", err=True)
            ctx.exit(int(error.exit_code))
        except (KeyboardInterrupt, click.exceptions.Abort):
            ctx.exit(int(ExitCode.INTERRUPTED))


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sidecar-faces")
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="TOML file with settings; the default is ~/.config/sidecar-faces/config.toml, then the one in /etc.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
@click.option("--log-json", is_flag=True, help="Log lines on stderr as JSON objects.")
@click.pass_context
def main(ctx: click.Context, *, config_file: Path | None, verbose: bool, log_json: bool) -> None:
    """Find the faces in a photo library and write them to XMP sidecars.

    \b
    sidecar-faces rescan ~/Photos          index a library (again)
    sidecar-faces watch ~/Photos           keep it indexed
    sidecar-faces show photo.jpg           see what was found
    sidecar-faces undo ~/Photos            take all of it back

    Settings come from flags, then the environment (SIDECAR_FACES_*), then the TOML file. Exit codes:
    0 all well, 1 some photos or folders had problems, 2 wrong usage, 3 configuration, 4 exiftool,
    5 models, 6 library locked, 7 library, 8 sidecar, 9 disk full, 10 no Triton server, 130 interrupted.
    """
    configure(verbose=verbose, json=log_json)
    ctx.obj = App(config_file)


models.add_command(check)
for command in (
    rescan,
    watch,
    install_service,
    show,
    inspect,
    status,
    retry,
    undo,
    doctor,
    config,
    models,
    export,
    serve,
    completion,
):
    main.add_command(command)
