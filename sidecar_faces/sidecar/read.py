"""What stands about one photo: the regions of its sidecar, whose they are, and its landmark file."""

from __future__ import annotations

import os
from dataclasses import dataclass

from sidecar_faces.core.frames import Area
from sidecar_faces.core.merge import recognise
from sidecar_faces.core.regions import Region
from sidecar_faces.errors import SidecarError
from sidecar_faces.log import printable
from sidecar_faces.sidecar.commit import Folder, Snapshot
from sidecar_faces.sidecar.document import Document
from sidecar_faces.sidecar.landmark_file import LandmarkFile, load
from sidecar_faces.sidecar.layout import Place, SidecarLayout


@dataclass(frozen=True, slots=True)
class SeenRegion:
    """A region of a sidecar.

    `area`: normalized, stored frame; None where its numbers cannot be read. `schema`: "mwg" or "mp".
    `face_id`: the face of the landmark file that it was written for; None where it is a person's.
    """

    area: Area | None
    name: str | None
    kind: str | None
    schema: str
    face_id: int | None

    @property
    def is_ours(self) -> bool:
        return self.face_id is not None


@dataclass(frozen=True, slots=True)
class Description:
    """Paths are those of files that exist, else None; `landmarks` holds the faces (`landmarks.faces`)."""

    sidecar: str | None
    landmark_file: str | None
    regions: tuple[SeenRegion, ...]
    landmarks: LandmarkFile | None


def describe(photo: str, layout: SidecarLayout) -> Description:
    """Read what stands about a photo (absolute path); writes nothing. Raises SidecarError naming the file."""
    place, marks = layout.sidecar(photo), layout.landmark_file(photo)
    landmarks = read_landmarks(marks)[1]
    snapshot = read_place(place)
    regions: tuple[SeenRegion, ...] = ()
    if snapshot is not None:
        regions = tuple(_seen(read_document(place.path, snapshot.data).regions, landmarks))
    return Description(
        sidecar=place.path if snapshot is not None else None,
        landmark_file=marks.path if landmarks else None,
        regions=regions,
        landmarks=landmarks,
    )


def _seen(regions: tuple[Region, ...], landmarks: LandmarkFile | None) -> list[SeenRegion]:
    known = landmarks.known() if landmarks else ()
    ours = recognise(regions, known)
    return [
        SeenRegion(r.area, r.name, r.kind, r.schema, known[ours[r.index]].id if r.index in ours else None)
        for r in regions
    ]


def read_place(place: Place) -> Snapshot | None:
    """The file at a place; None where it, or its folder, does not exist. Raises SidecarError."""
    folder, name = os.path.split(place.path)
    try:
        with Folder(folder, place.within) as opened:
            return opened.read(name)
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_landmarks(place: Place) -> tuple[Snapshot | None, LandmarkFile | None]:
    """The landmark file, raw and read. Raises SidecarError naming it where it is not one of ours."""
    snapshot = read_place(place)
    if snapshot is None:
        return None, None
    try:
        return snapshot, load(snapshot.data)
    except SidecarError as error:
        raise _left(place.path, error) from error


def read_document(path: str, data: bytes) -> Document:
    """A sidecar's content. Raises SidecarError naming it where it does not parse strictly."""
    try:
        return Document.read(data)
    except SidecarError as error:
        raise _left(path, error) from error


def _left(path: str, error: SidecarError) -> SidecarError:
    return SidecarError(f"{printable(path)}: {error}; it was left as it is.")
