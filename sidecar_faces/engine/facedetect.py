"""NVIDIA FaceDetect (DetectNet_v2): its grid of boxes, decoded and clustered; and other detectors written as
such a grid.

Source: the model card and the training code of the TAO toolkit (Apache-2.0). The network sees the image
stretched to 736x416 and answers, for each cell of 16x16 pixels, a coverage and a box relative to the cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from sidecar_faces.core.frames import Floats, Size
from sidecar_faces.engine.base import Detections, Image, ModelSpec, TensorSpec

NETWORK = Size(736, 416)
STRIDE = 16
COLUMNS, ROWS = NETWORK.width // STRIDE, NETWORK.height // STRIDE
_BOX_SCALE = 35.0
_CELL_OFFSET = 0.5
COVERAGE, BOXES = "output_cov/Sigmoid", "output_bbox/BiasAdd"

SPEC = ModelSpec(
    "facenet",
    (TensorSpec("input_1", "float32", (-1, 3, NETWORK.height, NETWORK.width)),),
    (
        TensorSpec(COVERAGE, "float32", (-1, 1, ROWS, COLUMNS)),
        TensorSpec(BOXES, "float32", (-1, 4, ROWS, COLUMNS)),
    ),
)

Color = Literal["rgb", "gray"]


@dataclass(frozen=True, slots=True)
class Clustering:
    """How candidate boxes become faces.

    `dbscan`: boxes within a distance (1 - IoU) of `eps` whose coverages sum to `min_samples` form a face; its
    box is their mean weighted by coverage, its score their sum (which may exceed 1). `nms`: boxes that
    overlap a better one by `iou` fall away; the score is the coverage. Candidates need `coverage`, faces
    `confidence` and `min_height` (pixels of the boxes' frame); `top_k` is the most faces an image can have, 0
    for no limit.
    """

    method: Literal["dbscan", "nms"]
    coverage: float = 0.005
    confidence: float = 0.2
    eps: float = 0.3
    min_samples: float = 1.0
    iou: float = 0.5
    min_height: float = 0.0
    top_k: int = 0


PRESETS: Mapping[str, Clustering] = {
    "nms": Clustering("nms"),
    "deepstream": Clustering("nms", top_k=20),
    "tao": Clustering("dbscan", confidence=0.9),
    "notebook": Clustering("dbscan", eps=0.8, min_samples=4, min_height=4),
}
"""`nms` is ours: DeepStream's without its limit of 20 faces."""


def cell_positions() -> tuple[Floats, Floats]:
    """x of each column (46,) and y of each row (26,) in network pixels: what a cell's box is counted from."""
    return np.arange(COLUMNS) * STRIDE + _CELL_OFFSET, np.arange(ROWS) * STRIDE + _CELL_OFFSET


def decode(coverage: Floats, boxes: Floats, threshold: float, image: Size = NETWORK) -> tuple[Floats, Floats]:
    """Candidates of one image: (n, 4) x1, y1, x2, y2 in pixels of `image`, clipped to it, and (n,) coverages.

    `coverage` (1, 26, 46) and `boxes` (4, 26, 46) are the network's outputs.
    """
    rows, columns = np.nonzero(coverage[0] > threshold)
    xs, ys = cell_positions()
    sides = boxes[:, rows, columns].astype(np.float64) * _BOX_SCALE
    x, y = xs[columns], ys[rows]
    corners = np.stack([x - sides[0], y - sides[1], x + sides[2], y + sides[3]], axis=1)
    limits = np.array([NETWORK.width, NETWORK.height] * 2, np.float64)
    scale = np.array([image.width, image.height] * 2, np.float64) / limits
    return np.clip(corners, 0, limits) * scale, coverage[0][rows, columns].astype(np.float64)


def encode(boxes: Floats, scores: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Write boxes (n, 4) in network pixels, best first, as coverage (1, 26, 46) and boxes (4, 26, 46).

    Each box takes the free cells of its inner half, at least the nearest free one, with its score as
    coverage; `decode` and non-maximum suppression give the boxes back, and DBSCAN sees as many votes as a
    face has cells.
    """
    coverage = np.zeros((1, ROWS, COLUMNS), np.float32)
    grid = np.zeros((4, ROWS, COLUMNS), np.float32)
    xs, ys = cell_positions()
    for (x1, y1, x2, y2), score in zip(boxes, scores, strict=True):
        dx, dy = np.meshgrid(np.abs(xs - (x1 + x2) / 2), np.abs(ys - (y1 + y2) / 2))
        free = coverage[0] == 0
        cells = free & (dx <= (x2 - x1) / 4) & (dy <= (y2 - y1) / 4)
        if not cells.any():
            if not free.any():
                break
            cells.flat[np.argmin(np.where(free, dx**2 + dy**2, np.inf))] = True
        rows, columns = np.nonzero(cells)
        x, y = xs[columns], ys[rows]
        grid[:, rows, columns] = np.stack([x - x1, y - y1, x2 - x, y2 - y]) / _BOX_SCALE
        coverage[0][rows, columns] = score
    return coverage, grid


def iou_matrix(a: Floats, b: Floats) -> Floats:
    """(n, m) intersection over union of (n, 4) and (m, 4) boxes x1, y1, x2, y2; 0 for boxes without area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    union = _areas(a)[:, None] + _areas(b)[None, :] - shared
    ratio: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def _areas(boxes: Floats) -> Floats:
    areas: Floats = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    return areas


def dbscan(distances: Floats, weights: Floats, eps: float, min_samples: float) -> NDArray[np.int64]:
    """Cluster labels (n,) of points with a weight each; -1 is noise. The same labels as scikit-learn's DBSCAN
    gives.

    A point is a core point where the weights within `eps` of it, its own included, sum to `min_samples`; core
    points within `eps` of each other are one cluster; other points join the first cluster that has a core
    point within `eps`. Source: Ester et al., KDD 1996.
    """
    count = len(weights)
    near = distances <= eps
    core = near @ weights >= min_samples
    links = near & core[None, :]
    roots = np.where(core, np.arange(count), count)
    while (
        True
    ):  # the smallest index of a connected component spreads through it, by jumps along what it has reached
        spread = np.where(core, np.where(links, roots[None, :], count).min(axis=1, initial=count), count)
        spread[core] = spread[spread[core]]
        if np.array_equal(spread, roots):
            break
        roots = spread
    reached = np.where(links, roots[None, :], count).min(axis=1, initial=count)
    labels = np.full(count, -1, np.int64)
    known = reached < count
    labels[known] = np.unique(reached[known], return_inverse=True)[1]
    return labels


def nms(boxes: Floats, scores: Floats, threshold: float) -> NDArray[np.int64]:
    """Indexes of the boxes (n, 4) that overlap no better kept box by more than `threshold`, best first."""
    order = np.argsort(-scores, kind="stable")
    overlaps = iou_matrix(boxes[order], boxes[order]) > threshold
    kept: list[int] = []
    gone = np.zeros(len(order), bool)
    for position in range(len(order)):
        if not gone[position]:
            kept.append(position)
            gone |= overlaps[position]
    return order[np.array(kept, np.int64)]


def cluster(boxes: Floats, coverage: Floats, how: Clustering) -> tuple[Floats, Floats]:
    """Faces from candidates: (m, 4) boxes in the same frame and (m,) scores, best first."""
    if how.method == "nms":
        chosen = nms(boxes, coverage, how.iou)
        found, scores = boxes[chosen], coverage[chosen]
    else:
        found, scores = _dbscan_faces(boxes, coverage, how)
    good = (scores > how.confidence) & (found[:, 3] - found[:, 1] > how.min_height)
    order = np.argsort(-scores[good], kind="stable")[: how.top_k or None]
    return found[good][order], scores[good][order]


def _dbscan_faces(boxes: Floats, coverage: Floats, how: Clustering) -> tuple[Floats, Floats]:
    labels = dbscan(1 - iou_matrix(boxes, boxes), coverage, how.eps, how.min_samples)
    members = labels[:, None] == np.arange(labels.max(initial=-1) + 1)[None, :]
    weights = members * coverage[:, None]
    scores: Floats = weights.sum(axis=0)
    return (weights.T @ boxes) / scores[:, None], scores


def stretch(image: Image, color: Color = "rgb") -> NDArray[np.float32]:
    """The network's input (3, 416, 736) 0..1 of an image; `gray` copies its luma into all three channels."""
    picture = Pillow.fromarray(image)
    if picture.size != (NETWORK.width, NETWORK.height):
        picture = picture.resize((NETWORK.width, NETWORK.height), Pillow.Resampling.BILINEAR)
    if color == "gray":
        picture = picture.convert("L").convert("RGB")
    return np.asarray(picture, np.float32).transpose(2, 0, 1) / np.float32(255)


class GridBoxNetwork(Protocol):
    """FaceDetect's network, wherever it runs."""

    fingerprint: str

    def run(self, images: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """(n, 3, 416, 736) to coverages (n, 1, 26, 46) and boxes (n, 4, 26, 46)."""
        ...


class FaceDetect:
    """A `Detector` of boxes without points, by FaceDetect's network."""

    def __init__(
        self, network: GridBoxNetwork, min_score: float, preset: str = "nms", color: Color = "rgb"
    ) -> None:
        self._network = network
        self._min_score = min_score
        self._how = PRESETS[preset]
        self._color: Color = color
        self.fingerprint = f"{network.fingerprint}/{preset}/{color}"

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """Detections for each image, in its pixels; scores are capped at 1."""
        if not images:
            return []
        coverages, grids = self._network.run(np.stack([stretch(image, self._color) for image in images]))
        return [
            self._one(coverage, grid, Size(image.shape[1], image.shape[0]))
            for image, coverage, grid in zip(images, coverages, grids, strict=True)
        ]

    def _one(self, coverage: Floats, grid: Floats, size: Size) -> Detections:
        boxes, scores = cluster(*decode(coverage, grid, self._how.coverage, size), self._how)
        good = scores >= self._min_score
        return Detections(boxes[good], np.minimum(scores[good], 1), np.zeros((int(good.sum()), 0, 2)))


class _OtherDetector(Protocol):
    fingerprint: str

    def detect(self, images: Sequence[Image]) -> list[Detections]: ...


class StandIn:
    """A `GridBoxNetwork` that is another detector's answer written as a grid, while NVIDIA's weights are not
    installed.
    """

    def __init__(self, detector: _OtherDetector) -> None:
        self._detector = detector
        self.fingerprint = f"gridbox-of-{detector.fingerprint}"

    def run(self, images: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """See `GridBoxNetwork`."""
        pixels = np.rint(images.transpose(0, 2, 3, 1) * 255).clip(0, 255).astype(np.uint8)
        grids: list[tuple[Any, Any]] = [
            encode(found.boxes, found.scores) for found in self._detector.detect(list(pixels))
        ]
        return np.stack([grid[0] for grid in grids]), np.stack([grid[1] for grid in grids])
