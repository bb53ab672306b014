"""GridBox: decoding, clustering against a plain reading of the algorithm, and other detectors as a grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sidecar_faces.core.frames import Floats, Size
from sidecar_faces.engine.base import Detections, Image
from sidecar_faces.engine.facedetect import (
    COLUMNS,
    NETWORK,
    PRESETS,
    ROWS,
    Clustering,
    FaceDetect,
    StandIn,
    cluster,
    dbscan,
    decode,
    encode,
    iou_matrix,
    nms,
    stretch,
)


def random_boxes(seed: int, count: int, low: float = 20, high: float = 120) -> Floats:
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(0, 280, (count, 2)), rng.uniform(low, high, (count, 1))
    return np.hstack([corner, corner + side * [1, 1]])


def grid_of(
    cells: dict[tuple[int, int], tuple[float, tuple[float, float, float, float]]],
) -> tuple[Floats, Floats]:
    coverage, grid = np.zeros((1, ROWS, COLUMNS), np.float32), np.zeros((4, ROWS, COLUMNS), np.float32)
    for (row, column), (score, sides) in cells.items():
        coverage[0, row, column] = score
        grid[:, row, column] = sides
    return coverage, grid


def plain_dbscan(distances: Floats, weights: Floats, eps: float, min_samples: float) -> list[int]:
    """As the paper tells it, point by point."""
    count = len(weights)
    near = [[j for j in range(count) if distances[i, j] <= eps] for i in range(count)]
    core = [sum(weights[j] for j in near[i]) >= min_samples for i in range(count)]
    labels, label = [-1] * count, -1
    for start in range(count):
        if labels[start] != -1 or not core[start]:
            continue
        label += 1
        waiting = [start]
        while waiting:
            point = waiting.pop()
            if labels[point] == -1:
                labels[point] = label
                waiting += near[point] if core[point] else []
    return labels


def test_decodes_as_the_model_card_says() -> None:
    coverage, grid = grid_of({(3, 5): (0.9, (1.0, 0.5, 0.25, 2.0)), (0, 0): (0.001, (1, 1, 1, 1))})
    boxes, scores = decode(coverage, grid, 0.005)
    x, y = 16 * 5 + 0.5, 16 * 3 + 0.5
    np.testing.assert_allclose(boxes, [[x - 35, y - 17.5, x + 8.75, y + 70]])
    np.testing.assert_allclose(scores, [0.9], rtol=1e-6)


def test_decodes_into_the_pixels_of_the_photo_and_clips() -> None:
    coverage, grid = grid_of({(0, 45): (1.0, (1, 9, 9, 1))})
    boxes, _ = decode(coverage, grid, 0.1, Size(7360, 832))
    np.testing.assert_allclose(boxes, [[6855, 0, 7360, 71]])


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 40),
    eps=st.sampled_from([0.1, 0.3, 0.8]),
    least=st.sampled_from([0.2, 1, 2.5, 4]),
)
def test_dbscan_labels_as_the_plain_algorithm(seed: int, count: int, eps: float, least: float) -> None:
    boxes = random_boxes(seed, count)
    weights = np.random.default_rng(seed).uniform(0.01, 1.5, count)
    distances = 1 - iou_matrix(boxes, boxes)
    assert dbscan(distances, weights, eps, least).tolist() == plain_dbscan(distances, weights, eps, least)


def test_dbscan_follows_a_long_chain() -> None:
    """One cluster of 500 links, in an order that hands each index to its neighbour last."""
    position = np.arange(500.0)[::-1]
    distances = np.abs(position[:, None] - position[None, :])
    assert set(dbscan(distances, np.ones(500), 1.0, 2).tolist()) == {0}


@given(st.integers(0, 10**6), st.integers(0, 30))
def test_nms_keeps_what_overlaps_nothing_better(seed: int, count: int) -> None:
    boxes, scores = random_boxes(seed, count), np.random.default_rng(seed).uniform(0, 1, count)
    kept = nms(boxes, scores, 0.5)
    overlaps = iou_matrix(boxes, boxes)
    assert all(overlaps[a, b] <= 0.5 for a in kept for b in kept if a != b)
    for lost in set(range(count)) - set(kept.tolist()):
        assert any(overlaps[lost, k] > 0.5 and scores[k] >= scores[lost] for k in kept)


def test_dbscan_weighs_boxes_and_sums_coverage() -> None:
    boxes = np.array([[0, 0, 100, 100], [4, 0, 104, 100], [300, 300, 340, 340.0]])
    found, scores = cluster(boxes, np.array([1.5, 0.5, 1.2]), PRESETS["tao"])
    np.testing.assert_allclose(found, [[1, 0, 101, 100], [300, 300, 340, 340]])
    np.testing.assert_allclose(scores, [2.0, 1.2])


def test_the_presets_differ_as_their_sources_do() -> None:
    small = np.array([[10, 10, 40, 40.0]]), np.array([0.8])
    assert len(cluster(*small, PRESETS["nms"])[0]) == 1
    assert len(cluster(*small, PRESETS["tao"])[0]) == 0  # its coverage sums to less than 1
    assert len(cluster(*small, PRESETS["notebook"])[0]) == 0  # and has too few votes
    many = np.array([[50 * i, 0, 50 * i + 40, 40] for i in range(30)], float), np.full(30, 0.7)
    assert len(cluster(*many, PRESETS["nms"])[0]) == 30
    assert len(cluster(*many, PRESETS["deepstream"])[0]) == 20


def test_flat_boxes_and_empty_images_are_no_faces() -> None:
    for preset in PRESETS.values():
        found, scores = cluster(np.zeros((0, 4)), np.zeros(0), preset)
        assert found.shape == (0, 4) and scores.shape == (0,)
    flat = np.array([[10, 10, 40, 10.0]] * 5)
    assert len(cluster(flat, np.full(5, 0.9), Clustering("nms", min_height=1))[0]) == 0


@given(st.integers(0, 10**6), st.integers(0, 12))
def test_a_grid_gives_back_the_boxes_written_into_it(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    places = rng.permutation(24)[:count]
    corner = np.stack([places % 6 * 120.0, places // 6 * 100.0], axis=1) + rng.uniform(0, 10, (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(4, 90, (count, 2))])
    scores = np.sort(rng.uniform(0.3, 1, count))[::-1]
    found, got = cluster(*decode(*encode(boxes, scores), 0.005), PRESETS["nms"])
    np.testing.assert_allclose(found, boxes, atol=1e-3)
    np.testing.assert_allclose(got, scores, rtol=1e-6)


def test_a_grid_holds_faces_that_share_a_cell_until_it_is_full() -> None:
    boxes = np.array([[100, 100, 108, 108], [101, 100, 103, 102], [101, 101, 104, 104.0]])
    coverage, grid = encode(boxes, np.array([0.9, 0.8, 0.7]))
    assert int((coverage > 0).sum()) == 3
    found, _ = decode(coverage, grid, 0.1)
    assert sorted(found.round(3).tolist()) == sorted(boxes.tolist())
    crowd = np.tile(boxes, (ROWS * COLUMNS, 1))
    assert (encode(crowd, np.full(len(crowd), 0.5))[0] > 0).all()


def test_stretches_and_grays() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[..., 0] = 255
    colored, gray = stretch(image), stretch(image, "gray")
    assert colored.shape == (3, 416, 736) and colored.dtype == np.float32
    np.testing.assert_allclose(colored[:, 200, 300], [1, 0, 0])
    np.testing.assert_allclose(gray[:, 200, 300], [76 / 255] * 3)


class Fixed:
    """A detector that always answers the same, in network pixels; it notes what it was shown."""

    fingerprint = "fixed"

    def __init__(self, boxes: Floats, scores: Floats) -> None:
        self.answer = Detections(boxes, scores, np.zeros((len(boxes), 5, 2)))
        self.shown: list[NDArray[np.uint8]] = []

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        self.shown += images
        return [self.answer] * len(images)


def test_another_detector_behind_the_grid_answers_in_pixels_of_each_image() -> None:
    inner = Fixed(np.array([[73.6, 41.6, 147.2, 83.2], [400, 200, 500, 300]]), np.array([0.9, 0.6]))
    detector = FaceDetect(StandIn(inner), min_score=0.5)
    image = np.random.default_rng(0).integers(0, 255, (NETWORK.height, NETWORK.width, 3), np.uint8)
    first, second = detector.detect([image, image])
    np.testing.assert_allclose(first.boxes, inner.answer.boxes, atol=1e-3)
    np.testing.assert_array_equal(inner.shown[0], image)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    (large,) = detector.detect([np.zeros((4160, 7360, 3), np.uint8)])
    np.testing.assert_allclose(large.boxes, inner.answer.boxes * 10, atol=1e-2)
    assert large.points.shape == (2, 0, 2)
    assert "fixed" in detector.fingerprint and "gridbox" in detector.fingerprint
    assert detector.detect([]) == []


def test_low_scores_are_dropped_and_high_ones_capped() -> None:
    class Network:
        fingerprint = "n"

        def run(self, images: NDArray[np.float32]) -> tuple[Floats, Floats]:
            coverage, grid = grid_of({(5, 5): (1.8, (1, 1, 1, 1)), (20, 40): (0.4, (1, 1, 1, 1))})
            return coverage[None], grid[None]

    (found,) = FaceDetect(Network(), min_score=0.5).detect([np.zeros((416, 736, 3), np.uint8)])
    assert found.scores.tolist() == [1.0]


@pytest.mark.parametrize("seed", range(3))
def test_iou_matches_counting_pixels(seed: int) -> None:
    boxes = random_boxes(seed, 6).round()
    masks = np.zeros((6, 420, 420), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    shared = np.einsum("ihw,jhw->ij", masks.astype(int), masks.astype(int))
    area = masks.sum(axis=(1, 2))
    np.testing.assert_allclose(iou_matrix(boxes, boxes), shared / (area[:, None] + area[None] - shared))
