"""Find the faces of one photo: run the passes of its plan, coarse to fine, and merge what they find."""

from __future__ import annotations

import numpy as np

from sidecar_faces.core.frames import Floats
from sidecar_faces.engine.base import Detections, Detector
from sidecar_faces.engine.passes import View, merge, suspects, to_displayed, views, wanted
from sidecar_faces.engine.pyramid import Pyramid


def search(pyramid: Pyramid, detector: Detector, detail: str, min_score: float) -> Detections:
    """Faces in displayed pixels, best first, not yet clipped. Raises as the pyramid's decoder."""
    found: list[Detections] = []
    doubtful: Floats = np.empty((0, 2))
    for view in views(pyramid.photo.displayed, detail):
        part = _look(pyramid, detector, view, doubtful)
        found.extend(part)
        doubtful = np.concatenate([np.empty((0, 2)), *(suspects(some, view) for some in part)])
    return merge(found, min_score)


def _look(pyramid: Pyramid, detector: Detector, view: View, doubtful: Floats) -> list[Detections]:
    tiles = wanted(view, doubtful)
    if not tiles:
        return []
    image = pyramid.scaled(view.letterbox.content)
    found = []
    for tile in tiles:  # one at a time, so that a photo of many tiles needs no more memory than one of few
        left, top, right, bottom = tile.box
        (part,) = detector.detect([image[top:bottom, left:right]])
        found.append(to_displayed(part, tile, view))
    return found
