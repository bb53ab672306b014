"""The landmark network: its interface, its crops, and its points on a real face."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scripts.make_demo_library import save_oriented
from sidecar_faces.cli.engines import engine_settings
from sidecar_faces.config import load
from sidecar_faces.core.frames import StoredPoints, to_displayed_points
from sidecar_faces.core.landmarks import LAYOUTS
from sidecar_faces.core.types import Batch, Face, Photo
from sidecar_faces.engine import fpenet
from sidecar_faces.engine.base import Detections, EngineSettings, Keypoints
from sidecar_faces.engine.detectors import open_detector
from sidecar_faces.engine.fpenet import CROP, Crop, Fpenet, confidence, cut, fit, level, open_estimator, place
from sidecar_faces.engine.worker import LocalWorker, worker_fingerprint
from sidecar_faces.errors import ModelError
from sidecar_faces.library.probe import Limits, probe
from sidecar_faces.models import require

EYES, MOUTH, NOSE_TIP = (range(36, 42), range(42, 48)), range(48, 68), 30
UPRIGHT = np.empty((0, 2))


Detect = Callable[[Image.Image], Detections]


@pytest.fixture(scope="module")
def detect(settings: EngineSettings) -> Detect:
    detector = open_detector(settings)
    return lambda image: detector.detect([np.asarray(image)])[0]


def weights(points: int) -> Path:
    return require(Path(), "fpenet").with_name(f"fpenet{points}.onnx")


def best(estimator: Fpenet, image: Image.Image, found: Detections, points: Any = None) -> Keypoints:
    """The keypoints of the best detection; `points` replaces the detector's."""
    five = found.points[0] if points is None else points
    return estimator.estimate(np.asarray(image), found.boxes[:1], five[None])[0]


def run(points: int, crops: Any) -> dict[str, Any]:
    """All outputs of a bundled network."""
    session = onnxruntime.InferenceSession(str(weights(points)), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {fpenet.INPUT: crops}), strict=True))


@pytest.fixture(scope="module")
def crops(portrait: Image.Image, detect: Detect) -> Any:
    """(5, 1, 80, 80): the portrait's face at several rolls."""
    found = detect(portrait)
    middle = found.points[0].mean(axis=0)
    turned = []
    for degrees in (-40, -20, 0, 20, 40):
        angle = np.radians(degrees)
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turned.append(
            cut(np.asarray(portrait), place(found.boxes[0], (found.points[0] - middle) @ matrix.T + middle))
        )
    return np.stack(turned)[:, None]


@pytest.mark.parametrize("points", [80, 104])
def test_the_interface_is_fpenets(points: int, crops: Any) -> None:
    assert weights(points).stat().st_size <= 4_000_000
    out = run(points, crops)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in out.items()} == {
        "conv_keypoints_m80": (np.float32, (5, points, 80, 80)),
        "softargmax": (np.float32, (5, points, 2)),
        "softargmax:1": (np.float32, (5, points)),
        "visibility": (np.float32, (5, points)),
    }
    for name, alone in run(points, crops[2:3]).items():
        np.testing.assert_allclose(alone, out[name][2:3], atol=2e-3)


def test_points_and_peaks_are_those_of_the_maps(crops: Any) -> None:
    out = run(80, crops)
    maps = np.exp(out["conv_keypoints_m80"] - out["conv_keypoints_m80"].max(axis=(2, 3), keepdims=True))
    maps /= maps.sum(axis=(2, 3), keepdims=True)
    centers = np.arange(80) + 0.5
    x, y = (maps.sum(axis=2) * centers).sum(axis=2), (maps.sum(axis=3) * centers).sum(axis=2)
    np.testing.assert_allclose(np.stack([x, y], axis=-1), out["softargmax"], atol=1e-2)
    np.testing.assert_allclose(maps.max(axis=(2, 3)), out["softargmax:1"], rtol=1e-3)
    assert ((out["visibility"] >= 0) & (out["visibility"] <= 1)).all()


def test_the_layouts_share_their_first_points(crops: Any) -> None:
    small, large = run(80, crops), run(104, crops)
    for name in ("softargmax", "softargmax:1", "visibility"):
        np.testing.assert_allclose(small[name], large[name][:, :80], atol=1e-3)


