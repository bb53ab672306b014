"""Find the faces of a batch of photos: `search` for many at once, so that tiles of one shape go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sidecar_faces.core.frames import Floats
from sidecar_faces.engine.base import Detections, Detector
from sidecar_faces.engine.passes import Tile, View, merge, suspects, to_displayed, views, wanted
from sidecar_faces.engine.pyramid import Pyramid

_TOGETHER = 8
"""Tiles held at once."""


@dataclass(frozen=True, slots=True)
class _Look:
    index: int
    view: View
    tile: Tile


def search_batch(
    pyramids: Sequence[Pyramid], detector: Detector, detail: str, min_score: float
) -> list[Detections]:
    """Per photo the same as `search` finds. Raises as the pyramids' decoder and the detector."""
    plans = [views(pyramid.photo.displayed, detail) for pyramid in pyramids]
    found: list[list[Detections]] = [[] for _ in pyramids]
    doubtful: list[Floats] = [np.empty((0, 2)) for _ in pyramids]
    for step in range(max(map(len, plans), default=0)):
        steps = [(index, plan[step]) for index, plan in enumerate(plans) if step < len(plan)]
        looks = [_Look(i, view, tile) for i, view in steps for tile in wanted(view, doubtful[i])]
        doubtful = [np.empty((0, 2)) for _ in pyramids]
        for start in range(0, len(looks), _TOGETHER):
            chunk = looks[start : start + _TOGETHER]
            for look, part in zip(chunk, detector.detect(_images(pyramids, chunk)), strict=True):
                placed = to_displayed(part, look.tile, look.view)
                found[look.index].append(placed)
                doubtful[look.index] = np.concatenate([doubtful[look.index], suspects(placed, look.view)])
    return [merge(parts, min_score) for parts in found]


def _images(pyramids: Sequence[Pyramid], looks: Sequence[_Look]) -> list[np.ndarray]:
    images = []
    for look in looks:
        left, top, right, bottom = look.tile.box
        images.append(pyramids[look.index].scaled(look.view.letterbox.content)[top:bottom, left:right])
    return images
