"""Faces in decoded images of one size."""

from sidecar_faces.serving.models import FacesDetect as TritonPythonModel

__all__ = ["TritonPythonModel"]
