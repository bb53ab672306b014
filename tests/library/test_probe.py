"""Headers: sizes, orientations, refusals; nothing here is decoded."""

from __future__ import annotations

import io
import os
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sidecar_faces.core.frames import Size
from sidecar_faces.core.types import ImageFormat
from sidecar_faces.errors import LibraryError, PhotoFailedError, PhotoRefusedError
from sidecar_faces.library.probe import ORIENTATION_TAG, Limits, probe


def jpeg(size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (90, 120, 150)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def scan_bomb(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = jpeg(progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


def with_size(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def write(folder: Path, data: bytes, name: str = "x.jpg") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("orientation", range(10))
def test_orientation_is_read_and_anything_else_is_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    photo = probe(write(tmp_path, jpeg(exif=exif)), Limits())
    assert photo.stored == Size(64, 48)
    assert photo.orientation == (orientation if 1 <= orientation <= 8 else 1)
    assert photo.displayed == (Size(48, 64) if orientation in (5, 6, 7, 8) else Size(64, 48))


def test_a_broken_exif_block_does_not_refuse_the_photo(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    data = bytearray(jpeg(exif=exif))
    at = data.index(b"Exif\0\0") + 6
    data[at : at + 12] = b"\xff" * 12
    assert probe(write(tmp_path, bytes(data)), Limits()).orientation == 1


@pytest.mark.parametrize(
    ("suffix", "kind"), [("png", ImageFormat.PNG), ("webp", ImageFormat.WEBP), ("tiff", ImageFormat.TIFF)]
)
def test_other_formats_by_their_content(tmp_path: Path, suffix: str, kind: ImageFormat) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 8
    Image.new("RGB", (30, 20)).save(buffer, suffix, exif=exif)
    photo = probe(write(tmp_path, buffer.getvalue(), "named.jpg"), Limits())
    assert (photo.format, photo.stored, photo.orientation) == (kind, Size(30, 20), 8)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"hello, this is a text file", "neither JPEG"),
        (b"AT&TFORM\0\0\0\0DJVU", "DjVu"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "HEIC"),
        (b"\0" * 4096, "only zeros"),
        (b"\xff\xd8\xff\xd9", "without an image"),
        (b"\xff\xd8\xff" + b"\xff\0" * 100_000, "broken JPEG header"),
        (with_size(jpeg(), 65500, 65500), "more than the limit of 500 megapixels"),
        (with_size(jpeg(), 0, 20), "has no pixels"),
        (scan_bomb(5000), "more than 100 scans"),
    ],
)
def test_refused_with_the_reason(tmp_path: Path, data: bytes, said: str) -> None:
    path = write(tmp_path, data)
    started = time.perf_counter()
    with pytest.raises(PhotoRefusedError, match=said):
        probe(path, Limits())
    assert time.perf_counter() - started < 0.5  # the promise is 50 ms; CI machines stall


def test_a_truncated_header_may_be_a_copy_under_way(tmp_path: Path) -> None:
    data = jpeg()
    for length in (4, 21, data.index(b"\xff\xc0") + 6):
        with pytest.raises(PhotoFailedError, match="cut off in its header"):
            probe(write(tmp_path, data[:length]), Limits())


def test_progressive_of_a_camera_passes(tmp_path: Path) -> None:
    assert probe(write(tmp_path, jpeg((4000, 10), progressive=True)), Limits()).stored == Size(4000, 10)


def test_a_video_behind_a_progressive_photo_is_not_counted(tmp_path: Path) -> None:
    motion = jpeg((4000, 10), progressive=True) + b"\xff\xda" * 1000
    assert probe(write(tmp_path, motion), Limits()).stored == Size(4000, 10)


def test_odd_sizes_pass(tmp_path: Path) -> None:
    for size in ((1, 1), (65500, 1), (1, 65500)):
        assert probe(write(tmp_path, jpeg(size)), Limits()).stored == Size(*size)


def test_what_is_not_a_regular_file_is_refused_without_blocking(tmp_path: Path) -> None:
    fifo, link, folder = tmp_path / "fifo.jpg", tmp_path / "link.jpg", tmp_path / "folder.jpg"
    os.mkfifo(fifo)
    link.symlink_to("nowhere.jpg")
    folder.mkdir()
    for path, said in ((fifo, "not a regular"), (link, "broken link"), (folder, "not a regular")):
        with pytest.raises(PhotoRefusedError, match=said):
            probe(str(path), Limits())


def test_a_photo_that_vanished(tmp_path: Path) -> None:
    with pytest.raises(PhotoFailedError, match="vanished"):
        probe(str(tmp_path / "gone.jpg"), Limits())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_headers_raise_only_our_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(jpeg(progressive=data.draw(st.booleans()), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"))
    for _ in range(data.draw(st.integers(1, 12))):
        raw[data.draw(st.integers(0, min(700, len(raw) - 1)))] = data.draw(st.integers(0, 255))
    path = write(tmp_path_factory.getbasetemp(), bytes(raw), "mutant.jpg")
    try:
        photo = probe(path, Limits())
    except LibraryError:
        return
    assert photo.stored.pixels > 0
    assert 1 <= photo.orientation <= 8
