"""FPENet: up to 104 keypoints of a face from a gray crop of 80 x 80 pixels.

Source of the interface: NVIDIA's model card (TAO FPENet); of the network: Honari et al., "Recombinator
Networks" (CVPR 2016). The bundled weights are ours (`training/fpenet`); NVIDIA's fit in their place, and say
nothing of visibility. Coordinates of a crop are continuous: it spans 0..80, the first pixel's centre is 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from sidecar_faces.core.frames import DisplayedPoints, Floats
from sidecar_faces.core.landmarks import LAYOUTS
from sidecar_faces.engine.base import EngineSettings, Image, Keypoints, ModelSpec, TensorSpec
from sidecar_faces.engine.onnx import Session, fingerprint
from sidecar_faces.engine.passes import iou
from sidecar_faces.errors import ModelError

CROP = 80
ENLARGE = 1.25
"""Side of the crop over the longer side of the box: what the weights were trained on."""
TOGETHER = 4
"""Faces per inference: measured, what they need still fits a core's cache, and more are slower."""
_SMALLEST, _IBUG = 80, 68
"""Points of the smaller network; of the layout that all share."""
_HALF_SURE, _STEEPNESS = 0.0081, 1.86
_UNSEEN = 0.3
"""What is `seen` of a face below which it is looked at again."""
_FILLED = (0.1, 0.3)
"""IoU of the 68 points' box with the face's: from the second to the first a score sinks to 0."""
_CLEAR, _WEIGHT, _EXTREMES = 0.8, 0.3, (0.02, 0.98)
"""What `seen` says about a detection, see `odds`; fitted by `python -m benchmarks.landmarks false`."""
INPUT, MAPS = "input_face_images", "conv_keypoints_m80"
POINTS, PEAKS, VISIBILITY = "softargmax", "softargmax:1", "visibility"

Run = Callable[[NDArray[Any]], list[NDArray[Any]]]
"""The network: (n, 1, 80, 80) in; points (n, k, 2), peaks (n, k) and, if it has it, visibility (n, k)."""


def spec(points: int, *, visibility: bool) -> ModelSpec:
    """The interface of a network with this many points."""
    outputs = [TensorSpec(POINTS, "float32", (-1, points, 2)), TensorSpec(PEAKS, "float32", (-1, points))]
    if visibility:
        outputs.append(TensorSpec(VISIBILITY, "float32", (-1, points)))
    return ModelSpec(f"fpenet{points}", (TensorSpec(INPUT, "float32", (-1, 1, CROP, CROP)),), tuple(outputs))


@dataclass(frozen=True, slots=True)
class Crop:
    """A square on an image: image point = matrix @ crop point + shift; matrix (2, 2), shift (2,)."""

    matrix: Floats
    shift: Floats

    def to_image(self, points: Floats) -> Floats:
        """(k, 2) crop points in pixels of the image."""
        return np.asarray(points @ self.matrix.T + self.shift)

    def upside_down(self) -> Crop:
        """The same square, turned by 180 degrees."""
        return Crop(-self.matrix, self.shift + self.matrix @ np.full(2, float(CROP)))


@dataclass(frozen=True, slots=True)
class _Job:
    """A face to look at: its image, its box there (4,), the crop."""

    image: Image
    box: Floats
    crop: Crop


def level(points: Floats) -> float:
    """Roll of a head in radians, from a detector's five points (eyes, nose, mouth); 0 without them.

    The eyes' line and the normal of the line from eyes to mouth are added, as the former is short on a
    head that is turned away.
    """
    if len(points) < 5:
        return 0.0
    across = points[1] - points[0]
    down = (points[3] + points[4]) / 2 - (points[0] + points[1]) / 2
    x, y = across[0] + down[1], across[1] - down[0]
    return float(np.arctan2(y, x)) if x or y else 0.0


def place(box: Floats, points: Floats, enlarge: float = ENLARGE) -> Crop:
    """The crop for a box (x1, y1, x2, y2) and the detector's points in it, (p, 2) or (0, 2)."""
    side = float((box[2:] - box[:2]).max()) * enlarge
    angle = level(points)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, -sin], [sin, cos]]) * (side / CROP)
    return Crop(matrix, (box[:2] + box[2:]) / 2 - matrix @ np.full(2, CROP / 2))


def cut(image: Image, crop: Crop) -> NDArray[np.float32]:
    """(80, 80) gray 0..255: averaged where the image is finer than the crop, continued beyond its border."""
    corners = crop.to_image(np.array([[0, 0], [CROP, 0], [0, CROP], [CROP, CROP]], np.float64))
    scale = float(np.linalg.norm(crop.matrix[:, 0]))
    factor = max(1, int(scale))
    low = np.floor(corners.min(axis=0)).astype(int) - 2 * factor
    high = np.ceil(corners.max(axis=0)).astype(int) + 2 * factor
    region = Pillow.fromarray(_gray(image, low, high))
    if factor > 1:
        region = region.reduce(factor)
    turned, start = crop.matrix / (2 * factor), (crop.shift - low) / factor
    data = (turned[0, 0], turned[0, 1], start[0], turned[1, 0], turned[1, 1], start[1])
    fine = region.transform((2 * CROP, 2 * CROP), Pillow.Transform.AFFINE, data, Pillow.Resampling.BILINEAR)
    return np.asarray(fine.reduce(2), np.float32)


