"""Where the sidecar and the landmark file of a photo lie, and which existing sidecars are about it.

A sidecar that exists is edited in place under the name that it has: `IMG.jpg.xmp`, or `IMG.xmp` where that is
about this photo alone. A new one is `IMG.jpg.xmp`, in the photo's own spelling.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sidecar_faces.errors import SidecarError
from sidecar_faces.log import printable

BESIDE = "beside"
LANDMARK_SUFFIX = ".faces.json"

_STEM_SHARERS = (
    # what a photo `IMG.jpg` may share the sidecar `IMG.xmp` with: raw files, and other pictures
    *(
        "3fr",
        "arw",
        "cr2",
        "cr3",
        "crw",
        "dcr",
        "dng",
        "erf",
        "fff",
        "gpr",
        "iiq",
        "k25",
        "kdc",
        "mef",
        "mos",
    ),
    *("mrw", "nef", "nrw", "orf", "pef", "raf", "raw", "rw2", "rwl", "sr2", "srf", "srw", "x3f"),
    *("jpg", "jpeg", "jpe", "png", "webp", "tif", "tiff", "heic", "heif", "avif", "jxl", "psd"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A file that we may write, and the folder (absolute) that it must really lie in, links resolved."""

    path: str
    within: str


@dataclass(frozen=True, slots=True)
class SidecarLayout:
    """Where the files about the photos of one library lie.

    `root`: the library, absolute. `sidecar_dir`: a folder that mirrors it, for libraries that are read-only.
    `landmarks`: "beside" (the sidecar), or an absolute folder that mirrors the library.
    """

    root: str
    sidecar_dir: Path | None = None
    landmarks: str = BESIDE

    def sidecar(self, photo: str) -> Place:
        """The sidecar to edit, or to make where none exists. Raises SidecarError outside of the library."""
        base = self._base(None if self.sidecar_dir is None else str(self.sidecar_dir))
        beside = self._mirrored(photo, base)
        existing = _existing(beside, photo)
        return Place(existing[0] if existing else beside + ".xmp", base)

    def others(self, photo: str) -> tuple[str, ...]:
        """Sidecars that are about the photo, too, but not the one we edit: their regions are respected.

        With a `sidecar_dir`: those beside the photo. Else the second one where both names exist.
        """
        if self.sidecar_dir is not None:
            return tuple(_existing(photo, photo))
        return tuple(_existing(photo, photo)[1:])

    def landmark_file(self, photo: str) -> Place:
        """The landmark file, whether it exists or not."""
        if self.landmarks != BESIDE:
            folder = self.landmarks
        else:
            folder = self.root if self.sidecar_dir is None else str(self.sidecar_dir)
        base = self._base(folder)
        return Place(self._mirrored(photo, base) + LANDMARK_SUFFIX, base)

    def _base(self, folder: str | None) -> str:
        return self.root if folder is None else os.path.abspath(folder)

    def _mirrored(self, photo: str, base: str) -> str:
        """The photo's path with `base` in the place of the library's root."""
        prefix = os.path.join(self.root, "")
        if not photo.startswith(prefix):
            raise SidecarError(f"{printable(photo)}: lies outside of the library {printable(self.root)}.")
        return os.path.join(base, photo[len(prefix) :])


def _existing(beside: str, photo: str) -> list[str]:
    """The sidecars that stand at `beside` (the photo's path, or its mirror), the one to edit first."""
    names = [f"{beside}.xmp", f"{beside}.XMP"]
    stem = os.path.splitext(beside)[0]
    found = [name for name in names if os.path.lexists(name)]
    short = [name for name in (f"{stem}.xmp", f"{stem}.XMP") if os.path.lexists(name)]
    return found + short if short and not _shares_stem(photo) else found


def _shares_stem(photo: str) -> bool:
    """Whether another picture of the same stem stands beside; `IMG.xmp` may be about that one."""
    stem, own = os.path.splitext(photo)
    spellings = (f".{spelled}" for ext in _STEM_SHARERS for spelled in (ext, ext.upper(), ext.title()))
    return any(extension != own and os.path.lexists(stem + extension) for extension in spellings)
