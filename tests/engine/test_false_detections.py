"""What the landmarks say about a detection: faces gain by it, what is none loses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.false_detections import (
    VIEWS,
    Finder,
    Found,
    View,
    above,
    changes,
    collect,
    features,
    photos,
    regression,
    shown,
)
from sidecar_faces.core.frames import Floats
from sidecar_faces.core.types import Face
from sidecar_faces.engine.base import Detections, EngineSettings, Keypoints
from sidecar_faces.engine.decode_pillow import decode
from sidecar_faces.engine.detectors import open_detector
from sidecar_faces.engine.faces import weigh
from sidecar_faces.engine.fpenet import MOST_ODDS, Fpenet, odds, seen
from sidecar_faces.engine.pyramid import Pyramid
from sidecar_faces.engine.worker import LocalWorker
from sidecar_faces.library.probe import Limits, probe

shares = st.floats(0, 1)


@pytest.fixture(scope="module")
def found(settings: EngineSettings, portrait: Image.Image) -> Detections:
    """The portrait's face."""
    (some,) = open_detector(settings).detect([np.asarray(portrait)])
    return Detections(some.boxes[:1], some.scores[:1], some.points[:1])


@given(shares, st.floats(0.01, 100), st.floats(0.01, 100))
def test_odds_multiply(score: float, one: float, other: float) -> None:
    assert weigh(weigh(score, one), other) == pytest.approx(weigh(score, one * other), abs=1e-9)
    assert weigh(weigh(score, one), 1 / one) == pytest.approx(score, abs=1e-9)


@given(shares)
def test_a_contradiction_leaves_nothing_and_silence_everything(score: float) -> None:
    assert weigh(score, 0.0) == 0.0
    assert weigh(score, 1.0) == pytest.approx(score)


