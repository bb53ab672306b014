"""`python -m sidecar_faces` is `sidecar-faces`."""

from sidecar_faces.cli import main

main()
