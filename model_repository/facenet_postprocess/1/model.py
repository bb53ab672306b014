"""FaceDetect's grid becomes boxes in pixels of the photo."""

from sidecar_faces.serving.models import FacenetPostprocess as TritonPythonModel

__all__ = ["TritonPythonModel"]
