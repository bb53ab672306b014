"""Which of the networks that can be installed a file holds, told by its tensors."""

from __future__ import annotations

from collections.abc import Mapping

from sidecar_faces.engine import facedetect
from sidecar_faces.engine.base import ModelSpec
from sidecar_faces.engine.onnx import Session
from sidecar_faces.engine.triton_specs import NVIDIA_FPENET
from sidecar_faces.errors import ModelError

INSTALLABLE: Mapping[str, ModelSpec] = {"FaceDetect": facedetect.SPEC, "FPENet": NVIDIA_FPENET}


def identify(path: str) -> str:
    """The name of the network. Raises ModelError that says what is missing for each."""
    reasons = []
    for name, spec in INSTALLABLE.items():
        try:
            Session(path, spec)
        except ModelError as error:
            if "is not '" not in str(error):  # no model at all
                raise
            reasons.append(f"{name}: {str(error).removeprefix(path).lstrip(': ')}")
        else:
            return name
    raise ModelError(f"{path}: has the interface of none of NVIDIA's networks. {' '.join(reasons)}")
