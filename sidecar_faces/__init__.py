"""sidecar-faces: faces of a photo library, written to XMP sidecars and landmark files."""

__version__ = "0.1.0"
