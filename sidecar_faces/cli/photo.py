"""One photo with all that stands about it: what `show` and `inspect` look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sidecar_faces.cli.common import library_of, require_photo
from sidecar_faces.cli.wiring import layout_for
from sidecar_faces.config import Settings
from sidecar_faces.core.frames import (
    Area,
    DisplayedBox,
    Floats,
    StoredBox,
    StoredPoints,
    from_area,
    to_displayed,
    to_displayed_points,
)
from sidecar_faces.core.types import Photo
from sidecar_faces.errors import LibraryError
from sidecar_faces.library.probe import Limits, probe
from sidecar_faces.log import printable
from sidecar_faces.sidecar.landmark_file import KnownFace
from sidecar_faces.sidecar.read import Description, describe
from sidecar_faces.store import Store


@dataclass(frozen=True, slots=True)
class SeenPhoto:
    """A photo and its `description`."""

    photo: Photo
    description: Description

    def displayed_area(self, area: Area) -> DisplayedBox:
        """An area of a sidecar in displayed pixels."""
        return self.displayed_box(from_area(area, self.photo.stored))

    def displayed_box(self, box: StoredBox) -> DisplayedBox:
        """A box of the landmark file in displayed pixels."""
        return to_displayed(box, self.photo.stored, self.photo.orientation)

    def displayed_keypoints(self, face: KnownFace) -> Floats:
        """(n, 2) keypoints in displayed pixels; n is 0 where the face has no landmarks."""
        points = [point[:2] for point in face.landmarks.keypoints] if face.landmarks else []
        stored = StoredPoints(np.array(points, dtype=np.float64).reshape(-1, 2))
        return to_displayed_points(stored, self.photo.stored, self.photo.orientation)

    @property
    def faces(self) -> tuple[KnownFace, ...]:
        return self.description.landmarks.faces if self.description.landmarks else ()


def look_at(path: str, settings: Settings) -> SeenPhoto:
    """Read a photo's header, its sidecar and its landmark file. Raises LibraryError, SidecarError."""
    path = require_photo(path)
    with Store(settings.database) as store:
        root = library_of(path, store)
    try:
        photo = probe(path, Limits())
    except LibraryError as error:
        raise LibraryError(f"{printable(path)} {error}.") from error
    return SeenPhoto(photo, describe(path, layout_for(settings, root)))
