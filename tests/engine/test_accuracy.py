"""What the detector promises at the default detail, and the figures of the benchmark that measures it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import LOWEST_SCORE, Scored, average_precision, figures, run
from sidecar_faces.engine.base import EngineSettings
from sidecar_faces.engine.worker import LocalWorker

ALL = (0, 1_000_000)


@pytest.fixture(scope="module")
def worker(engine: EngineSettings) -> LocalWorker:
    return LocalWorker(replace(engine, min_score=LOWEST_SCORE))


def test_portraits_and_groups(datasets: Path, worker: LocalWorker) -> None:
    line = figures(run(datasets / "detection" / "dlib_faces", worker), ALL, 0.5, 0.5)
    assert line.faces == 43
    assert line.recall >= 0.97
    assert line.precision >= 0.95


def test_crowds(datasets: Path, worker: LocalWorker) -> None:
    photos = run(datasets / "detection" / "wider_val_samples", worker)
    assert figures(photos, (24, 1_000_000), 0.3, 0.5).recall >= 0.80
    assert figures(photos, (12, 24), 0.3, 0.5).recall >= 0.65
    assert figures(photos, ALL, 0.3, 0.5).precision >= 0.95


def test_scenes_without_faces(datasets: Path, worker: LocalWorker) -> None:
    photos = run(datasets / "detection" / "negatives", worker)
    assert len(photos) == 30
    assert sum((photo.scores >= 0.5).sum() for photo in photos) <= 1


def test_the_figures_by_hand() -> None:
    truth = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [50, 0, 90, 40]], float)
    boxes = np.array(
        [[0, 0, 10, 10], [70, 70, 80, 80], [21, 0, 31, 10], [0, 0, 9, 10], [50, 0, 90, 40]], float
    )
    photo = Scored(boxes, np.array([0.9, 0.8, 0.7, 0.6, 0.4]), truth, None)
    line = figures([photo], ALL, 0.5, 0.5)
    assert (line.faces, line.found, line.false) == (3, 2, 2)  # the second box on a face is a false one
    assert line.average_precision == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    small = figures([photo], (0, 12), 0.5, 0.5)
    assert (small.faces, small.found, small.false) == (2, 2, 2)
    large = figures([photo], (12, 100), 0.5, 0.3)
    assert (large.faces, large.recall, large.precision) == (1, 1, 1)
    assert np.isnan(average_precision(np.zeros(3, bool), 0))
