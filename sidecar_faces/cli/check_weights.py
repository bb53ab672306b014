"""`models check`: whether a file from NVIDIA can be installed."""

from __future__ import annotations

import click

from sidecar_faces.cli.common import emit, json_option
from sidecar_faces.engine.weights import identify


@click.command("check")
@click.argument("file", metavar="FILE.onnx", type=click.Path(exists=True, dir_okay=False))
@json_option
def check(file: str, *, as_json: bool) -> None:
    """Say whether FILE.onnx has the interface of NVIDIA's FaceDetect or FPENet; exit code 5 where of neither.

    \b
    sidecar-faces models check facedetect.onnx
    """
    name = identify(file)
    if as_json:
        return emit({"file": file, "network": name})
    click.echo(f"{file}: has the interface of {name}.")
    return None