@given(st.floats(-3.1, 3.1), st.floats(1, 400), st.floats(-1000, 1000), st.floats(-1000, 1000))
def test_five_points_level_the_crop(angle: float, size: float, x: float, y: float) -> None:
    upright = np.array([[-1.0, -1], [1, -1], [0, 0], [-0.8, 1], [0.8, 1]]) * size
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = upright @ matrix.T + (x, y)
    assert level(points) == pytest.approx(angle, abs=1e-6)
    crop = place(np.array([x - 2 * size, y - size, x + 2 * size, y + size]), points)
    assert crop.to_image(np.array([[CROP / 2, CROP / 2]]))[0] == pytest.approx((x, y), abs=1e-6)
    right = crop.to_image(np.array([[CROP, CROP / 2]]))[0] - (x, y)
    assert np.hypot(*right) == pytest.approx(2.5 * size, rel=1e-6)
    assert np.arctan2(right[1], right[0]) == pytest.approx(angle, abs=1e-6)


@pytest.mark.parametrize("points", [UPRIGHT, np.zeros((5, 2)), np.zeros((2, 2))])
def test_without_points_crops_stay_upright(points: Any) -> None:
    assert level(points) == 0.0


def ramps(width: int, height: int) -> Any:
    """An image whose gray is a plane: 0.1 times x plus 0.15 times y, at pixel centres."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.repeat(np.round(0.1 * x + 0.15 * y)[:, :, None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("side", [30, 80, 200, 500])
@pytest.mark.parametrize("angle", [0.0, 0.5, -2.5])
def test_crops_show_what_lies_under_them(side: int, angle: float) -> None:
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * side / CROP
    crop = Crop(matrix, np.array([450.0, 400.0]) - matrix @ np.full(2, CROP / 2))
    x, y = np.meshgrid(np.arange(CROP) + 0.5, np.arange(CROP) + 0.5)
    there = crop.to_image(np.stack([x, y], -1).reshape(-1, 2)).reshape(CROP, CROP, 2)
    wanted = there @ np.array([0.1, 0.15])
    assert np.abs(cut(ramps(900, 800), crop) - wanted).max() < 2


def test_a_crop_goes_on_beyond_the_border() -> None:
    image = np.full((100, 120, 3), 50, np.uint8)
    image[:, 60:] = 200
    gray = cut(image, place(np.array([90.0, 30, 150, 90]), UPRIGHT))
    assert gray.shape == (CROP, CROP)
    assert np.abs(gray - 200).max() <= 1
    far = cut(image, place(np.array([-500.0, -500, -440, -440]), UPRIGHT))
    assert np.abs(far - 50).max() <= 1


def test_fine_images_are_averaged_before_they_are_cut() -> None:
    checks = (np.indices((800, 800)).sum(axis=0) % 2 * 255).astype(np.uint8)
    gray = cut(np.repeat(checks[:, :, None], 3, axis=2), place(np.array([160.0, 160, 640, 640]), UPRIGHT))
    assert np.abs(gray - 127.5).max() < 2


def test_a_portrait_has_its_points_where_the_detector_has_them(
    estimator: Fpenet, portrait: Image.Image, detect: Detect
) -> None:
    found = detect(portrait)
    marks = best(estimator, portrait, found)
    five = found.points[0]
    distance = np.linalg.norm(five[1] - five[0])
    ours = [marks.points[list(eye)].mean(axis=0) for eye in EYES]
    ours += [marks.points[i] for i in (NOSE_TIP, 48, 54)]
    assert np.linalg.norm(np.array(ours) - five, axis=1).max() < 0.2 * distance
    assert marks.points.shape == (80, 2)
    assert marks.odds > 1.5
    assert marks.confidences.min() > 0.3
    assert (marks.visible[:68] > 0.5).mean() > 0.9


@pytest.mark.parametrize("degrees", [-45, -20, 20, 45])
def test_points_turn_with_the_head(
    estimator: Fpenet, portrait: Image.Image, detect: Detect, degrees: float
) -> None:
    upright = best(estimator, portrait, detect(portrait)).points
    turned = portrait.rotate(-degrees, expand=True, resample=Image.Resampling.BICUBIC)
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wanted = (upright - np.array(portrait.size) / 2) @ matrix.T + np.array(turned.size) / 2
    off = np.linalg.norm(best(estimator, turned, detect(turned)).points - wanted, axis=1)
    assert off.mean() < 0.06 * np.linalg.norm(wanted[36] - wanted[45])


def test_a_mirrored_face_has_mirrored_points(
    estimator: Fpenet, portrait: Image.Image, detect: Detect
) -> None:
    pairs = [(i, 16 - i) for i in range(17)] + [(36, 45), (39, 42), (31, 35), (48, 54), (30, 30), (57, 57)]
    mirrored = portrait.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one = best(estimator, portrait, detect(portrait)).points
    other = best(estimator, mirrored, detect(mirrored)).points
    here, there = (list(side) for side in zip(*pairs, strict=True))
    flipped = np.stack([portrait.width - other[there, 0], other[there, 1]], axis=1)
    off = np.linalg.norm(flipped - one[here], axis=1).mean()
    assert off < 0.06 * np.linalg.norm(one[36] - one[45])


@pytest.mark.parametrize("colour", [(0, 0, 0), (200, 210, 220)])
def test_a_covered_mouth_is_occluded_and_the_eyes_are_not(
    estimator: Fpenet, portrait: Image.Image, detect: Detect, colour: tuple[int, int, int]
) -> None:
    found = detect(portrait)
    mouth = best(estimator, portrait, found).points[list(MOUTH)]
    covered = portrait.copy()
    x1, y1, x2, y2 = (round(float(v)) for v in (*(mouth.min(axis=0) - 12), *(mouth.max(axis=0) + 12)))
    covered.paste(colour, (x1, y1, x2, y2))
    visible = best(estimator, covered, found).visible
    assert (visible[list(MOUTH)] < 0.5).mean() > 0.8
    assert (visible[36:48] > 0.5).all()


def test_a_face_upside_down_is_noticed(estimator: Fpenet, portrait: Image.Image, detect: Detect) -> None:
    """Even where the detector does not say so: nothing is seen in it, and it is looked at the other way."""
    upright = best(estimator, portrait, detect(portrait))
    box, turned, size = detect(portrait).boxes[0], portrait.rotate(180), portrait.width
    there = size - box[[2, 3, 0, 1]]
    crop = cut(np.asarray(turned), place(there, UPRIGHT))[None, None]
    assert (run(80, crop)["visibility"] < 0.5).mean() > 0.9
    (marks,) = estimator.estimate(np.asarray(turned), there[None], np.empty((1, 0, 2)))
    off = np.linalg.norm(size - marks.points - upright.points, axis=1).mean()
    assert off < 0.1 * np.linalg.norm(upright.points[36] - upright.points[45])
    assert marks.visible.mean() > 0.9


@pytest.mark.parametrize("number", [1, 4, 5, 9])
def test_many_faces_at_once_are_the_same_as_each_alone(
    estimator: Fpenet, portrait: Image.Image, detect: Detect, number: int
) -> None:
    found = detect(portrait)
    boxes = found.boxes[:1] + np.linspace(0, 8, number)[:, None]
    points = np.repeat(found.points[:1], number, axis=0)
    image = np.asarray(portrait)
    together = estimator.estimate(image, boxes, points)
    assert len(together) == number
    for marks, box, five in zip(together, boxes, points, strict=True):
        (alone,) = estimator.estimate(image, box[None], five[None])
        np.testing.assert_allclose(marks.points, alone.points, atol=0.05)
    assert estimator.estimate(image, np.empty((0, 4)), np.empty((0, 5, 2))) == []


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_confidence_grows_with_the_peak_and_stays_a_probability(peaks: list[float]) -> None:
    values = confidence(np.sort(np.array(peaks)))
    assert (np.diff(values) >= 0).all()
    assert ((values >= 0) & (values <= 1)).all()


def test_points_that_contradict_the_box_take_the_score_away(
    estimator: Fpenet, portrait: Image.Image, detect: Detect
) -> None:
    found = detect(portrait)
    points = best(estimator, portrait, found).points
    box = found.boxes[0]
    assert fit(box, points) == 1
    assert fit(box, points + (box[2:] - box[:2])) == 0
    assert fit(box, np.repeat(points[:1], 80, axis=0)) == 0
    assert 0 < fit(box, box[:2] + (points - box[:2]) * 0.55) < 1


def test_nothing_is_seen_in_what_has_a_faces_parts_but_is_none(
    estimator: Fpenet, portrait: Image.Image, detect: Detect
) -> None:
    box = detect(portrait).boxes[0]
    (x, y), half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).max() * 0.625
    part = portrait.crop((x - half, y - half, x + half, y + half)).resize((160, 160))
    tiles = [part.crop((x, y, x + 40, y + 40)) for y in range(0, 160, 40) for x in range(0, 160, 40)]
    mixed = Image.new("RGB", (160, 160))
    for place_, number in enumerate(np.random.default_rng(4).permutation(16)):
        mixed.paste(tiles[number], (place_ % 4 * 40, place_ // 4 * 40))
    (marks,) = estimator.estimate(np.asarray(mixed), np.array([[16.0, 16, 144, 144]]), np.empty((1, 0, 2)))
    assert (marks.visible < 0.5).mean() > 0.9


@pytest.mark.parametrize("layout", ["fpenet-68", "fpenet-80", "fpenet-104"])
def test_every_layout_reaches_the_landmark_file(
    settings: EngineSettings, tmp_path: Path, portrait: Image.Image, layout: str
) -> None:
    chosen = replace(engine_settings(load({"landmark_layout": layout})), models=settings.models)
    portrait.save(tmp_path / "x.jpg")
    (face,) = faces(LocalWorker(chosen), probe(str(tmp_path / "x.jpg"), Limits()))
    assert face.landmarks is not None
    assert face.landmarks.layout == layout
    count = LAYOUTS[layout].count
    assert (len(face.landmarks.keypoints), len(face.landmarks.visibility)) == (count, count)
    assert set(face.landmarks.visibility) <= {1, 2}
    assert face.landmarks.center == face.landmarks.keypoints[27][:2]
    assert abs(face.landmarks.rotation) < 25


def test_layouts_and_weights_change_the_fingerprint(settings: EngineSettings) -> None:
    others = [
        replace(settings, layout="fpenet-68"),
        replace(settings, landmarks=str(weights(104))),
        replace(settings, landmarks=""),
    ]
    assert len({worker_fingerprint(some) for some in [settings, *others]}) == 4


def faces(worker: LocalWorker, photo: Photo) -> tuple[Face, ...]:
    (result,) = worker.process(Batch((photo,)))
    assert result.failure is None
    return result.faces


def test_all_orientations_have_the_same_points(
    settings: EngineSettings, tmp_path: Path, portrait: Image.Image
) -> None:
    worker, seen, poses = LocalWorker(settings), [], []
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.jpg"
        save_oriented(portrait, path, orientation)
        photo = probe(str(path), Limits())
        (face,) = faces(worker, photo)
        assert face.landmarks is not None
        poses.append(face.landmarks.pose)
        stored = StoredPoints(np.array([point[:2] for point in face.landmarks.keypoints]))
        seen.append(to_displayed_points(stored, photo.stored, orientation))
    assert np.abs(np.stack(seen) - seen[0]).max() < 3
    assert np.abs(np.array(poses) - poses[0]).max() < 4
    assert np.abs(np.array(poses)).max() < 30


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Weights as NVIDIA's: the same names, no visibility."""
    model = onnx.load(str(weights(80)))
    kept = [output for output in model.graph.output if output.name != fpenet.VISIBILITY]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    path = tmp_path / "nvidia.onnx"
    onnx.save(model, str(path))
    return path


