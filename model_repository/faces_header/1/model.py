"""What the header of an encoded photo says."""

from sidecar_faces.serving.models import FacesHeader as TritonPythonModel

__all__ = ["TritonPythonModel"]
