"""What a photo's header says: format by magic bytes, stored size, Exif orientation, and our limits.

Nothing is decoded here. The whole file is read only where its header allows many scans, to count
them (a 94 KB JPEG with 5,000 scans keeps a decoder busy for 13 seconds).
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from sidecar_faces.core.frames import Size
from sidecar_faces.core.types import FileSignature, ImageFormat, Photo
from sidecar_faces.errors import LibraryError, PhotoFailedError, PhotoRefusedError

ORIENTATION_TAG = 0x0112
_MAX_SEGMENTS = 10_000
_MAX_GARBAGE = 1 << 16
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
"""A marker within entropy-coded data that is neither a stuffed byte, a fill byte nor a restart."""
_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What we decode at most. Baseline JPEGs are decoded at a fraction of their size, others whole."""

    max_pixels_scaled: int = 500_000_000
    max_pixels_whole: int = 120_000_000
    max_scans: int = 100


@dataclass(frozen=True, slots=True)
class _Header:
    format: ImageFormat
    stored: Size
    orientation: int
    whole: bool
    """The decoder must hold every pixel (or coefficient) of it at once."""


def open_regular(path: str) -> BinaryIO:
    """Open a photo for reading; never blocks on a FIFO or device. Raises LibraryError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        what = "is a broken link" if os.path.islink(path) else "vanished before it was read"
        raise (PhotoRefusedError if os.path.islink(path) else PhotoFailedError)(what) from None
    except PermissionError:
        raise PhotoFailedError("may not be read (permission denied)") from None
    except OSError as error:
        raise PhotoFailedError(f"cannot be opened ({os.strerror(error.errno or 0)})") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise PhotoRefusedError("is not a regular file")
    return os.fdopen(fd, "rb")


def probe(path: str, limits: Limits) -> Photo:
    """Describe a photo by its header.

    Raises PhotoRefusedError (not a photo, or outside the limits) or PhotoFailedError (unreadable now);
    the message is a phrase that follows the photo's name.
    """
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        if status.st_size == 0:
            raise PhotoRefusedError("is empty")
        try:
            header = _read_header(file)
            _check_limits(header, limits)
            if header.format is ImageFormat.JPEG:
                _check_scans(file, limits)
        except LibraryError:
            raise
        except OSError as error:
            raise PhotoFailedError(f"cannot be read ({os.strerror(error.errno or 0)})") from None
    signature = FileSignature(status.st_size, status.st_mtime_ns)
    return Photo(path, signature, header.format, header.stored, header.orientation)


def _read_header(file: BinaryIO) -> _Header:
    magic = file.read(16)
    if magic.startswith(b"\xff\xd8\xff"):
        return _jpeg_header(file)
    if magic.startswith(b"\x89PNG\r\n\x1a\n"):
        return _pillow_header(file, ImageFormat.PNG)
    if magic[:4] == b"RIFF" and magic[8:12] == b"WEBP":
        return _pillow_header(file, ImageFormat.WEBP)
    if magic[:4] in (b"II*\0", b"MM\0*"):
        return _pillow_header(file, ImageFormat.TIFF)
    raise PhotoRefusedError(f"is not a photo that we read ({_describe(magic)})")


def _describe(magic: bytes) -> str:
    known = {b"AT&T": "it is a DjVu file", b"%PDF": "it is a PDF", b"GIF8": "it is a GIF"}
    if magic[4:8] == b"ftyp":
        return "it is a HEIC, AVIF or video file"
    if not magic.strip(b"\0"):
        return "it holds only zeros"
    return known.get(magic[:4], "neither JPEG, PNG, WebP nor TIFF")


def _pillow_header(file: BinaryIO, kind: ImageFormat) -> _Header:
    """Size and orientation by Pillow, which reads the headers of these formats lazily."""
    file.seek(0)
    try:
        with Image.open(file, formats=[kind.value]) as image:
            size = Size(*image.size)
            # Pillow's own method for PNG decodes the whole image to look for Exif behind it
            exif = Image.Image.getexif(image) if kind is ImageFormat.PNG else image.getexif()
            orientation = _valid_orientation(exif.get(ORIENTATION_TAG, 1))
            if kind is ImageFormat.TIFF and orientation >= 5:
                size = size.swapped()  # Pillow gives the size of an upright TIFF, and of no other format
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise PhotoRefusedError(f"has a header that cannot be read ({error.__class__.__name__})") from None
    except Exception as error:  # the header is untrusted, and Pillow raises many types
        raise PhotoRefusedError(f"has a header that cannot be read ({error})") from None
    return _Header(kind, size, orientation, whole=True)


def _valid_orientation(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _segments(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(marker, payload length) of each segment up to the first scan; the file stands at the payload."""
    file.seek(2)
    for _ in range(_MAX_SEGMENTS):
        marker = _next_marker(file)
        if marker in _STANDALONE:
            continue
        if marker == _EOI:
            raise PhotoRefusedError("is a JPEG without an image")
        raw = file.read(2)
        if len(raw) < 2:
            raise PhotoFailedError("is cut off in its header")
        length = int.from_bytes(raw, "big") - 2
        if length < 0:
            raise PhotoRefusedError("has a broken JPEG header")
        payload = file.tell()
        yield marker, length
        file.seek(payload + length)
        if marker == _SOS:
            return
    raise PhotoRefusedError("has a JPEG header with too many segments")


