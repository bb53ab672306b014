"""One photo at the sizes that the passes and the landmark network ask for."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from PIL import Image as Pillow

from sidecar_faces.core.frames import Size
from sidecar_faces.core.types import Photo
from sidecar_faces.engine.base import Image


class Decode(Protocol):
    """A decoder; `engine.decode_pillow.decode` says what it promises."""

    def __call__(self, photo: Photo, /, *, long_side: int | None) -> Image: ...


class Pyramid:
    """Decodes a photo once, and again only where more pixels are asked for than it has so far.

    It may be given what is decoded already. Holds one image, at most a few times what was asked for last:
    memory does not grow with the photo.
    """

    def __init__(self, photo: Photo, decode: Decode, image: Image | None = None) -> None:
        self.photo = photo
        self._decode = decode
        self._image = image

    def at_least(self, long_side: int) -> Image:
        """The photo, upright, its longer side at least this long, or the photo's own where that is shorter.

        Raises PhotoFailedError or PhotoRefusedError.
        """
        displayed = self.photo.displayed
        needed = min(long_side, max(displayed.width, displayed.height))
        if self._image is None or max(self._image.shape[:2]) < needed:
            self._image = None  # never two of them at once
            self._image = self._decode(self.photo, long_side=long_side)
        return self._image

    def scaled(self, size: Size) -> Image:
        """The photo at exactly this size, averaged where it shrinks. Raises as `at_least`."""
        image = self.at_least(max(size.width, size.height))
        if image.shape[:2] == (size.height, size.width):
            return image
        resized = Pillow.fromarray(image).resize(
            (size.width, size.height), Pillow.Resampling.BILINEAR, reducing_gap=2.0
        )
        return np.asarray(resized)
