"""Whether a photo file ends as its format ends, so that a copy in progress is told from a finished file."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from sidecar_faces.core.settle import End
from sidecar_faces.errors import LibraryError
from sidecar_faces.library.probe import open_regular

_SOS = 0xDA
_HEAD = 16
_MAX_SEGMENTS = 10_000
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def end_of(path: str) -> End:
    """Look for the end marker of a file; reads a few bytes of most, the whole of a JPEG with a trailer.

    UNKNOWN too for what is no photo or cannot be read: waiting for it longer would not help.
    """
    try:
        with open_regular(path) as file:
            return _end_of(file)
    except (LibraryError, OSError):
        return End.UNKNOWN


def _end_of(file: BinaryIO) -> End:
    size = os.fstat(file.fileno()).st_size
    if _has_hole(file, size):  # sized in advance, and not yet filled
        return End.MISSING
    file.seek(0)
    magic = file.read(_HEAD)
    if not magic.strip(b"\0"):
        return End.MISSING
    if magic.startswith(b"\xff\xd8\xff"):
        return _jpeg_end(file, size)
    if magic.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_end(file)
    if magic.startswith(b"RIFF") and magic[8:12] == b"WEBP":
        return End.SEEN if size >= 8 + struct.unpack_from("<I", magic, 4)[0] else End.MISSING
    return End.UNKNOWN


def _has_hole(file: BinaryIO, size: int) -> bool:
    try:
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) < size
    except OSError:  # a file system that cannot tell
        return False


def _jpeg_end(file: BinaryIO, size: int) -> End:
    """Behind the start of the scan: entropy-coded data cannot hold FF D9, so the first one is the end."""
    scan = _scan_start(file, size)
    if scan is None:
        return End.MISSING
    if size >= scan + 2:
        file.seek(size - 2)
        if file.read(2) == b"\xff\xd9":
            return End.SEEN
    return End.UNKNOWN if _holds_end(file, scan) else End.MISSING


def _scan_start(file: BinaryIO, size: int) -> int | None:
    """Where the first scan's data starts; None where the file ends before that."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        file.seek(position)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF:
            return None
        if head[1] == 0xFF:  # a fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(head[2:], "big")
        if head[1] == _SOS:
            return position if position <= size else None
    return None


def _holds_end(file: BinaryIO, start: int) -> bool:
    """Whether the marker stands before a trailer: more may follow it, so the file gets more time."""
    file.seek(start)
    last = b""
    while block := file.read(1 << 20):
        if b"\xff\xd9" in last + block:
            return True
        last = block[-1:]
    return False


def _png_end(file: BinaryIO) -> End:
    """IEND may be followed by something; 4 KB of it are enough for what cameras and phones append."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4096))
    return End.SEEN if _PNG_END in file.read() else End.MISSING
