"""The seams of the engine: what a detector, a landmark estimator, a worker and an executor promise."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sidecar_faces.core.frames import DisplayedPoints, Floats
from sidecar_faces.core.types import Batch, FaceResult

Image = NDArray[np.uint8]
"""(height, width, 3) RGB, upright."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, type (NumPy's name) and shape of a tensor; -1 marks a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The interface of a model, compared with what a file or a server really offers."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections of one image, n of them, best first.

    `boxes` (n, 4): x1, y1, x2, y2; `scores` (n,); `points` (n, p, 2) x, y; all in pixels of the image given.
    """

    boxes: Floats
    scores: Floats
    points: Floats


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the worker needs to know; small and picklable, so that it can cross to a child process.

    `min_score` 0..1; `min_face`: shorter side of the smallest face to keep, in stored pixels;
    `detail`: "fast", "normal" or "fine"; `threads` per worker; `models`: folder with the prepared weights;
    `landmarks`: weights of a landmark network, or empty for the detector's own points; `layout`: how many of
    its points are taken (see `core.landmarks`). `preset`, `color`: how FaceDetect's boxes are clustered, and
    whether it sees "rgb" or "gray" (see `facedetect`).
    """

    models: str
    detector: str = "centerface"
    min_score: float = 0.5
    min_face: int = 12
    detail: str = "normal"
    threads: int = 1
    landmarks: str = ""
    layout: str = "fpenet-80"
    preset: str = "nms"
    color: str = "rgb"


class Detector(Protocol):
    """Finds faces in images of one shape."""

    fingerprint: str

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """Detections for each image; images all have one shape."""
        ...


@dataclass(frozen=True, slots=True)
class Keypoints:
    """Keypoints of one face as a network gives them, k of them.

    `points` (k, 2) in pixels of the image given; `confidences` (k,) 0..1; `visible` (k,) probability that a
    point can be seen, or (0,) where the network cannot tell; `odds`: by which they multiply the odds that the
    detection is a face, 0 where they contradict it, 1 where they say nothing.
    """

    points: DisplayedPoints
    confidences: Floats
    visible: Floats
    odds: float = 1.0


class LandmarkEstimator(Protocol):
    """Finds the keypoints of faces; the 5-point layout of the detector is used where there is none."""

    fingerprint: str
    layout: str

    def estimate(self, image: Image, boxes: Floats, points: Floats) -> list[Keypoints]:
        """Keypoints per face; boxes (n, 4) and the detector's points (n, p, 2) in pixels of the image."""
        ...


class Worker(Protocol):
    """Turns a batch of files into faces; holds the models."""

    def process(self, batch: Batch) -> tuple[FaceResult, ...]:
        """One result per photo, in the order of the batch; never raises for a bad photo."""
        ...


class Executor(Protocol):
    """Where the worker runs: inline, in supervised child processes, in a cluster."""

    capacity: int
    """How many batches can usefully be in flight at once."""

    def submit(self, batch: Batch) -> Future[tuple[FaceResult, ...]]:
        """Results in the batch's order. A crash or a hang becomes a failure of the culprit alone."""
        ...

    def close(self) -> None:
        """End children; what is in flight is cancelled."""
        ...
