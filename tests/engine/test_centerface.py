"""CenterFace: its decoder against a slow one, its input, and the real network on real photos."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sidecar_faces.engine.base import Detections, EngineSettings, ModelSpec, TensorSpec
from sidecar_faces.engine.centerface import SPEC, CenterFace, decode, tensor
from sidecar_faces.engine.onnx import Session, check, fingerprint
from sidecar_faces.errors import ModelError


def overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / area


def decode_slowly(
    heat: np.ndarray, scale: np.ndarray, offset: np.ndarray, points: np.ndarray, min_score: float
) -> list[tuple[float, list[float], list[tuple[float, float]]]]:
    """Cell by cell, one number at a time: score, box, points."""
    candidates = []
    for y in range(heat.shape[0]):
        for x in range(heat.shape[1]):
            if heat[y, x] < min_score:
                continue
            height, width = math.exp(scale[0, y, x]) * 4, math.exp(scale[1, y, x]) * 4
            left = (x + offset[1, y, x] + 0.5) * 4 - width / 2
            top = (y + offset[0, y, x] + 0.5) * 4 - height / 2
            marks = [
                (left + points[2 * i + 1, y, x] * width, top + points[2 * i, y, x] * height) for i in range(5)
            ]
            candidates.append((float(heat[y, x]), [left, top, left + width, top + height], marks))
    candidates.sort(key=lambda candidate: -candidate[0])
    kept: list[tuple[float, list[float], list[tuple[float, float]]]] = []
    for candidate in candidates:
        if all(overlap(candidate[1], other[1]) <= 0.3 for other in kept):
            kept.append(candidate)
    return kept


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.floats(0.3, 0.95))
def test_decoding_agrees_with_the_slow_reference(
    seed: int, height: int, width: int, min_score: float
) -> None:
    rng = np.random.default_rng(seed)
    heat = rng.permutation(np.linspace(0, 1, height * width)).reshape(height, width).astype(np.float32)
    scale = rng.normal(1, 0.8, (2, height, width)).astype(np.float32)
    offset = rng.normal(0, 0.5, (2, height, width)).astype(np.float32)
    points = rng.normal(0.5, 0.3, (10, height, width)).astype(np.float32)
    found = decode(heat, scale, offset, points, min_score)
    expected = decode_slowly(heat, scale, offset, points, float(np.float32(min_score)))
    assert np.allclose(found.scores, [score for score, _, _ in expected])
    assert np.allclose(found.boxes, np.reshape([box for _, box, _ in expected], (-1, 4)), atol=1e-3)
    assert np.allclose(found.points, np.reshape([marks for _, _, marks in expected], (-1, 5, 2)), atol=1e-3)


def test_an_image_that_is_a_face_everywhere_costs_a_bounded_time() -> None:
    side = 160
    fields = np.zeros((10, side, side), np.float32)
    found = decode(np.ones((side, side), np.float32), fields[:2] - 5, fields[:2], fields, 0.5)
    assert len(found.scores) == 2000
    cell = np.zeros((10, 1, 1), np.float32)
    endless = decode(np.ones((1, 1), np.float32), cell[:2] + 1e9, cell[:2], cell, 0.5)
    assert np.isfinite(endless.boxes).all()


def test_the_tensor_is_padded_at_the_right_and_below() -> None:
    image = np.arange(40 * 33 * 3, dtype=np.uint8).reshape(40, 33, 3)
    made = tensor(image)
    assert made.shape == (1, 3, 64, 64)
    assert made.dtype == np.float32
    assert (made[0, :, :40, :33].transpose(1, 2, 0) == image).all()
    assert made[0, :, 40:].max() == made[0, :, :, 33:].max() == 0


@pytest.fixture(scope="module")
def detector(engine: EngineSettings) -> CenterFace:
    path = f"{engine.models}/centerface.onnx"
    return CenterFace(Session(path, SPEC), fingerprint(path), 0.5)


def find(detector: CenterFace, image: Image.Image) -> Detections:
    (found,) = detector.detect([np.asarray(image)])
    return found


def test_the_portrait_has_one_face_with_its_points_where_they_belong(
    detector: CenterFace, portrait: Image.Image
) -> None:
    found = find(detector, portrait)
    assert len(found.scores) == 1
    assert found.scores[0] > 0.7
    left, top, right, bottom = found.boxes[0]
    assert 160 < left < 190 < 250 < right < 290
    assert 50 < top < 90 < 170 < bottom < 220
    left_eye, right_eye, nose, left_mouth, right_mouth = found.points[0]
    assert left < left_eye[0] < nose[0] < right_eye[0] < right
    assert left_mouth[0] < right_mouth[0]
    assert top < left_eye[1] < nose[1] < left_mouth[1] < bottom


def test_where_the_face_lies_in_the_image_does_not_matter(
    detector: CenterFace, portrait: Image.Image
) -> None:
    alone = find(detector, portrait).boxes[0]
    canvas = Image.new("RGB", (900, 700))
    canvas.paste(portrait, (320, 160))
    moved = find(detector, canvas).boxes[0]
    assert np.abs(moved - alone - [320, 160, 320, 160]).max() < 4


def test_several_images_at_once(detector: CenterFace, portrait: Image.Image) -> None:
    image, blank = np.asarray(portrait), np.zeros((512, 512, 3), np.uint8)
    first, second, third = detector.detect([image, blank, image])
    assert len(second.scores) == 0
    assert second.points.shape == (0, 5, 2)
    assert (first.boxes == third.boxes).all()


@pytest.mark.parametrize("size", [(1, 1), (2240, 1), (31, 33)])
def test_odd_sizes(detector: CenterFace, size: tuple[int, int]) -> None:
    assert len(find(detector, Image.new("RGB", size)).scores) == 0


def test_a_model_that_is_absent_or_is_none(tmp_path: object) -> None:
    with pytest.raises(ModelError, match="sidecar-faces models install"):
        Session(f"{tmp_path}/absent.onnx", SPEC)
    with pytest.raises(ModelError, match="not installed"):
        fingerprint(f"{tmp_path}/absent.onnx")
    with open(f"{tmp_path}/text.onnx", "w", encoding="ascii") as file:
        file.write("text")
    with pytest.raises(ModelError, match="is not a model that ONNX Runtime can load"):
        Session(f"{tmp_path}/text.onnx", SPEC)


def test_a_model_with_another_interface(engine: EngineSettings) -> None:
    other = ModelSpec("facenet", (TensorSpec("input_1", "float32", (-1, 3, 416, 736)),), ())
    with pytest.raises(ModelError, match="has no tensor 'input_1'"):
        Session(f"{engine.models}/centerface.onnx", other)
    gray = ModelSpec("gray", (TensorSpec("input.1", "float32", (-1, 1, -1, -1)),), ())
    with pytest.raises(ModelError, match=r"'input.1' is float32 \[-1, 3, -1, -1\] and not float32 \[-1, 1"):
        check(gray, SPEC, "here")
    check(SPEC, SPEC, "here")
