"""The worker on real photos: the same faces in every orientation and format, and failures that stay alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts.make_demo_library import group, save_oriented
from sidecar_faces.core.frames import (
    DisplayedPoints,
    Floats,
    Size,
    StoredBox,
    area_iou,
    to_area,
    to_displayed,
)
from sidecar_faces.core.types import Batch, Face, FailureKind, Photo
from sidecar_faces.engine.base import EngineSettings, Keypoints
from sidecar_faces.engine.base import Image as Pixels
from sidecar_faces.engine.decode_pillow import decode
from sidecar_faces.engine.faces import landmarks, stored_box
from sidecar_faces.engine.pyramid import Pyramid
from sidecar_faces.engine.worker import LocalWorker, worker_fingerprint
from sidecar_faces.errors import ModelError
from sidecar_faces.library.probe import Limits, probe
from tests.engine.conftest import MakePhoto, encoded


@pytest.fixture(scope="module")
def worker(engine: EngineSettings) -> LocalWorker:
    return LocalWorker(engine)


def faces(worker: LocalWorker, photo: Photo) -> tuple[Face, ...]:
    (result,) = worker.process(Batch((photo,)))
    assert result.failure is None
    assert result.photo is photo
    return result.faces


def overlap(one: StoredBox, other: StoredBox, size: Size) -> float:
    return area_iou(to_area(one, size), to_area(other, size))


@pytest.fixture(scope="module")
def wide(portrait: Image.Image) -> Image.Image:
    """A photo that is not square, with its face off the middle."""
    canvas = Image.new("RGB", (800, 600), (90, 110, 130))
    canvas.paste(portrait, (250, 60))
    return canvas


ROLLS = {1: 0, 2: 0, 3: 180, 4: 180, 5: 90, 6: 90, 7: -90, 8: -90}


@pytest.mark.parametrize("detail", ["fast", "normal"])
def test_all_orientations_give_the_same_face(
    tmp_path: Path, engine: EngineSettings, wide: Image.Image, detail: str
) -> None:
    worker = LocalWorker(replace(engine, detail=detail))
    found = []
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.jpg"
        save_oriented(wide, path, orientation)
        photo = probe(str(path), Limits())
        (face,) = faces(worker, photo)
        assert face.landmarks is not None
        upright = to_displayed(face.box, photo.stored, orientation)
        found.append(StoredBox(upright.x, upright.y, upright.w, upright.h))
        assert overlap(found[0], found[-1], Size(800, 600)) >= 0.9
        turned = (face.landmarks.rotation - ROLLS[orientation] + 180) % 360 - 180
        assert abs(turned) < 15, f"orientation {orientation}: {face.landmarks.rotation}"


def test_the_roll_turns_a_stored_face_upright(tmp_path: Path, worker: LocalWorker, wide: Image.Image) -> None:
    """Turn the pixels as stored by the roll, and the eyes lie level with the mouth below them."""
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.jpg"
        save_oriented(wide, path, orientation)
        (face,) = faces(worker, probe(str(path), Limits()))
        assert face.landmarks is not None
        angle = np.radians(face.landmarks.rotation)
        places = np.array([point[:2] for point in face.landmarks.keypoints])
        x = places[:, 0] * np.cos(angle) - places[:, 1] * np.sin(angle)
        y = places[:, 0] * np.sin(angle) + places[:, 1] * np.cos(angle)
        assert abs(y[0] - y[1]) < 1e-6
        assert y[3:].min() > y[0] + 10
        assert np.ptp(x[:2]) > 10


def test_a_group_of_sizes_with_landmarks_inside_their_boxes(
    photo: MakePhoto, worker: LocalWorker, portrait: Image.Image
) -> None:
    found = faces(worker, photo(group(portrait)))
    assert len(found) == 6
    assert [face.score for face in found] == sorted((face.score for face in found), reverse=True)
    for face in found:
        assert face.landmarks is not None
        assert face.landmarks.layout == "centerface-5"
        assert len(face.landmarks.keypoints) == 5
        for x, y, confidence in face.landmarks.keypoints:
            assert face.box.x < x < face.box.x + face.box.w
            assert face.box.y < y < face.box.y + face.box.h
            assert confidence == pytest.approx(face.score)
        x, y = face.landmarks.center
        assert face.box.x < x < face.box.x + face.box.w


@pytest.mark.parametrize("detail", ["fast", "normal", "fine"])
def test_small_faces_need_detail_and_large_ones_none(
    photo: MakePhoto, engine: EngineSettings, portrait: Image.Image, detail: str
) -> None:
    canvas = Image.new("RGB", (2560, 1920), (120, 130, 140))
    canvas.paste(portrait.resize((1500, 1500)), (0, 0))
    for number, side in enumerate((180, 260)):  # their faces are 37 and 53 pixels: 9 and 13 in the first pass
        canvas.paste(portrait.resize((side, side), Image.Resampling.LANCZOS), (1800, 300 + 800 * number))
    found = faces(LocalWorker(replace(engine, detail=detail)), photo(canvas, quality=95))
    sides = sorted(round(face.box.w) for face in found)
    assert sides[-1] > 200
    assert len(found) == {"fast": 1, "normal": 3, "fine": 3}[detail]


@pytest.mark.parametrize("place", [(-210, 100), (650, 100), (300, -90), (300, 480)])
def test_faces_at_the_border_are_clipped(
    photo: MakePhoto, worker: LocalWorker, portrait: Image.Image, place: tuple[int, int]
) -> None:
    canvas = Image.new("RGB", (900, 640), (120, 130, 140))
    canvas.paste(portrait, place)
    for face in faces(worker, photo(canvas)):
        assert face.box.x >= 0
        assert face.box.y >= 0
        assert face.box.x + face.box.w <= 900
        assert face.box.y + face.box.h <= 640


def test_settings_decide_which_faces_are_kept(
    photo: MakePhoto, engine: EngineSettings, portrait: Image.Image
) -> None:
    made = photo(portrait)
    (face,) = faces(LocalWorker(engine), made)
    side = min(face.box.w, face.box.h)
    assert not faces(LocalWorker(replace(engine, min_face=int(side) + 1)), made)
    assert faces(LocalWorker(replace(engine, min_face=int(side))), made)
    assert not faces(LocalWorker(replace(engine, min_score=face.score + 0.01)), made)
    assert len(faces(LocalWorker(replace(engine, min_score=0.02)), made)) >= 1


def test_gray_cmyk_progressive_deep_and_other_formats(
    photo: MakePhoto, worker: LocalWorker, portrait: Image.Image
) -> None:
    gray = portrait.convert("L")
    kinds = {
        "gray.jpg": gray,
        "cmyk.jpg": portrait.convert("CMYK"),
        "deep.png": gray.convert("I;16").point(lambda value: value * 256),
        "palette.png": portrait.convert("P"),
        "alpha.webp": portrait.convert("RGBA"),
        "x.tif": portrait,
    }
    (expected,) = faces(worker, photo(portrait, progressive=True))
    for name, image in kinds.items():
        (face,) = faces(worker, photo(image, name))
        assert overlap(face.box, expected.box, Size(512, 512)) > 0.85, name


@pytest.mark.parametrize("size", [(1, 1), (65500, 1), (1, 65500), (8000, 1000)])
def test_odd_sizes_have_no_faces(photo: MakePhoto, worker: LocalWorker, size: tuple[int, int]) -> None:
    assert faces(worker, photo(Image.new("RGB", size, (90, 90, 90)))) == ()


def test_a_bad_photo_fails_alone(photo: MakePhoto, worker: LocalWorker, portrait: Image.Image) -> None:
    data = encoded(portrait)
    good, cut = photo(data, "good.jpg"), photo(data[: len(data) // 2], "cut.jpg")
    gone, odd = photo(data, "gone.jpg"), photo(data, "odd.jpg")
    os.unlink(gone.path)
    os.unlink(odd.path)
    os.mkfifo(odd.path)
    results = worker.process(Batch((cut, good, gone, odd)))
    assert [result.photo for result in results] == [cut, good, gone, odd]
    assert [len(result.faces) for result in results] == [0, 1, 0, 0]
    failures = [result.failure for result in results]
    assert failures[1] is None
    assert [failure and failure.kind for failure in failures] == [
        FailureKind.FAILED,
        None,
        FailureKind.FAILED,
        FailureKind.REFUSED,
    ]
    assert failures[0] is not None
    assert failures[0].reason == "is cut off in its data"


def test_what_breaks_the_code_itself_fails_alone_too(
    photo: MakePhoto, engine: EngineSettings, portrait: Image.Image
) -> None:
    def broken(_photo: Photo, *, long_side: int | None) -> Pixels:
        raise ZeroDivisionError(f"at {long_side}")

    (result,) = LocalWorker(engine, broken).process(Batch((photo(portrait),)))
    assert result.failure is not None
    assert result.failure.reason == "cannot be processed (ZeroDivisionError: at 512)"


class Crosses:
    """A landmark network: notes what it is given, and answers the box's corners and middle."""

    fingerprint = "crosses"
    layout = "centerface-5"

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def estimate(self, image: Pixels, boxes: Floats, points: Floats) -> list[Keypoints]:
        self.shapes.append(image.shape)
        assert len(boxes) == len(points)
        corners = [np.array([b[:2], (b[2], b[1]), (b[:2] + b[2:]) / 2, (b[0], b[3]), b[2:]]) for b in boxes]
        return [Keypoints(DisplayedPoints(each), np.linspace(0, 2, 5), np.empty(0)) for each in corners]


