"""`inspect`: what stands about a photo, and whose it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from sidecar_faces.cli.common import App, emit, json_option, place_options, print_table
from sidecar_faces.cli.photo import SeenPhoto, look_at
from sidecar_faces.core.frames import Area, DisplayedBox, StoredBox
from sidecar_faces.log import printable
from sidecar_faces.sidecar.landmark_file import KnownFace
from sidecar_faces.sidecar.read import SeenRegion


@click.command()
@click.argument("photo", type=click.Path(exists=True))
@place_options
@json_option
@click.pass_obj
def inspect(app: App, /, photo: str, *, as_json: bool, **flags: Any) -> None:
    """Print every region of the sidecar and every face of the landmark file of a PHOTO.

    `ours` are anonymous regions that we wrote; all others are a person's (or another program's) and are
    never changed. Boxes are x, y, width, height in pixels of the upright photo.

    \b
    sidecar-faces inspect ~/Photos/party.jpg
    sidecar-faces inspect --json ~/Photos/party.jpg
    """
    seen = look_at(photo, app.settings(**flags))
    return emit(_as_json(seen)) if as_json else _print(seen)


def _print(seen: SeenPhoto) -> None:
    photo, about = seen.photo, seen.description
    size = f"{photo.stored.width}x{photo.stored.height}"
    click.echo(f"photo: {printable(photo.path)} ({size} stored, orientation {photo.orientation})")
    click.echo(f"sidecar: {_path(about.sidecar) or 'none'}")
    click.echo(f"landmark file: {_path(about.landmark_file) or 'none'}")
    rows = [*_region_rows(seen), *_face_rows(seen)]
    if rows:
        columns = (
            "where",
            "face",
            "whose",
            "state",
            "name",
            "box (upright)",
            "score",
            "landmarks",
            "rotation",
        )
        print_table(columns, rows)


def _region_rows(seen: SeenPhoto) -> Iterator[tuple[object, ...]]:
    for region in seen.description.regions:
        kind = region.schema if region.kind in (None, "Face") else f"{region.schema} {region.kind}"
        box = _rounded(seen.displayed_area(region.area)) if region.area else "unreadable"
        face = "-" if region.face_id is None else region.face_id
        yield f"sidecar ({kind})", face, _owner(region), "-", region.name or "-", box, "-", "-", "-"


def _face_rows(seen: SeenPhoto) -> Iterator[tuple[object, ...]]:
    for face in seen.faces:
        marks, box = face.landmarks, _rounded(seen.displayed_box(face.box))
        landmarks = (marks.layout, f"{marks.rotation:.1f}") if marks else ("-", "-")
        yield "landmark file", face.id, "ours", face.state.value, "-", box, f"{face.score:.2f}", *landmarks


def _rounded(box: DisplayedBox) -> str:
    return " ".join(f"{value:.0f}" for value in _numbers(box))


def _as_json(seen: SeenPhoto) -> dict[str, Any]:
    photo, about = seen.photo, seen.description
    return {
        "photo": printable(photo.path),
        "width": photo.stored.width,
        "height": photo.stored.height,
        "orientation": photo.orientation,
        "sidecar": _path(about.sidecar),
        "landmark_file": _path(about.landmark_file),
        "models": about.landmarks.models if about.landmarks else None,
        "regions": [_region_json(seen, region) for region in about.regions],
        "faces": [_face_json(seen, face) for face in seen.faces],
    }


def _region_json(seen: SeenPhoto, region: SeenRegion) -> dict[str, Any]:
    area = region.area
    return {
        "owner": _owner(region),
        "schema": region.schema,
        "name": region.name,
        "type": region.kind,
        "area": _numbers(area) if area else None,
        "displayed_bbox": _numbers(seen.displayed_area(area)) if area else None,
        "face_id": region.face_id,
    }


def _face_json(seen: SeenPhoto, face: KnownFace) -> dict[str, Any]:
    marks = face.landmarks
    return {
        "id": face.id,
        "state": face.state.value,
        "score": face.score,
        "bbox": _numbers(face.box),
        "displayed_bbox": _numbers(seen.displayed_box(face.box)),
        "region": _numbers(face.region),
        "layout": marks.layout if marks else None,
        "rotation": marks.rotation if marks else None,
        "center": marks.center if marks else None,
        "keypoints": marks.keypoints if marks else [],
        "visibility": marks.visibility if marks else [],
    }


def _owner(region: SeenRegion) -> str:
    return "ours" if region.is_ours else "person"


def _numbers(box: StoredBox | DisplayedBox | Area) -> list[float]:
    return [round(value, 8) for value in (box.x, box.y, box.w, box.h)]


def _path(path: str | None) -> str | None:
    return None if path is None else printable(path)
