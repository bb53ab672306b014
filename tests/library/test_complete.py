"""Copies in progress are told from finished files, at every byte."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from sidecar_faces.core.settle import End
from sidecar_faces.library.complete import end_of


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_thumbnail(portrait: Image.Image) -> bytes:
    """A JPEG whose Exif block ends with a thumbnail: its FF D9 is the first in the file."""
    thumbnail = encoded(portrait.resize((80, 80)), "JPEG")
    block = b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\0\0\0\0\0" + thumbnail
    photo = encoded(portrait.resize((96, 96)), "JPEG")
    return photo[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + photo[2:]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "photo.jpg"


@pytest.mark.parametrize("kind", ["thumbnail", "progressive", "PNG", "WEBP"])
def test_every_beginning_of_a_photo_is_incomplete(file: Path, portrait: Image.Image, kind: str) -> None:
    small = portrait.resize((64, 64))
    whole = {
        "thumbnail": with_thumbnail(portrait),
        "progressive": encoded(small, "JPEG", progressive=True),
        "PNG": encoded(small, "PNG"),
        "WEBP": encoded(small, "WEBP"),
    }[kind]
    for length in [*range(16, len(whole) - 1, 7), len(whole) - 1]:
        file.write_bytes(whole[:length])
        assert end_of(str(file)) is End.MISSING, length
    file.write_bytes(whole)
    assert end_of(str(file)) is End.SEEN


def test_a_file_sized_in_advance_is_incomplete(file: Path, portrait_jpeg: bytes) -> None:
    with open(file, "wb") as target:
        target.truncate(len(portrait_jpeg))
        assert end_of(str(file)) is End.MISSING  # all hole
        target.write(portrait_jpeg[:9000])
        target.seek(-4096, os.SEEK_END)
        target.write(portrait_jpeg[-4096:])  # its end before its middle, as some network clients write
    assert end_of(str(file)) is End.MISSING
    file.write_bytes(portrait_jpeg[:9000] + bytes(len(portrait_jpeg) - 9000))
    assert end_of(str(file)) is End.MISSING  # zeros that are really written


def test_something_behind_the_end_asks_for_more_time(file: Path, portrait_jpeg: bytes) -> None:
    file.write_bytes(portrait_jpeg + b"a film that belongs to the photo")
    assert end_of(str(file)) is End.UNKNOWN
    file.write_bytes(portrait_jpeg[:2] + b"\xff\xff" + portrait_jpeg[2:])  # fill bytes are no damage
    assert end_of(str(file)) is End.SEEN


def test_what_has_no_end_marker(file: Path, tmp_path: Path, portrait: Image.Image) -> None:
    portrait.save(file, "TIFF")
    assert end_of(str(file)) is End.UNKNOWN
    file.write_bytes(b"only text, named as a photo")
    assert end_of(str(file)) is End.UNKNOWN
    assert end_of(str(tmp_path / "absent.jpg")) is End.UNKNOWN
    assert end_of(str(tmp_path)) is End.UNKNOWN
    file.write_bytes(b"")
    assert end_of(str(file)) is End.MISSING
    file.write_bytes(b"\xff\xd8\xff\xe0\0\x04ab" + b"\0\0\0\0")  # no marker where one must stand
    assert end_of(str(file)) is End.MISSING
