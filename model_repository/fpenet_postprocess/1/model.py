"""FPENet's points in pixels of the square round the box."""

from sidecar_faces.serving.models import FpenetPostprocess as TritonPythonModel

__all__ = ["TritonPythonModel"]
