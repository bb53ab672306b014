"""Decoding: every kind of photo upright and RGB, scaled where asked, and clear words where it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from scripts.make_demo_library import save_oriented
from sidecar_faces.core.frames import Size
from sidecar_faces.core.types import FileSignature, ImageFormat
from sidecar_faces.engine.decode_pillow import decode
from sidecar_faces.errors import LibraryError, PhotoFailedError, PhotoRefusedError
from sidecar_faces.library.probe import ORIENTATION_TAG, Limits, probe
from tests.engine.conftest import MakePhoto, encoded


def quadrants(width: int = 96, height: int = 64) -> Image.Image:
    """Red, green, blue and yellow, from the top left by rows: any turn shows."""
    image = Image.new("RGB", (width, height), (220, 30, 30))
    draw = ImageDraw.Draw(image)
    draw.rectangle((width // 2, 0, width, height // 2 - 1), (30, 200, 30))
    draw.rectangle((0, height // 2, width // 2 - 1, height), (30, 30, 220))
    draw.rectangle((width // 2, height // 2, width, height), (230, 220, 30))
    return image


def corners(image: np.ndarray) -> list[list[int]]:
    """The colours in the middle of each quadrant, coarsely: 1 where a channel is bright."""
    height, width = image.shape[:2]
    places = [(height // 4, width // 4), (height // 4, 3 * width // 4)]
    places += [(3 * height // 4, width // 4), (3 * height // 4, 3 * width // 4)]
    return [(image[y, x] > 128).astype(int).tolist() for y, x in places]


UPRIGHT = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_orientation_comes_out_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"x.{suffix}"
    save_oriented(quadrants(), path, orientation)
    photo = probe(str(path), Limits())
    image = decode(photo, long_side=None)
    assert photo.orientation == orientation
    assert image.shape == (64, 96, 3)
    assert image.dtype == np.uint8
    assert corners(image) == UPRIGHT


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_does_not_exist_is_upright(photo: MakePhoto, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    assert corners(decode(photo(quadrants(), exif=exif), long_side=None)) == UPRIGHT


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("long_side", [None, 40])
def test_jpeg_modes(photo: MakePhoto, mode: str, progressive: bool, long_side: int | None) -> None:
    made = photo(quadrants(320, 200).convert(mode), progressive=progressive)
    image = decode(made, long_side=long_side)
    assert image.shape == ((200, 320, 3) if long_side is None else (25, 40, 3))
    if mode == "L":
        assert (image[..., 0] == image[..., 1]).all()
        assert image[2, -3].mean() > image[2, 2].mean()  # green is lighter than red
    else:
        assert corners(image) == UPRIGHT


def deep_gray() -> Image.Image:
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    return Image.fromarray(ramp)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (deep_gray(), "deep.png"),
        (deep_gray(), "deep.tif"),
        (Image.fromarray(np.asarray(deep_gray()).astype(np.int32)), "int.tif"),
        (Image.fromarray(np.asarray(deep_gray()).astype(np.float32) / 65535), "float.tif"),
    ],
)
def test_deep_gray_keeps_its_shades(photo: MakePhoto, image: Image.Image, name: str) -> None:
    decoded = decode(photo(image, name), long_side=None)
    assert decoded.shape == (48, 64, 3)
    assert decoded[0, 0].tolist() == [0, 0, 0]
    assert decoded[-1, -1].min() >= 254
    assert abs(int(decoded[24, 0, 0]) - 128) <= 3


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("P", "x.png"),
        ("1", "x.png"),
        ("LA", "x.png"),
        ("RGBA", "x.png"),
        ("RGBA", "x.webp"),
        ("CMYK", "x.tif"),
    ],
)
def test_other_modes(photo: MakePhoto, mode: str, name: str) -> None:
    decoded = decode(photo(quadrants().convert(mode), name), long_side=None)
    assert decoded.shape == (64, 96, 3)
    if mode in ("P", "RGBA", "CMYK"):
        assert corners(decoded) == UPRIGHT


def test_what_is_transparent_lies_on_white(photo: MakePhoto) -> None:
    image = quadrants().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 48, 32))
    decoded = decode(photo(image, "x.png"), long_side=None)
    assert corners(decoded) == [[1, 1, 1], *UPRIGHT[1:]]
    palette = quadrants().convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert corners(decode(photo(palette, "p.png"), long_side=None)) == [[1, 1, 1], *UPRIGHT[1:]]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 900), st.sampled_from(["jpg", "png"]))
def test_scaled_as_far_as_asked_and_no_further(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, long_side: int, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"scaled.{suffix}"
    Image.new("RGB", (width, height)).save(path)
    image = decode(probe(str(path), Limits()), long_side=long_side)
    longest = max(width, height)
    scaled = max(image.shape[:2])
    assert scaled >= min(long_side, longest)
    assert scaled == longest or scaled < 2 * long_side
    assert (
        abs(image.shape[0] / height - image.shape[1] / width) * min(width, height) <= 1
    )  # rounded up at most


def test_the_scaled_image_shows_the_same(photo: MakePhoto, portrait: Image.Image) -> None:
    made = photo(portrait.resize((2000, 2000)), quality=95)
    whole, scaled = decode(made, long_side=None), decode(made, long_side=500)
    assert scaled.shape == (500, 500, 3)
    reduced = np.asarray(Image.fromarray(whole).resize((500, 500), Image.Resampling.BOX))
    assert np.abs(reduced.astype(int) - scaled).mean() < 2


def test_a_huge_photo_is_decoded_in_little_memory(photo: MakePhoto) -> None:
    made = photo(Image.new("RGB", (16000, 12000), (100, 100, 100)))
    assert made.stored.pixels == 192_000_000  # more than Pillow itself would open
    program = (
        "import sys\n"
        "from sidecar_faces.engine.decode_pillow import decode\n"
        "from sidecar_faces.library.probe import Limits, probe\n"
        "print(*decode(probe(sys.argv[1], Limits()), long_side=2000).shape)\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", program, made.path]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert output[:3] == ["1500", "2000", "3"]
    assert int(output[3]) < 150_000  # KiB; decoded whole, it would take 576 MB


@pytest.mark.parametrize("size", [(1, 1), (65500, 1), (1, 65500), (3, 2)])
def test_odd_sizes(photo: MakePhoto, size: tuple[int, int]) -> None:
    image = decode(photo(Image.new("RGB", size)), long_side=640)
    assert min(image.shape[:2]) >= 1


def noise(progressive: bool = False) -> bytes:
    image = Image.merge("RGB", [Image.effect_noise((1200, 900), 60)] * 3)
    return encoded(image, quality=90, progressive=progressive)


@pytest.mark.parametrize("long_side", [None, 300])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("padding", [0, 100, 5_000_000])
def test_cut_off_or_padded_with_zeros_is_a_failure(
    photo: MakePhoto, padding: int, share: float, progressive: bool, long_side: int | None
) -> None:
    data = noise(progressive)
    made = photo(data[: int(len(data) * share)] + bytes(padding))
    with pytest.raises(PhotoFailedError, match="is cut off in its data"):
        decode(made, long_side=long_side)


def test_a_thumbnail_with_an_end_does_not_hide_that_the_photo_has_none(photo: MakePhoto) -> None:
    thumbnail = encoded(Image.new("RGB", (16, 16)))
    data = noise()
    segment = b"\xff\xe2" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    with_thumbnail = data[:2] + segment + data[2:]
    assert decode(photo(with_thumbnail), long_side=None).shape == (900, 1200, 3)
    with pytest.raises(PhotoFailedError, match="cut off"):
        decode(photo(with_thumbnail[: len(data) // 2] + bytes(len(data) * 4)), long_side=None)


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"garbage" * 1000, b"\xff\xd8\xff\xe0 half a second image"])
def test_what_follows_the_end_does_not_matter(photo: MakePhoto, tail: bytes) -> None:
    assert decode(photo(noise() + tail), long_side=None).shape == (900, 1200, 3)


def test_fill_bytes_and_garbage_in_the_header_are_skipped(photo: MakePhoto) -> None:
    data = noise()
    odd = data[:2] + b"\xff\xff\xff" + data[2:] + b"tail"
    assert decode(photo(odd), long_side=None).shape == (900, 1200, 3)


def test_a_cut_png_is_a_failure(photo: MakePhoto) -> None:
    made = photo(Image.effect_noise((300, 300), 50), "x.png")
    os.truncate(made.path, 20_000)
    status = os.stat(made.path)
    cut = replace(made, signature=FileSignature(status.st_size, status.st_mtime_ns))
    with pytest.raises(PhotoFailedError, match=r"cut off|cannot be decoded"):
        decode(cut, long_side=None)


def test_a_photo_that_changed_since_it_was_probed(photo: MakePhoto) -> None:
    made = photo(quadrants())
    os.utime(made.path, ns=(1, 1))
    with pytest.raises(PhotoFailedError, match="changed while it was read"):
        decode(made, long_side=None)
    os.unlink(made.path)
    with pytest.raises(PhotoFailedError, match="vanished"):
        decode(made, long_side=None)


def test_a_photo_that_became_something_else(photo: MakePhoto) -> None:
    made = photo(quadrants())
    os.unlink(made.path)
    os.mkfifo(made.path)
    with pytest.raises(PhotoRefusedError, match="not a regular file"):
        decode(made, long_side=None)
    os.unlink(made.path)
    os.symlink(made.path, made.path)
    with pytest.raises(PhotoFailedError, match="cannot be opened"):
        decode(made, long_side=None)


def test_a_size_or_format_that_differs_from_the_probe(photo: MakePhoto) -> None:
    made = photo(quadrants())
    with pytest.raises(PhotoFailedError, match="another size"):
        decode(replace(made, stored=Size(5, 5)), long_side=None)
    with pytest.raises(PhotoFailedError, match="cannot be decoded"):
        decode(replace(made, format=ImageFormat.PNG), long_side=None)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_photos_raise_only_our_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    suffix = data.draw(st.sampled_from(["jpg", "png", "webp", "tif"]))
    raw = bytearray(encoded(quadrants(), {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix)))
    for _ in range(data.draw(st.integers(1, 12))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutant.jpg"
    path.write_bytes(raw)
    try:
        photo = probe(str(path), Limits())
        image = decode(photo, long_side=50)
    except LibraryError:
        return
    assert image.ndim == 3
    assert image.dtype == np.uint8
