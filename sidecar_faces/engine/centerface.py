"""CenterFace: faces as points of a heat map, with size, offset and five landmarks.

Source: Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point" (2019), and the
authors' decoder (Star-Clouds/CenterFace, MIT). The network sees RGB of 0..255 and answers at a quarter of
the size; each axis must be a multiple of 32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidecar_faces.core.frames import Floats
from sidecar_faces.engine.base import Detections, Image, ModelSpec, TensorSpec
from sidecar_faces.engine.passes import SAME_FACE, suppress

STRIDE = 4
MULTIPLE = 32
POINTS = 5
_MAX_CANDIDATES = 2000
_MAX_LOG_SIZE = 7.0  # e^7 * 4 = 4386 pixels: no face of any pass is larger

SPEC = ModelSpec(
    "centerface",
    (TensorSpec("input.1", "float32", (-1, 3, -1, -1)),),
    (
        TensorSpec("537", "float32", (-1, 1, -1, -1)),
        TensorSpec("538", "float32", (-1, 2, -1, -1)),
        TensorSpec("539", "float32", (-1, 2, -1, -1)),
        TensorSpec("540", "float32", (-1, 2 * POINTS, -1, -1)),
    ),
)

Run = Callable[[NDArray[np.generic]], list[NDArray[Any]]]
"""The network: (n, 3, h, w) in, the four outputs of the spec out."""


class CenterFace:
    """A `Detector`. `min_score`: from which a candidate is reported, 0..1."""

    def __init__(self, run: Run, fingerprint: str, min_score: float) -> None:
        self._run = run
        self.fingerprint = fingerprint
        self._min_score = min_score

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """Detections for each image; one inference per image, as batches are slower on a CPU (caches)."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Image) -> Detections:
        heat, scale, offset, points = self._run(tensor(image))
        return decode(heat[0, 0], scale[0], offset[0], points[0], self._min_score)


def tensor(image: Image) -> NDArray[np.float32]:
    """(1, 3, h, w), padded by zeros at the right and below to the next multiple of 32."""
    height, width = image.shape[:2]
    padded = np.zeros((1, 3, _round_up(height), _round_up(width)), dtype=np.float32)
    for channel in range(3):
        padded[0, channel, :height, :width] = image[:, :, channel]
    return padded


def _round_up(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE


def decode(heat: Floats, scale: Floats, offset: Floats, points: Floats, min_score: float) -> Detections:
    """The network's outputs as detections in its input's pixels, after non-maximum suppression.

    heat (h, w); scale (2, h, w): log of height and width in cells; offset (2, h, w): y, x within the cell;
    points (10, h, w): y, x pairs relative to the box's top left, in box heights and widths.
    """
    rows, columns = np.nonzero(heat >= min_score)
    if rows.size > _MAX_CANDIDATES:
        best = np.argsort(-heat[rows, columns], kind="stable")[:_MAX_CANDIDATES]
        rows, columns = rows[best], columns[best]
    cells = (slice(None), rows, columns)
    sides = np.exp(np.minimum(scale[cells], _MAX_LOG_SIZE)) * STRIDE
    centers = (np.stack([rows, columns]) + offset[cells] + 0.5) * STRIDE
    corners = centers - sides / 2
    boxes = np.concatenate([corners[::-1], (corners + sides)[::-1]]).T.astype(np.float64)
    pairs = points[cells].T.reshape(-1, POINTS, 2)
    placed = (pairs * sides.T[:, None] + corners.T[:, None])[:, :, ::-1].astype(np.float64)
    scores = heat[rows, columns].astype(np.float64)
    keep = suppress(boxes, scores, SAME_FACE)
    return Detections(boxes[keep], scores[keep], placed[keep])
