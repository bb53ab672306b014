"""From displayed pixels, in which faces are found, to the stored frame, in which they are written."""

from __future__ import annotations

import numpy as np

from sidecar_faces.core.frames import (
    DisplayedBox,
    Floats,
    StoredBox,
    clip,
    to_stored,
    to_stored_points,
)
from sidecar_faces.core.landmarks import LAYOUTS, center, head_pose, roll
from sidecar_faces.core.types import Landmarks, Photo
from sidecar_faces.engine.base import Keypoints

_MIRRORED = frozenset({2, 4, 5, 7})
OCCLUDED, VISIBLE = 1, 2
"""COCO's v of a point that is labelled."""
_SEEN = 0.5


def weigh(score: float, odds: float) -> float:
    """A score whose odds, score to (1 - score), are multiplied; `weigh(score, 1 / odds)` undoes it."""
    return score * odds / max(1 - score + score * odds, np.finfo(np.float64).tiny)


def stored_box(photo: Photo, box: Floats) -> StoredBox | None:
    """A box x1, y1, x2, y2 in displayed pixels as a stored one, clipped; None where it is outside."""
    x1, y1, x2, y2 = (float(value) for value in box)
    displayed = DisplayedBox(x1, y1, x2 - x1, y2 - y1)
    return clip(to_stored(displayed, photo.stored, photo.orientation), photo.stored)


def landmarks(photo: Photo, layout: str, found: Keypoints) -> Landmarks:
    """Keypoints in displayed pixels as they are written.

    Stored pixels, not clipped: a chin may lie below the photo's edge. In a mirrored photo the face stands
    upright in the stored frame when its *other* eye is at the left, so the roll is turned by 180 degrees.
    """
    kind = LAYOUTS[layout]
    stored = to_stored_points(found.points, photo.stored, photo.orientation)
    places = [(float(x), float(y)) for x, y in stored]
    rotation = roll(kind, places)
    if photo.orientation in _MIRRORED:
        rotation = rotation - 180.0 if rotation > 0 else rotation + 180.0
    scores = np.clip(found.confidences, 0.0, 1.0)
    keypoints = tuple((x, y, float(score)) for (x, y), score in zip(places, scores, strict=True))
    visibility = tuple(VISIBLE if p >= _SEEN else OCCLUDED for p in found.visible)
    pose = head_pose(kind, [(float(x), float(y)) for x, y in found.points])
    return Landmarks(layout, keypoints, visibility, rotation, center(kind, places), pose)
