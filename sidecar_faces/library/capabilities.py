"""What the file system of a folder can do, found out by doing it to files of our own."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

from sidecar_faces.library.mounts import Mount, free_bytes, mount_of


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Of one library. `writable` is False too where the mount is read-only."""

    mount: Mount
    writable: bool
    free: int


def capabilities(folder: str) -> Capabilities:
    """Look at the mount, the free space, and whether a temporary file can be made in the folder."""
    return Capabilities(mount_of(folder), _writable(folder), free_bytes(folder))


def _writable(folder: str) -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".sidecar-faces-", suffix=".tmp"):
            return True
    except OSError:
        return False
