"""Encoded photos and decoded images: JPEGs without metadata, how far to reduce, and turning upright."""

from __future__ import annotations

import functools
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from sidecar_faces.core.frames import Size
from sidecar_faces.engine.base import Image

_SOI, _APP0, _APP14, _COM, _SOS = b"\xff\xd8", 0xE0, 0xEE, 0xFE, 0xDA
_EXIF = b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00%c\0\0\0\0\0\0"


@functools.cache
def tiny_photo() -> NDArray[np.uint8]:
    """(n,) bytes of a gray JPEG, for asking whether somebody can decode one."""
    buffer = io.BytesIO()
    Pillow.new("RGB", (32, 32), "gray").save(buffer, "JPEG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def strip(jpeg: bytes, orientation: int = 1) -> bytes:
    """A JPEG without comments and application data, Exif that crashes decoders included; the pixels are the
    same.

    JFIF and Adobe segments stay: they say how the colours are coded. An `orientation` other than 1 is written
    into a minimal Exif block. Data whose header cannot be followed is returned as it is.
    """
    kept = [_SOI]
    if orientation != 1:
        kept.append(_EXIF % orientation)
    position = 2
    while position + 4 <= len(jpeg) and jpeg[position] == 0xFF:
        marker = jpeg[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if marker == _SOS:
            return b"".join([*kept, jpeg[position:]])
        if not (_APP0 < marker < 0xF0 and marker != _APP14) and marker != _COM:
            kept.append(jpeg[position:end])
        position = end
    return jpeg


def upright(image: Image, orientation: int) -> Image:
    """The image as a viewer shows it, given its Exif orientation; the same memory where that will do."""
    flat = image.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else image
    if orientation in (2, 3, 6, 7):
        flat = flat[:, ::-1]
    if orientation in (3, 4, 7, 8):
        flat = flat[::-1]
    return np.ascontiguousarray(flat)


def reduction(size: Size, long_side: int) -> int:
    """By how much a scaled decode reduces an image of this size so that its longer side is at least
    `long_side`.

    As `decode_pillow.decode` does: first what libjpeg can (2, 4 or 8), then what is left by a whole factor.
    """
    longest = max(size.width, size.height)
    least = (max(1, size.width * long_side // longest), max(1, size.height * long_side // longest))
    room = min(size.width // least[0], size.height // least[1])
    scale = next((scale for scale in (8, 4, 2) if room >= scale), 1)
    return scale * max(1, -(-longest // scale) // long_side)
