"""From displayed pixels, in which faces are found, to the stored frame, in which they are written."""

from __future__ import annotations

import numpy as np

from sidecar_faces.core.frames import (
    DisplayedBox,
    DisplayedPoints,
    Floats,
    StoredBox,
    clip,
    to_stored,
    to_stored_points,
)
from sidecar_faces.core.landmarks import LAYOUTS, center, roll
from sidecar_faces.core.types import Landmarks, Photo

_MIRRORED = frozenset({2, 4, 5, 7})


def stored_box(photo: Photo, box: Floats) -> StoredBox | None:
    """A box x1, y1, x2, y2 in displayed pixels as a stored one, clipped; None where it is outside."""
    x1, y1, x2, y2 = (float(value) for value in box)
    displayed = DisplayedBox(x1, y1, x2 - x1, y2 - y1)
    return clip(to_stored(displayed, photo.stored, photo.orientation), photo.stored)


def landmarks(photo: Photo, layout: str, points: DisplayedPoints, confidences: Floats) -> Landmarks:
    """Keypoints (k, 2) in displayed pixels, with confidences (k,), as they are written.

    Stored pixels, not clipped: a chin may lie below the photo's edge. In a mirrored photo the face stands
    upright in the stored frame when its *other* eye is at the left, so the roll is turned by 180 degrees.
    """
    kind = LAYOUTS[layout]
    stored = to_stored_points(points, photo.stored, photo.orientation)
    places = [(float(x), float(y)) for x, y in stored]
    rotation = roll(kind, places)
    if photo.orientation in _MIRRORED:
        rotation = rotation - 180.0 if rotation > 0 else rotation + 180.0
    scores = np.clip(confidences, 0.0, 1.0)
    keypoints = tuple((x, y, float(score)) for (x, y), score in zip(places, scores, strict=True))
    return Landmarks(layout, keypoints, (), rotation, center(kind, places))
