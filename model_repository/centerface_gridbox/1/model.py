"""CenterFace's findings as FaceDetect's tensors."""

from sidecar_faces.serving.models import CenterFaceGridBox as TritonPythonModel

__all__ = ["TritonPythonModel"]