@given(shares, shares)
def test_the_more_is_seen_the_better_the_odds(one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert 0 < odds(np.full(80, less)) <= odds(np.full(80, more)) <= MOST_ODDS


@given(st.lists(shares, min_size=80, max_size=80))
def test_a_quarter_of_the_ibug_points_speaks_for_a_face(visible: list[float]) -> None:
    best = sorted(visible[:68], reverse=True)
    assert best[17] <= seen(np.array(visible)) <= best[16]


def upside_down(image: Image.Image, box: Floats, estimator: Fpenet) -> Keypoints:
    """Of the face in an image that is turned, by its box alone."""
    there = np.tile(image.size, 2) - box[[2, 3, 0, 1]]
    (marks,) = estimator.estimate(np.asarray(image.rotate(180)), there[None], np.empty((1, 0, 2)))
    return marks


def masked(image: Image.Image, points: Floats) -> Image.Image:
    """From the nose's bridge down to the chin, and from ear to ear."""
    (left, _), (right, bottom) = points[:17].min(axis=0), points[:17].max(axis=0)
    covered = image.copy()
    x1, y1, x2, y2 = (round(float(v)) for v in (left, points[29, 1], right, bottom))
    covered.paste((120, 170, 210), (x1, y1, x2, y2))
    return covered


def test_a_masked_face_keeps_its_odds_even_upside_down(
    estimator: Fpenet, portrait: Image.Image, found: Detections
) -> None:
    (bare,) = estimator.estimate(np.asarray(portrait), found.boxes, found.points)
    image = masked(portrait, bare.points)
    (marks,) = estimator.estimate(np.asarray(image), found.boxes, found.points)
    assert (marks.visible[48:68] < 0.5).all()
    assert marks.odds > 1
    turned = upside_down(image, found.boxes[0], estimator)
    assert turned.odds > 1
    eyes = np.array(image.size) - turned.points[36:48]
    off = np.linalg.norm(eyes - bare.points[36:48], axis=1).mean()
    assert off < 0.1 * np.linalg.norm(bare.points[36] - bare.points[45])


def faces(settings: EngineSettings, path: Path, found: Detections, score: float) -> tuple[Face, ...]:
    """What becomes of a detection of that score."""
    worker = LocalWorker(settings)
    some = Detections(found.boxes, np.array([score]), found.points)
    return worker.finish(Pyramid(probe(str(path), Limits()), decode), some)


def test_a_weak_detection_with_good_landmarks_is_a_face(
    settings: EngineSettings, tmp_path: Path, portrait: Image.Image, found: Detections
) -> None:
    portrait.save(tmp_path / "x.png")
    least = LocalWorker(settings).promising
    assert 0.3 < least < 0.35
    (face,) = faces(settings, tmp_path / "x.png", found, least + 0.01)
    assert 0.5 < face.score < 0.52
    assert faces(settings, tmp_path / "x.png", found, least - 0.01) == ()
    plain = replace(settings, landmarks="")
    assert LocalWorker(plain).promising == 0.5
    assert faces(plain, tmp_path / "x.png", found, 0.49) == ()


def shuffled(image: Image.Image, box: Floats, seed: int) -> Image.Image:
    """The parts of the face, in other places."""
    left, top, right, bottom = (int(v) // 4 * 4 for v in box)
    width, height = (right - left) // 4, (bottom - top) // 4
    mixed = image.copy()
    for place, part in enumerate(np.random.default_rng(seed).permutation(16)):
        x, y = left + part % 4 * width, top + part // 4 * height
        tile = image.crop((x, y, x + width, y + height))
        mixed.paste(tile, (left + place % 4 * width, top + place // 4 * height))
    return mixed


def test_a_detection_in_which_nothing_is_seen_needs_a_better_score(
    settings: EngineSettings, tmp_path: Path, portrait: Image.Image, found: Detections
) -> None:
    kept: list[Face] = []
    for seed in range(6):
        shuffled(portrait, found.boxes[0], seed).save(tmp_path / "x.png")
        kept += faces(settings, tmp_path / "x.png", found, 0.55)
        (face,) = faces(settings, tmp_path / "x.png", found, 0.95)
        assert face.score < 0.95
    assert len(kept) <= 1


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_views_show_the_same_faces(view: View, portrait: Image.Image, settings: EngineSettings) -> None:
    truth = open_detector(settings).detect([np.asarray(portrait)])[0].boxes[:1]
    (seen_there,) = Finder(settings).look(Path("x"), *shown(portrait, truth, view), view)
    assert seen_there.true and seen_there.sure
    assert seen_there.weighed > seen_there.score


def made(true: int, score: float, share: float) -> Found:
    return Found("x", upright=True, true=bool(true), sure=True, score=score, odds=2.0, seen=share)


def test_the_regression_finds_what_made_the_sample() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(0, 1.2, (4000, 2)).clip(-3.8, 3.8)
    chance = 1 / (1 + np.exp(-(0.5 + 1.5 * x[:, 0] + 0.6 * x[:, 1])))
    values = 1 / (1 + np.exp(-x))
    sample = [
        made(true, *row) for true, row in zip(rng.uniform(size=4000) < chance, values.tolist(), strict=True)
    ]
    assert features(sample)[:, 1:] == pytest.approx(x, abs=1e-6)
    beta = regression(sample)
    assert beta[1:] == pytest.approx([1.5, 0.6], abs=0.2)


def test_the_counts_by_hand() -> None:
    some = [made(1, 0.4, 1), made(1, 0.3, 1), made(1, 0.6, 1)]
    assert changes(some, 0.5).split() == ["1", "-0", "+1", "=", "2"]
    values, true = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert [above(values, true, allowed) for allowed in range(3)] == [1, 2, 2]


def test_scenes_and_crowds(settings: EngineSettings, datasets: Path) -> None:
    """Held out from what the constants were fitted on: what WIDER's photos show beside the known faces."""
    finder = Finder(settings)
    scenes = collect(datasets / "detection" / "negatives", finder, "subway|fastfood")
    assert sum(one.weighed >= 0.5 for one in scenes) <= 2
    crowds = collect(datasets / "detection" / "wider_val_samples", finder, "")
    true, false = ([one for one in crowds if one.upright and one.true == kind] for kind in (True, False))
    assert sum(one.weighed >= 0.5 for one in true) > sum(one.score >= 0.5 for one in true)
    assert sum(one.weighed >= 0.5 for one in false) < sum(one.score >= 0.5 for one in false)


def test_photos_without_faces_need_no_list(tmp_path: Path, portrait: Image.Image) -> None:
    portrait.save(tmp_path / "one.png")
    portrait.save(tmp_path / "people.jpg")
    (tmp_path / "notes.txt").write_text("no photo")
    (only,) = photos(tmp_path, "people")
    assert only[0].name == "one.png" and only[1].shape == (0, 4)
