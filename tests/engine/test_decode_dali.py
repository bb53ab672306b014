"""DALI gives what Pillow gives, and no bad photo takes others with it; on a GPU where there is one."""

from __future__ import annotations

import io
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scripts.make_demo_library import save_oriented
from sidecar_faces.core.frames import Size
from sidecar_faces.core.types import Photo
from sidecar_faces.engine import decode_dali, decode_pillow
from sidecar_faces.engine.decode_dali import DaliDecoder, has_gpu
from sidecar_faces.engine.encoded import reduction, strip, upright
from sidecar_faces.errors import PhotoFailedError, PhotoRefusedError
from sidecar_faces.library.probe import Limits, probe
from tests.engine.conftest import MakePhoto, encoded
from tests.engine.test_decode import UPRIGHT, corners, quadrants

DEVICE = 0 if has_gpu() else None


@pytest.fixture(scope="module")
def decoder() -> DaliDecoder:
    return DaliDecoder(DEVICE)


def noisy(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with noise: scaling it wrongly shows."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def difference(a: Any, b: Any) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_orientation_and_format_comes_out_upright(
    tmp_path: Path, decoder: DaliDecoder, suffix: str, orientation: int
) -> None:
    path = tmp_path / f"x.{suffix}"
    save_oriented(quadrants(), path, orientation)
    photo = probe(str(path), Limits())
    (image,) = decoder.decode([photo], [96])
    assert isinstance(image, np.ndarray)
    assert image.shape == (64, 96, 3) and image.dtype == np.uint8
    assert corners(image) == UPRIGHT


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 2}, {"quality": 30}, {"optimize": True}], ids=str
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_pixels_are_those_of_pillow(
    photo: MakePhoto, decoder: DaliDecoder, mode: str, options: dict[str, Any]
) -> None:
    made, by_pillow = photo(noisy(320, 200).convert(mode), **options), decoder.fallbacks
    (image,) = decoder.decode([made], [320])
    assert isinstance(image, np.ndarray) and decoder.fallbacks == by_pillow
    assert difference(image, decode_pillow.decode(made, long_side=None)) < 2


