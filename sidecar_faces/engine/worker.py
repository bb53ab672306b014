"""The worker: photos in, faces out. Pixels never leave it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sidecar_faces.core.frames import DisplayedPoints, Floats, StoredBox
from sidecar_faces.core.types import Batch, Face, FaceResult, Failure, FailureKind, Landmarks, Photo
from sidecar_faces.engine.base import (
    Detections,
    Detector,
    EngineSettings,
    Image,
    Keypoints,
    LandmarkEstimator,
)
from sidecar_faces.engine.decode_pillow import decode
from sidecar_faces.engine.detectors import detector_fingerprint, open_detector
from sidecar_faces.engine.faces import landmarks, stored_box, weigh
from sidecar_faces.engine.fpenet import MOST_ODDS, open_estimator
from sidecar_faces.engine.onnx import fingerprint
from sidecar_faces.engine.pyramid import Decode, Pyramid
from sidecar_faces.engine.search import search
from sidecar_faces.errors import EngineUnavailableError, PhotoFailedError, PhotoRefusedError

_GENERATION = 2
"""Raise it when faces would come out differently although no model and no setting changed."""
FIVE_POINTS = "centerface-5"
_LANDMARK_FACE = {"fast": 28, "normal": 56, "fine": 64}
"""Longer side, in pixels, that a landmark network should have of the smallest face; beyond 64 (of the 80 of
its crop, which is wider than the box) it sees no more."""
_LANDMARK_LONG_SIDE = 1920
"""But no larger is a photo decoded for it."""


def worker_fingerprint(settings: EngineSettings) -> str:
    """What tells results of one engine from those of another; loads no model. Raises ModelError."""
    landmarks = fingerprint(settings.landmarks) if settings.landmarks else ""
    return joined_fingerprint(settings, detector_fingerprint(settings), landmarks)


def joined_fingerprint(settings: EngineSettings, detector: str, landmarks: str) -> str:
    """The same from the detector's fingerprint and the SHA-256 of the landmark network ("" for none)."""
    named = f"{settings.layout}:{landmarks[:16]}" if landmarks else ""
    return (
        f"{_GENERATION} {detector} landmarks={named or FIVE_POINTS} detail={settings.detail} "
        f"min_score={settings.min_score:g} min_face={settings.min_face}"
    )


def attempt(photo: Photo, find: Callable[[Photo], tuple[Face, ...]]) -> FaceResult:
    """What `find` finds in a photo, or why it could not."""
    try:
        return FaceResult(photo, find(photo))
    except PhotoRefusedError as error:
        return FaceResult(photo, failure=Failure(FailureKind.REFUSED, str(error)))
    except PhotoFailedError as error:
        return FaceResult(photo, failure=Failure(FailureKind.FAILED, str(error)))
    except EngineUnavailableError as error:
        return FaceResult(photo, failure=Failure(FailureKind.UNAVAILABLE, str(error)))
    except Exception as error:  # a photo may break anything; it must not break the batch
        reason = f"cannot be processed ({error.__class__.__name__}: {error})"
        return FaceResult(photo, failure=Failure(FailureKind.FAILED, reason))


