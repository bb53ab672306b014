"""Whether landmarks tell true from false detections; run by `python -m benchmarks.landmarks false`.

Every photo is looked at as it is, mirrored, smaller, larger and upside down. A detection is true where it
overlaps a known face, false where it overlaps none; what lies between, and what is too small, is left out.
False ones beside known faces may be faces that nobody has marked: what is fitted are those of other photos,
and of all detections those that landmarks can still make a face.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sidecar_faces.core.frames import Floats, Size
from sidecar_faces.core.types import FileSignature, ImageFormat, Photo
from sidecar_faces.engine.base import EngineSettings
from sidecar_faces.engine.decode_pillow import decode
from sidecar_faces.engine.detectors import open_detector
from sidecar_faces.engine.faces import weigh
from sidecar_faces.engine.fpenet import open_estimator, seen
from sidecar_faces.engine.passes import SUSPECTED, iou
from sidecar_faces.engine.pyramid import Pyramid
from sidecar_faces.engine.search import search
from sidecar_faces.engine.worker import LocalWorker

TRUE, FALSE = 0.4, 0.15
"""Overlap (IoU) with a known face from which, and below which, a detection is true or false."""
LONGEST = 2560
FOLDS = 5
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class View:
    """How a photo is shown."""

    name: str
    scale: float = 1.0
    mirrored: bool = False
    turned: bool = False


VIEWS = (
    View("as it is"),
    View("mirrored", mirrored=True),
    View("0.6 times", scale=0.6),
    View("1.6 times", scale=1.6),
    View("upside down", turned=True),
)


@dataclass(frozen=True)
class Found:
    """One detection: `score` of the detector alone, `odds` and `seen` (0..1) by its landmarks.

    `sure`: it is true, or in a photo without a face.
    """

    photo: str
    upright: bool
    true: bool
    sure: bool
    score: float
    odds: float
    seen: float

    @property
    def weighed(self) -> float:
        return weigh(self.score, self.odds)


def photos(dataset: Path, without: str) -> Iterator[tuple[Path, Floats]]:
    """Each photo with its faces (n, 4) x1, y1, x2, y2, as gt.json has them; without one there are none."""
    if (dataset / "gt.json").is_file():
        items = json.loads((dataset / "gt.json").read_text())["items"]
        known = [(dataset / item["file"], item["faces"]) for item in items if "expected_faces" not in item]
    else:
        known = [(path, []) for path in sorted(dataset.rglob("*")) if path.suffix.lower() in SUFFIXES]
    for path, faces in known:
        if not (without and re.search(without, path.name)):
            boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in faces], np.float64)
            yield path, boxes.reshape(-1, 4)


def opened(path: Path) -> Image.Image:
    """A photo in colour, on gray where it is transparent."""
    image: Image.Image = Image.open(path)
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (200, 200, 195, 255)), image)
    return image.convert("RGB")


def shown(image: Image.Image, truth: Floats, view: View) -> tuple[Image.Image, Floats]:
    """The photo and its boxes in a view."""
    scale = view.scale * min(1.0, LONGEST / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image, truth = image.resize(size, Image.Resampling.BICUBIC), truth * scale
    if view.mirrored:
        left, right = size[0] - truth[:, 2], size[0] - truth[:, 0]
        image, truth = ImageOps.mirror(image), np.stack([left, truth[:, 1], right, truth[:, 3]], axis=1)
    if view.turned:
        image, truth = image.rotate(180), np.tile(size, 2) - truth[:, [2, 3, 0, 1]]
    return image, truth


class Finder:
    """Detections and what their landmarks say."""

    def __init__(self, settings: EngineSettings) -> None:
        self._detector, self._estimator = open_detector(settings), open_estimator(settings)
        self._worker = LocalWorker(settings, detector=self._detector, estimator=self._estimator)
        self._detail = settings.detail
        self.promising = self._worker.promising

    def look(self, path: Path, image: Image.Image, truth: Floats, view: View) -> Iterator[Found]:
        """All detections that are true or false."""
        pixels = np.asarray(image)
        photo = Photo("", FileSignature(0, 0), ImageFormat.JPEG, Size(*image.size), 1)
        pyramid = Pyramid(photo, decode, pixels)
        some = self._worker.prepare(pyramid, search(pyramid, self._detector, self._detail, SUSPECTED))
        marks = self._estimator.estimate(pixels, some.found.boxes, some.found.points)
        for box, score, one in zip(some.found.boxes, some.found.scores, marks, strict=True):
            overlap = float(iou(box, truth).max(initial=0.0))
            if overlap >= TRUE or overlap < FALSE:
                true = overlap >= TRUE
                judged = float(score), one.odds, seen(one.visible)
                yield Found(str(path), not view.turned, true, true or not len(truth), *judged)


def collect(dataset: Path, finder: Finder, without: str) -> list[Found]:
    """All detections of a set."""
    return [
        found
        for path, truth in photos(dataset, without)
        for view in VIEWS
        for found in finder.look(path, *shown(opened(path), truth, view), view)
    ]


def changes(found: Sequence[Found], threshold: float) -> str:
    """What the landmarks take away and add at a score."""
    before = [one.score >= threshold for one in found]
    after = [one.weighed >= threshold for one in found]
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    gained = sum(b and not a for a, b in zip(before, after, strict=True))
    return f"{sum(before):5} -{lost} +{gained} = {sum(after)}"


def show(name: str, found: Sequence[Found], threshold: float) -> None:
    """Print a set's figures."""
    for label, upright in (("upright", True), ("upside down", False)):
        true, false = (
            [f for f in found if f.upright == upright and f.true == kind] for kind in (True, False)
        )
        print(
            f"{name} {label}: true {changes(true, threshold)}  false {changes(false, threshold)}  "
            f"(of {len(true)} and {len(false)} from {SUSPECTED:g})"
        )


