"""Decode photos by Pillow: JPEGs by libjpeg at a fraction of their size, everything upright and RGB."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image as Pillow

from sidecar_faces.core.frames import Size
from sidecar_faces.core.types import FileSignature, ImageFormat, Photo
from sidecar_faces.engine.base import Image
from sidecar_faces.errors import PhotoFailedError, PhotoRefusedError

# The probe has limited the number of pixels by its own rules (a scaled decode may be given far more), and an
# image whose size is not the one probed is not decoded.
Pillow.MAX_IMAGE_PIXELS = None

_UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
_EOI = b"\xff\xd9"
_SOS = 0xDA
_BLOCK = 1 << 20


def decode(photo: Photo, *, long_side: int | None) -> Image:
    """(height, width, 3) RGB, upright, uint8.

    With `long_side`, the image is reduced by a whole factor as long as its longer side stays at least that
    (pixels): it is less than twice `long_side`, or the photo's own size where that is smaller. Raises
    PhotoFailedError (unreadable, cut off, changed since it was probed) or PhotoRefusedError; the message is a
    phrase that follows the photo's name.
    """
    with opened(photo) as file:
        if photo.format is ImageFormat.JPEG and not has_end(file):
            raise PhotoFailedError("is cut off in its data")
        image = _decode(file, photo, long_side)
    upright = image if photo.format is ImageFormat.TIFF else _upright(image, photo.orientation)
    return np.asarray(upright)


@contextmanager
def opened(photo: Photo) -> Iterator[BinaryIO]:
    """The photo's file, which must be the one that was probed before and after it is read."""
    try:
        fd = os.open(photo.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise PhotoFailedError("vanished before it was read") from None
    except OSError as error:
        raise PhotoFailedError(f"cannot be opened ({os.strerror(error.errno or 0)})") from None
    with os.fdopen(fd, "rb") as file:
        _check_unchanged(fd, photo.signature)
        yield file
        _check_unchanged(fd, photo.signature)


def _check_unchanged(fd: int, signature: FileSignature) -> None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise PhotoRefusedError("is not a regular file")
    if FileSignature(status.st_size, status.st_mtime_ns) != signature:
        raise PhotoFailedError("changed while it was read")


def _decode(file: BinaryIO, photo: Photo, long_side: int | None) -> Pillow.Image:
    try:
        file.seek(0)
        with Pillow.open(file, formats=[photo.format.value]) as image:
            _check_size(image, photo)
            if long_side is not None:
                image.draft("RGB", _draft_size(image.size, long_side))
            image.load()
            return _reduced(_rgb(_reduced(image, long_side)), long_side)
    except (PhotoFailedError, PhotoRefusedError):
        raise
    except MemoryError:
        raise PhotoFailedError("needs more memory to decode than there is") from None
    except Exception as error:  # the data is untrusted, and Pillow raises many types
        if "truncated" in str(error):
            raise PhotoFailedError("is cut off in its data") from None
        raise PhotoFailedError(f"cannot be decoded ({error})") from None


def _check_size(image: Pillow.Image, photo: Photo) -> None:
    # Pillow turns TIFFs upright itself while it loads them, and gives their upright size from the start
    expected = photo.displayed if photo.format is ImageFormat.TIFF else photo.stored
    if Size(*image.size) != expected:
        raise PhotoFailedError("has another size than its header says")


def _draft_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """The smallest size to ask of libjpeg, which halves only while both sides stay above it."""
    width, height = size
    longest = max(size)
    return max(1, width * long_side // longest), max(1, height * long_side // longest)


def _reduced(image: Pillow.Image, long_side: int | None) -> Pillow.Image:
    """Averaged as far as asked, before anything copies it; palettes and 16 bits must become RGB first."""
    factor = max(image.size) // long_side if long_side else 1
    if factor < 2 or image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"):
        return image
    return image.reduce(factor)


def _rgb(image: Pillow.Image) -> Pillow.Image:
    """RGB of any mode: deep gray is scaled to 8 bits, what is transparent lies on white."""
    if image.mode.startswith("I;16"):
        image = Pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(min=0)
        image = Pillow.fromarray((values * (255 / max(values.max(), 1e-9))).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Pillow.new("RGBA", layer.size, "white")
        return Pillow.alpha_composite(ground, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Pillow.Image, orientation: int) -> Pillow.Image:
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def has_end(file: BinaryIO) -> bool:
    """Whether a JPEG's compressed data ends by its marker; cut off or padded with zeros, it does not.

    libjpeg decodes zeros without complaint. Inside compressed data the marker's two bytes cannot occur;
    whatever follows it (a second image, a padding, garbage) is not looked at.
    """
    file.seek(-2, os.SEEK_END)
    if file.read(2) == _EOI:
        return True
    if not _skip_header(file):
        return False
    last = b""
    while block := file.read(_BLOCK):
        if _EOI in last + block:
            return True
        last = block[-1:]
    return False


def _skip_header(file: BinaryIO) -> bool:
    """Move to the compressed data, past the thumbnails of the header; False where there is none."""
    file.seek(2)
    while marker := file.read(2):
        if marker == b"\xff\xff":
            file.seek(-1, os.SEEK_CUR)  # a fill byte
        elif marker[0] != 0xFF:
            file.seek(-1, os.SEEK_CUR)  # garbage, which libjpeg skips too
        else:
            length = int.from_bytes(file.read(2), "big")
            if marker[1] == _SOS:
                return True
            file.seek(max(length - 2, 0), os.SEEK_CUR)
    return False