def test_other_weights_with_the_interface_fit(
    settings: EngineSettings, foreign: Path, estimator: Fpenet, portrait: Image.Image, detect: Detect
) -> None:
    found = detect(portrait)
    other = best(open_estimator(replace(settings, landmarks=str(foreign))), portrait, found)
    own = best(estimator, portrait, found)
    np.testing.assert_allclose(other.points, own.points, atol=0.05)
    assert other.visible.size == 0
    np.testing.assert_allclose(confidence(other.confidences), own.confidences, atol=1e-3)
    assert other.odds == 1.0


def test_weights_that_do_not_fit_are_named(settings: EngineSettings, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"fpenet80\.onnx: is not 'fpenet104': tensor .* is .*80"):
        open_estimator(replace(settings, layout="fpenet-104"))
    with pytest.raises(ModelError, match="not installed"):
        open_estimator(replace(settings, landmarks=str(tmp_path / "absent.onnx")))
    path = tmp_path / "text.onnx"
    path.write_text("no model")
    with pytest.raises(ModelError, match="not a model"):
        open_estimator(replace(settings, landmarks=str(path)))


def test_without_a_layout_the_detectors_points_are_written(settings: EngineSettings) -> None:
    chosen = engine_settings(load({"landmark_layout": "detector"}))
    assert chosen.landmarks == ""
    own = engine_settings(load({"landmark_weights": Path("weights.onnx")}))
    assert own.landmarks == os.path.abspath("weights.onnx")
    assert settings.landmarks == str(weights(80))


def test_photos_with_known_points(settings: EngineSettings, datasets: Path) -> None:
    from benchmarks.landmarks import errors, truths  # noqa: PLC0415 - only where there are photos

    worker, found = LocalWorker(settings), []
    for path, marked in truths(datasets / "detection" / "dlib_faces"):
        found += errors(path, marked, worker)
    known = np.array([error.points.mean() for error in found if error is not None])
    assert len(known) >= 41
    assert np.median(known) < 0.038
    assert (known > 0.1).sum() <= 1