def features(found: Sequence[Found]) -> Floats:
    """(n, 3): 1, logit of the score, logit of what is seen."""
    shares = np.array([(one.score, one.seen) for one in found]).clip(0.02, 0.98)
    return np.column_stack([np.ones(len(found)), np.log(shares / (1 - shares))])


def regression(found: Sequence[Found]) -> Floats:
    """Coefficients (3,) of a logistic regression, by Newton's method; true and false weigh the same.

    A photo's many detections resemble each other: they weigh as the square root of their number.
    """
    x, y = features(found), np.array([float(one.true) for one in found])
    count = Counter((one.photo, one.true) for one in found)
    weight = np.array([count[one.photo, one.true] ** -0.5 for one in found])
    weight /= np.where(y > 0, (weight * y).sum(), (weight * (1 - y)).sum())
    beta = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ beta))
        slope = (x * (weight * p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(len(beta))
        beta = beta + np.linalg.solve(slope, x.T @ (weight * (y - p)))
    return beta


def cross_validate(found: Sequence[Found], threshold: float) -> None:
    """Print the weight of what is seen, fitted without each fold of photos, and what it is worth there."""
    names = sorted({one.photo for one in found})
    fold = dict(zip(names, np.random.default_rng(1).permutation(len(names)) % FOLDS, strict=True))
    folds = np.array([fold[one.photo] for one in found])
    true, alone = np.array([one.true for one in found]), np.array([one.score for one in found])
    judged, weights = np.zeros(len(found)), []
    for k in range(FOLDS):
        beta = regression([one for one, other in zip(found, folds, strict=True) if other != k])
        weights.append(beta[2] / beta[1])
        judged[folds == k] = (features(found) @ (beta / beta[1]))[folds == k]
    print(f"weight of what is seen by fold: {', '.join(f'{weight:.2f}' for weight in weights)}")
    allowed = int((alone[~true] >= threshold).sum())
    for false in (allowed, allowed // 4):
        known, held_out = above(alone, true, false), above(judged, true, false)
        print(f"with {false} false ones: {known} true ones by the detector alone, {held_out} held out")


def above(values: Floats, true: NDArray[np.bool_], allowed: int) -> int:
    """How many true ones lie above all but so many false ones."""
    others = np.sort(values[~true])
    return int((values[true] > others[-allowed - 1]).sum()) if allowed < len(others) else int(true.sum())


def run(datasets: Sequence[Path], settings: EngineSettings, threshold: float, without: str) -> None:
    """Print all figures."""
    finder, everything = Finder(settings), []
    for dataset in datasets:
        found = collect(dataset, finder, without)
        show(dataset.name, found, threshold)
        everything += found
    show("all", everything, threshold)
    cross_validate([one for one in everything if one.sure and one.score >= finder.promising], threshold)
