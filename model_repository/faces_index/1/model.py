"""Faces and landmarks of a decoded photo."""

from sidecar_faces.serving.models import FacesIndex as TritonPythonModel

__all__ = ["TritonPythonModel"]
