"""The worker: photos in, faces out. Pixels never leave it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sidecar_faces.core.frames import DisplayedPoints, Floats, StoredBox
from sidecar_faces.core.types import Batch, Face, FaceResult, Failure, FailureKind, Photo
from sidecar_faces.engine.base import Detections, Detector, EngineSettings, Keypoints, LandmarkEstimator
from sidecar_faces.engine.decode_pillow import decode
from sidecar_faces.engine.detectors import detector_fingerprint, open_detector
from sidecar_faces.engine.faces import landmarks, stored_box
from sidecar_faces.engine.fpenet import open_estimator
from sidecar_faces.engine.onnx import fingerprint
from sidecar_faces.engine.pyramid import Decode, Pyramid
from sidecar_faces.engine.search import search
from sidecar_faces.errors import EngineUnavailableError, PhotoFailedError, PhotoRefusedError

_GENERATION = 1
"""Raise it when faces would come out differently although no model and no setting changed."""
FIVE_POINTS = "centerface-5"
_LANDMARK_FACE = 80
"""Shorter side, in pixels, that a landmark network should have of the smallest face."""
_LANDMARK_LONG_SIDE = 2560
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

    def process(self, batch: Batch) -> tuple[FaceResult, ...]:
        """One result per photo, in the order of the batch; never raises for a bad photo."""
        return tuple(attempt(photo, self.faces) for photo in batch.photos)

    def faces(self, photo: Photo) -> tuple[Face, ...]:
        """The faces of one photo. Raises PhotoFailedError or PhotoRefusedError, and what the models raise."""
        pyramid = Pyramid(photo, self._decode)
        found = search(pyramid, self._detector, self._settings.detail, self._settings.min_score)
        return self.finish(pyramid, found)

    def finish(self, pyramid: Pyramid, found: Detections) -> tuple[Face, ...]:
        """What was found in one photo (displayed pixels) as faces, with landmarks. Raises as `faces`."""
        photo = pyramid.photo
        boxes = [stored_box(photo, box) for box in found.boxes]
        kept = [(i, box) for i, box in enumerate(boxes) if box is not None and self._is_kept(box)]
        chosen = [i for i, _ in kept]
        found = Detections(found.boxes[chosen], found.scores[chosen], found.points[chosen])
        layout, points = self._points(pyramid, found)
        faces = [
            Face(box, float(score) * some.agreement, landmarks(photo, layout, some))
            for (_, box), score, some in zip(kept, found.scores, points, strict=True)
        ]
        believed = [face for face in faces if face.score >= self._settings.min_score]
        return tuple(sorted(believed, key=lambda face: -face.score))

    def _is_kept(self, box: StoredBox) -> bool:
        return min(box.w, box.h) >= self._settings.min_face

    def _points(self, pyramid: Pyramid, found: Detections) -> tuple[str, list[Keypoints]]:
        """The layout, and the keypoints of each face in displayed pixels."""
        if self._estimator is None or not found.scores.size:
            # the detector has no confidence of its own for a point
            pairs = zip(found.points, found.scores, strict=True)
            return FIVE_POINTS, [
                Keypoints(DisplayedPoints(p), np.full(len(p), score), np.empty(0)) for p, score in pairs
            ]
        displayed = pyramid.photo.displayed
        image = pyramid.at_least(_landmark_side(pyramid.photo, found.boxes))
        scale = np.array([image.shape[1] / displayed.width, image.shape[0] / displayed.height])
        estimates = self._estimator.estimate(image, found.boxes * np.tile(scale, 2), found.points * scale)
        return self._estimator.layout, [
            replace(some, points=DisplayedPoints(some.points / scale)) for some in estimates
        ]


def _landmark_side(photo: Photo, boxes: Floats) -> int:
    """How long a photo must be so that its smallest face has enough pixels, within reason."""
    long_side = max(photo.displayed.width, photo.displayed.height)
    smallest = float((boxes[:, 2:] - boxes[:, :2]).min())
    return min(round(long_side * _LANDMARK_FACE / max(smallest, 1.0)), _LANDMARK_LONG_SIDE)