class LocalWorker:
    """Runs the models in this process. Raises ModelError where one is absent or altered.

    Photos are taken one after the other, and of each at most one decoded image and one tile's tensors are
    held: memory is bounded by the largest single photo that the probe lets pass, whatever a batch holds.
    """

    def __init__(
        self,
        settings: EngineSettings,
        decode: Decode = decode,
        detector: Detector | None = None,
        estimator: LandmarkEstimator | None = None,
    ) -> None:
        self._settings = settings
        self._decode = decode
        self._detector = detector or open_detector(settings)
        self._estimator = estimator or (open_estimator(settings) if settings.landmarks else None)
        self.promising = weigh(settings.min_score, 1 / (MOST_ODDS if self._estimator else 1.0))
        """Detector's score from which a face may be believed, once its landmarks are known."""

    def process(self, batch: Batch) -> tuple[FaceResult, ...]:
        """One result per photo, in the order of the batch; never raises for a bad photo."""
        return tuple(attempt(photo, self.faces) for photo in batch.photos)

    def faces(self, photo: Photo) -> tuple[Face, ...]:
        """The faces of one photo. Raises PhotoFailedError or PhotoRefusedError, and what the models raise."""
        pyramid = Pyramid(photo, self._decode)
        found = search(pyramid, self._detector, self._settings.detail, self.promising)
        return self.finish(pyramid, found)

    def finish(self, pyramid: Pyramid, found: Detections) -> tuple[Face, ...]:
        """What was found in one photo (displayed pixels) as faces, with landmarks. Raises as `faces`."""
        some = self.prepare(pyramid, found)
        if self._estimator is None or some.image is None:
            return self.complete(some, FIVE_POINTS, some.detected())
        estimates = self._estimator.estimate(some.image, some.boxes(), some.points())
        return self.complete(some, self._estimator.layout, estimates)

    def prepare(self, pyramid: Pyramid, found: Detections) -> Prepared:
        """The faces to keep, and an image that is fine enough for their landmarks. Raises as `faces`."""
        photo = pyramid.photo
        places = [stored_box(photo, box) for box in found.boxes]
        kept = {i: place for i, place in enumerate(places) if place is not None and self._is_kept(place)}
        chosen = list(kept)
        found = Detections(found.boxes[chosen], found.scores[chosen], found.points[chosen])
        wanted = bool(kept) and self._estimator is not None
        image = pyramid.at_least(self._landmark_side(photo, found.boxes)) if wanted else None
        return Prepared(photo, tuple(kept.values()), found, image)

    def complete(self, some: Prepared, layout: str, estimates: Sequence[Keypoints]) -> tuple[Face, ...]:
        """Faces, best first; `estimates` are in pixels of the prepared image."""
        scale = some.scale()
        faces = [
            Face(place, weigh(float(score), one.odds), _landmarks(some.photo, layout, one, scale))
            for place, score, one in zip(some.places, some.found.scores, estimates, strict=True)
        ]
        believed = [face for face in faces if face.score >= self._settings.min_score]
        return tuple(sorted(believed, key=lambda face: -face.score))

    def _landmark_side(self, photo: Photo, boxes: Floats) -> int:
        """How long a photo must be so that its smallest face has enough pixels, within reason."""
        long_side = max(photo.displayed.width, photo.displayed.height)
        smallest = float((boxes[:, 2:] - boxes[:, :2]).max(axis=1).min())
        wanted = long_side * _LANDMARK_FACE[self._settings.detail] / max(smallest, 1.0)
        return min(round(wanted), _LANDMARK_LONG_SIDE)

    def _is_kept(self, box: StoredBox) -> bool:
        return min(box.w, box.h) >= self._settings.min_face


@dataclass(frozen=True, slots=True)
class Prepared:
    """The faces of one photo before their landmarks: `places` in stored pixels, `found` in displayed ones,
    and an upright image; None where none is needed.
    """

    photo: Photo
    places: tuple[StoredBox, ...]
    found: Detections
    image: Image | None

    def scale(self) -> Floats:
        """Pixels of the image per displayed pixel, x and y."""
        if self.image is None:
            return np.ones(2)
        displayed = self.photo.displayed
        return np.array([self.image.shape[1] / displayed.width, self.image.shape[0] / displayed.height])

    def boxes(self) -> Floats:
        """(n, 4) in pixels of the image."""
        return np.asarray(self.found.boxes * np.tile(self.scale(), 2))

    def points(self) -> Floats:
        """(n, p, 2) the detector's points in pixels of the image."""
        return np.asarray(self.found.points * self.scale())

    def detected(self) -> list[Keypoints]:
        """The detector's own points as keypoints; it has no confidence of its own for each."""
        pairs = zip(self.points(), self.found.scores, strict=True)
        return [Keypoints(DisplayedPoints(p), np.full(len(p), score), np.empty(0)) for p, score in pairs]


def _landmarks(photo: Photo, layout: str, some: Keypoints, scale: Floats) -> Landmarks | None:
    """None where the detector, too, knows no points."""
    if not len(some.points):
        return None
    return landmarks(photo, layout, replace(some, points=DisplayedPoints(some.points / scale)))
