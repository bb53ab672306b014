"""Reading and writing XMP sidecars and landmark files."""