def _next_marker(file: BinaryIO) -> int:
    """The next marker's code; skips fill bytes and, as libjpeg does, some garbage between segments."""
    previous = b""
    for _ in range(_MAX_GARBAGE):
        current = file.read(1)
        if not current:
            raise PhotoFailedError("is cut off in its header")
        if previous == b"\xff" and current not in (b"\xff", b"\0"):
            return current[0]
        previous = current
    raise PhotoRefusedError("has a broken JPEG header")


def _jpeg_header(file: BinaryIO) -> _Header:
    size, orientation, kind = None, None, 0
    for marker, length in _segments(file):
        if marker in _SOF and size is None:
            raw = file.read(6)
            if len(raw) < 6:
                raise PhotoFailedError("is cut off in its header")
            _, height, width, _ = struct.unpack(">BHHB", raw)
            size, kind = Size(width, height), marker
        elif marker == _APP1 and orientation is None:
            orientation = _exif_orientation(file.read(length))
    if size is None:
        raise PhotoRefusedError("is a JPEG without an image")
    if not size.pixels:
        raise PhotoRefusedError(f"has no pixels ({size.width}x{size.height})")
    return _Header(ImageFormat.JPEG, size, orientation or 1, whole=kind in _PROGRESSIVE)


def _exif_orientation(payload: bytes) -> int | None:
    """Orientation of an Exif segment; None where the segment is not Exif, 1 where it is broken."""
    if not payload.startswith(b"Exif\0\0"):
        return None
    exif = Image.Exif()
    try:
        exif.load(payload)
        return _valid_orientation(exif.get(ORIENTATION_TAG, 1))
    except Exception:  # a broken Exif block is no reason to refuse the photo
        return 1


def _check_limits(header: _Header, limits: Limits) -> None:
    limit = limits.max_pixels_whole if header.whole else limits.max_pixels_scaled
    if header.stored.pixels > limit:
        size = header.stored
        raise PhotoRefusedError(
            f"is {size.width}x{size.height}, more than the limit of {limit // 1_000_000} megapixels"
        )


def _check_scans(file: BinaryIO, limits: Limits) -> None:
    """Count the scans of a JPEG whose header allows many, up to its end marker."""
    components, progressive = 0, False
    for marker, _ in _segments(file):
        if marker in _SOF:
            components, progressive = file.read(6)[5], marker in _PROGRESSIVE
        elif marker == _SOS:
            first = file.read(1)
            if not progressive and first and first[0] >= components:
                return  # sequential and interleaved: the one scan holds everything
    scans = 1
    while (found := _marker_after_scan(file)) not in (None, _EOI):  # what follows the end is not decoded
        scans += found == _SOS
        if scans > limits.max_scans:
            raise PhotoRefusedError(f"has more than {limits.max_scans} scans, which no camera writes")
        file.seek(max(int.from_bytes(file.read(2), "big") - 2, 0), os.SEEK_CUR)


def _marker_after_scan(file: BinaryIO) -> int | None:
    """The marker that ends entropy-coded data, the file standing behind it; None at the end of the file."""
    while block := file.read(_BLOCK):
        match = _SCAN_END.search(block)
        if match:
            file.seek(match.end() - len(block), os.SEEK_CUR)
            return block[match.end() - 1]
        if len(block) == _BLOCK and block.endswith(b"\xff"):
            file.seek(-1, os.SEEK_CUR)
    return None