def test_an_estimator_gets_enough_pixels_and_its_points_come_back_in_the_stored_frame(
    tmp_path: Path, engine: EngineSettings, portrait: Image.Image
) -> None:
    canvas = Image.new("RGB", (4000, 3000), (120, 130, 140))
    canvas.paste(portrait, (1000, 500))  # its face is 90 pixels wide
    path = tmp_path / "x.jpg"
    save_oriented(canvas, path, 6)
    estimator = Crosses()
    photo = probe(str(path), Limits())
    (face,) = faces(LocalWorker(engine, estimator=estimator), photo)
    ((height, width, _),) = estimator.shapes
    assert (width, height) == (2000, 1500)
    assert face.landmarks is not None
    xs, ys, confidences = zip(*face.landmarks.keypoints, strict=True)
    assert min(xs) == pytest.approx(face.box.x, abs=0.01)
    assert max(ys) == pytest.approx(face.box.y + face.box.h, abs=0.01)
    assert confidences == (0, 0.5, 1, 1, 1)
    assert face.landmarks.rotation == pytest.approx(90)
    estimator.shapes.clear()
    assert faces(LocalWorker(engine, estimator=estimator), _blank(tmp_path)) == ()
    assert estimator.shapes == []


def _blank(folder: Path) -> Photo:
    Image.new("RGB", (300, 200)).save(folder / "blank.jpg")
    return probe(str(folder / "blank.jpg"), Limits())