def _gray(image: Image, low: NDArray[np.int_], high: NDArray[np.int_]) -> NDArray[np.uint8]:
    """The part of the image from `low` to `high` (x, y), its border repeated where that lies beyond it."""
    height, width = image.shape[:2]
    left, top = np.clip(low, 0, (width - 1, height - 1))
    right, bottom = np.clip(high, (left + 1, top + 1), (width, height))
    gray = np.asarray(Pillow.fromarray(image[top:bottom, left:right]).convert("L"))
    beyond = ((top - low[1], high[1] - bottom), (left - low[0], high[0] - right))
    if any(side for pair in beyond for side in pair):
        gray = np.pad(gray, np.maximum(beyond, 0), mode="edge")
    return gray


class Fpenet:
    """A `LandmarkEstimator` for the first points of what the network `run` gives, as `layout` counts them."""

    def __init__(self, run: Run, fingerprint: str, layout: str, together: int = TOGETHER) -> None:
        self._run = run
        self.fingerprint, self.layout = fingerprint, layout
        self._count, self._together = LAYOUTS[layout].count, together

    def estimate(self, image: Image, boxes: Floats, points: Floats) -> list[Keypoints]:
        """Keypoints of each face in pixels of the image; see the protocol."""
        (found,) = self.estimate_batch([(image, boxes, points)])
        return found

    def estimate_batch(self, jobs: Sequence[tuple[Image, Floats, Floats]]) -> list[list[Keypoints]]:
        """The same for several images; their faces go through the network together."""
        faces = [
            _Job(image, box, place(box, five))
            for image, boxes, points in jobs
            for box, five in zip(boxes, points, strict=True)
        ]
        rest = iter(self._upright(faces, self._look(faces)))
        return [[next(rest) for _ in boxes] for _, boxes, _ in jobs]

    def _look(self, faces: Sequence[_Job]) -> list[Keypoints]:
        found: list[Keypoints] = []
        for start in range(0, len(faces), self._together):
            part = faces[start : start + self._together]
            outputs = self._run(np.stack([cut(face.image, face.crop) for face in part])[:, None])
            firsts = (output[:, : self._count].astype(np.float64) for output in outputs)
            found.extend(_keypoints(face, *row) for face, *row in zip(part, *firsts, strict=True))
        return found

    def _upright(self, faces: Sequence[_Job], found: list[Keypoints]) -> list[Keypoints]:
        """Look again, from the other side, where next to nothing is seen: the head may be upside down.

        The weights were taught to see nothing in a face that stands on its head.
        """
        unseen = [i for i, marks in enumerate(found) if marks.visible.size and seen(marks.visible) < _UNSEEN]
        turned = [replace(faces[i], crop=faces[i].crop.upside_down()) for i in unseen]
        again = zip(unseen, self._look(turned), strict=True)
        better = {i: marks for i, marks in again if seen(marks.visible) > _CLEAR}
        return [better.get(i, marks) for i, marks in enumerate(found)]


def seen(visible: Floats) -> float:
    """The visibility that a quarter of the 68 points reach: masks and dark glasses leave as many alone."""
    return float(np.quantile(visible[:_IBUG], 0.75))


def odds(visible: Floats) -> float:
    """By how much the odds of a face change with what is seen of it; at most `MOST_ODDS`.

    They are those of `seen` to a power, and 1 where that is `_CLEAR`: a logistic regression on the logits of
    the detector's score and of `seen`.
    """
    share = min(max(seen(visible), _EXTREMES[0]), _EXTREMES[1])
    return float((share / (1 - share) * (1 - _CLEAR) / _CLEAR) ** _WEIGHT)


MOST_ODDS = odds(np.ones(_IBUG))


def _keypoints(face: _Job, points: Floats, peaks: Floats, visibility: Floats | None = None) -> Keypoints:
    box, placed = face.box, face.crop.to_image(points)
    if visibility is None:  # NVIDIA's weights, whose peaks nobody has calibrated
        return Keypoints(DisplayedPoints(placed), peaks, np.empty(0), fit(box, placed))
    return Keypoints(
        DisplayedPoints(placed), confidence(peaks), visibility, fit(box, placed) * odds(visibility)
    )


def confidence(peaks: Floats) -> Floats:
    """Peaks of our weights' maps as the probability that a point is less than 3.5 % of the crop's side off.

    That is about 8 % of the distance between the eyes. The curve was fitted on augmented validation crops.
    """
    return np.asarray(1 / (1 + (_HALF_SURE / np.maximum(peaks, 1e-9)) ** _STEEPNESS))


def fit(box: Floats, points: Floats) -> float:
    """1 where the first 68 points fill the box as a face's do, 0 where they lie elsewhere or collapse."""
    face = points[:_IBUG]
    low, high = face.min(axis=0), face.max(axis=0)
    return _ramp(float(iou(np.concatenate([low, high]), box[None])[0]), *_FILLED)


def _ramp(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0)


def open_estimator(settings: EngineSettings) -> Fpenet:
    """The estimator for the weights that the settings name. Raises ModelError."""
    count = LAYOUTS[settings.layout].count
    points = max(count, _SMALLEST)
    try:
        session = Session(settings.landmarks, spec(points, visibility=True), settings.threads)
    except ModelError:
        session = Session(settings.landmarks, spec(points, visibility=False), settings.threads)
    return Fpenet(session, fingerprint(settings.landmarks), settings.layout)