def test_each_photo_of_a_batch_is_reduced_as_pillow_does(photo: MakePhoto, decoder: DaliDecoder) -> None:
    """Odd sizes, which leave squares that are filled in part at the border, included."""
    photos = [photo(noisy(400 + 333 * i, 301 + 7 * i, i), f"{i}.jpg") for i in range(11)]
    sides, by_pillow = [200, 100, 90, 1000, 640, 50, 333, 64, 10_000, 20, 150], decoder.fallbacks
    for made, side, image in zip(photos, sides, decoder.decode(photos, sides), strict=True):
        expected = decode_pillow.decode(made, long_side=side)
        assert isinstance(image, np.ndarray)
        assert image.shape == expected.shape
        inner = (slice(0, -1), slice(0, -1))
        assert difference(image[inner], expected[inner]) < 1.5
        ratio = reduction(made.stored, side)
        assert image.shape[:2] == (-(-made.stored.height // ratio), -(-made.stored.width // ratio))
    assert decoder.fallbacks == by_pillow


def test_a_decoder_that_cannot_decode_says_so(decoder: DaliDecoder) -> None:
    """Else every photo would quietly be left to Pillow."""
    assert decoder.refusal() == ""
    assert DaliDecoder(99).refusal()


@pytest.mark.skipif(has_gpu(), reason="for machines without a GPU")
def test_a_gpu_is_asked_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('code of the library was run')")
    monkeypatch.chdir(tmp_path)
    assert "CUDA is not available" in decode_dali.refusal()
    monkeypatch.setattr(decode_dali, "_ASK_S", 0.01)
    assert "within 0.01 s" in decode_dali.refusal()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "path", [])
    assert "No module named" in decode_dali.refusal()


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 4000))
def test_reductions_keep_the_longer_side_long_enough(width: int, height: int, side: int) -> None:
    factor = reduction(Size(width, height), side)
    longest = max(width, height)
    assert factor >= 1
    assert -(-longest // factor) >= min(side, longest)


def test_one_bad_photo_costs_nobody_else(photo: MakePhoto, portrait_jpeg: bytes) -> None:
    """Cut off, of another size than its header says, unknown to DALI, vanished, changed: beside good ones."""
    decoder = DaliDecoder(DEVICE, batch=8)
    good = [photo(noisy(320, 240, i), f"good-{i}.jpg") for i in range(6)]
    cut = photo(portrait_jpeg, "cut.jpg")
    Path(cut.path).write_bytes(portrait_jpeg[: len(portrait_jpeg) // 2])
    cut = probe(cut.path, Limits())
    gone = photo(noisy(320, 240), "gone.jpg")
    Path(gone.path).unlink()
    other = replace(photo(noisy(320, 240), "other.jpg"), stored=good[0].stored.swapped())
    png = photo(noisy(320, 240), "x.png")
    mixed = [*good[:3], cut, gone, other, png, *good[3:]]
    images = decoder.decode(mixed, [320] * len(mixed))
    kinds = [type(image) for image in images]
    assert kinds[:3] == kinds[7:] == [np.ndarray] * 3
    assert kinds[3:6] == [PhotoFailedError] * 3
    assert kinds[6] is np.ndarray
    assert "cut off" in str(images[3]) and "vanished" in str(images[4]) and "another size" in str(images[5])


def test_what_breaks_the_pipeline_is_found_by_bisection(photo: MakePhoto, portrait_jpeg: bytes) -> None:
    """Bytes that pass every look and that DALI still refuses: the quantization tables are missing."""
    start = portrait_jpeg.index(b"\xff\xdb")
    length = int.from_bytes(portrait_jpeg[start + 2 : start + 4], "big") + 2
    broken = portrait_jpeg[:start] + portrait_jpeg[start + length :]
    decoder = DaliDecoder(DEVICE, batch=16)
    photos = [photo(noisy(512, 512, i), f"{i}.jpg") for i in range(15)]
    photos.insert(9, photo(broken, "broken.jpg"))
    images = decoder.decode(photos, [512] * 16)
    assert [isinstance(image, np.ndarray) for image in images] == [i != 9 for i in range(16)]
    assert isinstance(images[9], PhotoFailedError)
    assert decoder.fallbacks == 1
    (again,) = decoder.decode([photos[0]], [512])  # the pipelines are usable afterwards
    assert isinstance(again, np.ndarray)


def test_damaged_photos_end_as_an_image_or_an_error_of_ours(photo: MakePhoto, portrait_jpeg: bytes) -> None:
    dice = random.Random(3)
    decoder = DaliDecoder(DEVICE)
    photos: list[Photo] = []
    for number in range(120):
        damaged = bytearray(portrait_jpeg)
        for _ in range(dice.randint(1, 12)):
            damaged[dice.randrange(2, len(damaged) - 2)] = dice.randrange(256)
        try:
            photos.append(photo(bytes(damaged), f"{number}.jpg"))
        except (PhotoFailedError, PhotoRefusedError):
            continue
    assert len(photos) > 60
    for image in decoder.decode(photos, [512] * len(photos)):
        assert isinstance(image, np.ndarray | PhotoFailedError | PhotoRefusedError)


def test_photos_too_large_for_a_whole_decode_go_to_pillow(
    photo: MakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_dali, "_WHOLE_PIXELS", 10_000)
    decoder = DaliDecoder(DEVICE)
    (image,) = decoder.decode([photo(noisy(400, 300))], [100])
    assert isinstance(image, np.ndarray) and image.shape[1] == 100
    assert decoder.fallbacks == 1


def test_pipelines_are_kept_by_shape_class_and_are_few(photo: MakePhoto) -> None:
    decoder = DaliDecoder(DEVICE)
    sizes = [(64, 64), (128, 128), (512, 512), (1024, 1024), (2048, 1024)]
    for number, size in enumerate(sizes):
        decoder.decode([photo(noisy(*size), f"{number}.jpg")], [64])
    assert len(decoder._pipelines) == decode_dali._PIPELINES
    kept = dict(decoder._pipelines)
    decoder.decode([photo(noisy(2000, 1000), "same-class.jpg")], [64])
    assert decoder._pipelines == kept


def test_memory_does_not_grow_with_failures(photo: MakePhoto, portrait_jpeg: bytes) -> None:
    start = portrait_jpeg.index(b"\xff\xdb")
    length = int.from_bytes(portrait_jpeg[start + 2 : start + 4], "big") + 2
    broken = photo(portrait_jpeg[:start] + portrait_jpeg[start + length :])
    decoder, process = DaliDecoder(DEVICE), psutil.Process()
    for _ in range(20):
        decoder.decode([broken], [512])
    before = process.memory_info().rss
    for _ in range(60):
        decoder.decode([broken], [512])
    assert process.memory_info().rss - before < 50 << 20


def test_stripping_keeps_pixels_and_orientation_and_drops_the_rest() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 900
    full = encoded(noisy(64, 48), exif=exif, comment=b"hello", icc_profile=b"p" * 500)
    for orientation in (1, 6):
        bare = strip(full, orientation)
        assert len(bare) < len(full) - 1400
        image = Image.open(io.BytesIO(bare))
        assert image.getexif().get(0x0112, 1) == orientation
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(full))))


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGB"])
def test_stripping_keeps_what_says_how_colours_are_coded(mode: str) -> None:
    full = encoded(noisy(64, 48).convert(mode))
    image, before = (Image.open(io.BytesIO(data)) for data in (strip(full), full))
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(image), np.asarray(before))


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\xff\xd8garbage", b"\xff\xd8\xff\xff\xff"]
)
def test_stripping_leaves_alone_what_it_cannot_follow(data: bytes) -> None:
    assert strip(data) == data


@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_turning_agrees_with_pillow(tmp_path: Path, orientation: int) -> None:
    stored = np.random.default_rng(1).integers(0, 255, (5, 7, 3), np.uint8)
    turned = decode_pillow._upright(Image.fromarray(stored), orientation)
    np.testing.assert_array_equal(upright(stored, orientation), np.asarray(turned))