def test_the_pyramid_decodes_again_only_for_more_pixels(photo: MakePhoto, portrait: Image.Image) -> None:
    asked: list[int | None] = []

    def counting(which: Photo, *, long_side: int | None) -> Pixels:
        asked.append(long_side)
        return decode(which, long_side=long_side)

    pyramid = Pyramid(photo(portrait.resize((2000, 2000))), counting)
    assert pyramid.scaled(Size(500, 500)).shape == (500, 500, 3)
    assert pyramid.scaled(Size(300, 300)).shape == (300, 300, 3)
    assert pyramid.at_least(900).shape == (1000, 1000, 3)
    assert pyramid.at_least(5000).shape == (2000, 2000, 3)
    assert pyramid.at_least(9000).shape == (2000, 2000, 3)
    assert asked == [500, 900, 5000]


def test_boxes_outside_the_photo_and_confidences_out_of_range(photo: MakePhoto) -> None:
    made = photo(Image.new("RGB", (100, 80)))
    assert stored_box(made, np.array([120.0, 10, 140, 30])) is None
    assert stored_box(made, np.array([-20.0, 10, 30, 90])) == StoredBox(0, 10, 30, 70)
    points = DisplayedPoints(np.array([[10.0, 20], [30, 20], [20, 30], [12, 40], [28, 40]]))
    confidences = np.array([-1.0, 0.5, 2, 1, 1])
    marks = landmarks(made, "centerface-5", Keypoints(points, confidences, np.array([0.4, 0.5, 1, 0, 1])))
    assert marks.visibility == (1, 2, 2, 1, 2)
    assert [confidence for _, _, confidence in marks.keypoints] == [0, 0.5, 1, 1, 1]
    assert (marks.rotation, marks.center) == (0, (20, 20))


def test_the_fingerprint_changes_with_whatever_changes_results(
    engine: EngineSettings, tmp_path: Path
) -> None:
    base = worker_fingerprint(engine)
    assert base == worker_fingerprint(replace(engine, threads=4))
    weights = tmp_path / "landmarks.onnx"
    weights.write_bytes(b"weights")
    others: list[dict[str, Any]] = [
        {"detail": "fine"},
        {"min_score": 0.6},
        {"min_face": 20},
        {"landmarks": str(weights)},
    ]
    assert len({base, *(worker_fingerprint(replace(engine, **other)) for other in others)}) == 5
    (tmp_path / "centerface.onnx").write_bytes(b"other weights")
    assert worker_fingerprint(replace(engine, models=str(tmp_path))) != base
    with pytest.raises(ModelError, match="sidecar-faces models install"):
        worker_fingerprint(replace(engine, models=str(tmp_path / "absent")))
    with pytest.raises(ModelError, match="sidecar-faces models install"):
        LocalWorker(replace(engine, models=str(tmp_path / "absent")))
