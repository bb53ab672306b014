"""`show`: photos upright, with their faces drawn on them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import click
from PIL import Image

from sidecar_faces.cli.common import App, errors, place_options
from sidecar_faces.cli.draw import NAMED, OTHERS, OURS, REJECTED, Mark, draw, grid
from sidecar_faces.cli.photo import SeenPhoto, look_at
from sidecar_faces.core.merge import FaceState
from sidecar_faces.engine.decode_pillow import decode
from sidecar_faces.errors import LibraryError
from sidecar_faces.log import printable

_LONG_SIDE = 1600


@click.command()
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO...", type=click.Path(exists=True))
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="The picture to write (PNG or JPEG).")
@click.option("--rejected", is_flag=True, help="Draw faces, too, whose region somebody removed.")
@place_options
@click.pass_obj
def show(app: App, /, photos: tuple[str, ...], *, output: str | None, rejected: bool, **flags: Any) -> None:
    """Draw boxes, landmarks, names and scores on PHOTOs, upright; several photos make a grid.

    Blue boxes are ours, green ones have a name, orange ones are other regions. Without -o the picture is
    written to the folder for temporary files, and opened where there is a screen.

    \b
    sidecar-faces show ~/Photos/party.jpg
    sidecar-faces show ~/Photos/2024/*.jpg -o faces.png
    """
    settings = app.settings(**flags)
    pictures = [_picture(look_at(path, settings), rejected=rejected) for path in photos]
    target = output or os.path.join(tempfile.mkdtemp(prefix="sidecar-faces-show-"), "faces.png")
    try:
        grid(pictures).save(target)
    except (OSError, ValueError) as error:
        raise LibraryError(f"{printable(target)}: the picture cannot be written ({error}).") from error
    click.echo(printable(target))
    if output is None and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        click.launch(target)


def _picture(seen: SeenPhoto, *, rejected: bool) -> Image.Image:
    marks = list(_marks(seen, rejected=rejected))
    if not marks:
        errors.print(
            f"{printable(seen.photo.path)}: no faces are known; `sidecar-faces rescan` looks for them."
        )
    try:
        image = Image.fromarray(decode(seen.photo, long_side=_LONG_SIDE))
    except LibraryError as error:
        raise LibraryError(f"{printable(seen.photo.path)} {error}.") from error
    image.thumbnail((_LONG_SIDE, _LONG_SIDE))
    return draw(image, image.width / seen.photo.displayed.width, marks)


def _marks(seen: SeenPhoto, *, rejected: bool) -> Iterator[Mark]:
    """Regions as they stand in the sidecar, then the landmarks of each face, and what only memory knows."""
    faces = {face.id: face for face in seen.faces}
    for region in seen.description.regions:
        if region.area is None:
            continue
        face = faces.get(region.face_id) if region.face_id is not None else None
        color = OURS if region.is_ours else NAMED if region.name else OTHERS
        text = region.name or (f"{face.score:.2f}" if face else region.kind or "")
        yield Mark(seen.displayed_area(region.area), text, color)
    for face in seen.faces:
        if face.state is FaceState.REJECTED and not rejected:
            continue
        gone = face.state is FaceState.REJECTED
        layout = face.landmarks.layout if face.landmarks else ""
        points = seen.displayed_keypoints(face) if face.landmarks else None
        yield Mark(
            seen.displayed_box(face.box),
            "rejected" if gone else "",
            REJECTED if gone else OURS,
            points,
            layout,
        )
