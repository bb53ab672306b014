"""Which detector the settings mean: opened in this process, and told from others by its weights."""

from __future__ import annotations

import os
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sidecar_faces.core.frames import Floats
from sidecar_faces.engine import facedetect
from sidecar_faces.engine.base import Detector, EngineSettings
from sidecar_faces.engine.centerface import SPEC as CENTERFACE
from sidecar_faces.engine.centerface import CenterFace
from sidecar_faces.engine.facedetect import Color, FaceDetect, StandIn
from sidecar_faces.engine.onnx import Session, fingerprint
from sidecar_faces.engine.passes import SUSPECTED

_CENTERFACE = "centerface.onnx"
FACEDETECT = "facedetect.onnx"
"""NVIDIA's weights, where somebody installed them in the folder of models."""


def detector_fingerprint(settings: EngineSettings) -> str:
    """The detector's name and the beginning of its weights' SHA-256; loads no model. Raises ModelError."""
    return named_fingerprint(settings, fingerprint(_weights(settings)), stand_in=_is_stand_in(settings))


def named_fingerprint(settings: EngineSettings, sha256: str, *, stand_in: bool) -> str:
    """The same for weights that lie elsewhere, as on a server."""
    if settings.detector != "facedetect":
        return f"{settings.detector}={sha256[:16]}"
    network = "facedetect-by-centerface" if stand_in else "facedetect"
    return f"{network}/{settings.preset}/{settings.color}={sha256[:16]}"


def open_detector(settings: EngineSettings) -> Detector:
    """Load the detector's weights. Raises ModelError."""
    least = min(SUSPECTED, settings.min_score)
    if settings.detector != "facedetect":
        return _centerface(settings, least)
    # as on a server, whose stand-in is not told how good a face must be
    network = StandIn(_centerface(settings, SUSPECTED)) if _is_stand_in(settings) else OnnxGridBox(settings)
    return FaceDetect(network, least, settings.preset, cast(Color, settings.color))


def _centerface(settings: EngineSettings, min_score: float) -> CenterFace:
    path = os.path.join(settings.models, _CENTERFACE)
    return CenterFace(Session(path, CENTERFACE, settings.threads), fingerprint(path), min_score)


def _weights(settings: EngineSettings) -> str:
    own = settings.detector == "facedetect" and not _is_stand_in(settings)
    return os.path.join(settings.models, FACEDETECT if own else _CENTERFACE)


def _is_stand_in(settings: EngineSettings) -> bool:
    return settings.detector == "facedetect" and not os.path.isfile(os.path.join(settings.models, FACEDETECT))


class OnnxGridBox:
    """A `GridBoxNetwork` that runs in this process: NVIDIA's weights as ONNX. Raises ModelError."""

    def __init__(self, settings: EngineSettings) -> None:
        path = os.path.join(settings.models, FACEDETECT)
        self.fingerprint = fingerprint(path)
        self._session = Session(path, facedetect.SPEC, settings.threads)

    def run(self, images: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """See `GridBoxNetwork`."""
        answers: list[NDArray[Any]] = self._session(images)
        return answers[0], answers[1]
