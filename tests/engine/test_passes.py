"""The geometry of the passes: every point is looked at once, sizes are bounded, each face is kept once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar_faces.core.frames import Size
from sidecar_faces.engine.base import Detections
from sidecar_faces.engine.passes import (
    OVERLAP,
    PLANS,
    SAME_FACE,
    TILE,
    View,
    canvas_key,
    iou,
    merge,
    suppress,
    suspects,
    tiles,
    to_displayed,
    views,
    wanted,
)

lengths = st.integers(1, 6000)
sizes = st.builds(Size, lengths, lengths)
sides = st.floats(1, OVERLAP)
shares = st.floats(0, 1)


def detections(boxes: list[list[float]], scores: list[float] | None = None) -> Detections:
    made = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    points = np.repeat((made[:, None, :2] + made[:, None, 2:]) / 2, 5, axis=1)
    return Detections(made, np.array(scores if scores is not None else [0.9] * len(made)), points)


@given(sizes, shares, shares, sides)
def test_each_face_is_wholly_in_the_one_tile_that_answers_for_it(
    content: Size, across: float, down: float, side: float
) -> None:
    x, y = across * (content.width - 1), down * (content.height - 1)
    owners = [tile for tile in tiles(content) if tile.holds(np.array([[x, y]]))[0]]
    assert len(owners) == 1
    left, top, right, bottom = owners[0].box
    assert left <= max(0.0, x - side / 2)
    assert top <= max(0.0, y - side / 2)
    assert right >= min(float(content.width), x + side / 2)
    assert bottom >= min(float(content.height), y + side / 2)


@given(sizes)
def test_tiles_have_one_size_and_are_as_few_as_overlap_allows(content: Size) -> None:
    made = tiles(content)
    assert {(t.box[2] - t.box[0], t.box[3] - t.box[1]) for t in made} == {
        (min(TILE, content.width), min(TILE, content.height))
    }
    per_axis = [max(1, math.ceil((n - OVERLAP) / (TILE - OVERLAP))) for n in (content.width, content.height)]
    assert len(made) == math.prod(per_axis)


@given(st.builds(Size, st.integers(1, 65500), st.integers(1, 65500)), st.sampled_from(sorted(PLANS)))
def test_views_grow_and_are_bounded(displayed: Size, detail: str) -> None:
    made = views(displayed, detail)
    assert 1 <= len(made) <= len(PLANS[detail])
    scales = [max(view.letterbox.scale_x, view.letterbox.scale_y) for view in made]
    assert scales == sorted(scales)
    for view, step in zip(made, PLANS[detail], strict=False):
        canvas = view.letterbox.canvas
        enlarged = 1 if view is made[0] else 2
        assert view.letterbox.content.width <= displayed.width * enlarged
        assert view.letterbox.content.height <= displayed.height * enlarged
        assert canvas.width <= math.sqrt(PLANS[detail][-1].pixels * 16) + 32
        if max(displayed.width, displayed.height) <= 16 * min(displayed.width, displayed.height):
            biggest = max(step.pixels for step in PLANS[detail])
            assert view.letterbox.content.pixels <= biggest * 1.02 + max(canvas.width, canvas.height)
        assert math.isinf(view.longest) == (view is made[0])


@pytest.mark.parametrize(
    ("displayed", "detail", "contents"),
    [
        (Size(4000, 3000), "fast", [(416, 312)]),
        (Size(4000, 3000), "normal", [(640, 480), (1280, 960)]),
        (Size(3000, 4000), "normal", [(480, 640), (960, 1280)]),
        (Size(4000, 3000), "fine", [(640, 480), (1280, 960), (2560, 1920)]),
        (Size(640, 480), "fine", [(640, 480), (1280, 960)]),
        # enlarged twice at most, and not in the first look
        (Size(200, 150), "fine", [(200, 150), (400, 300)]),
        (Size(1000, 750), "fine", [(640, 480), (1280, 960), (2000, 1500)]),
        (Size(690, 517), "fine", [(640, 480), (1281, 960)]),  # 8 % more pixels are no third look
        (Size(8000, 1000), "normal", [(1568, 196), (3135, 392)]),  # a panorama keeps its small faces
    ],
)
def test_the_plans(displayed: Size, detail: str, contents: list[tuple[int, int]]) -> None:
    made = [view.letterbox.content for view in views(displayed, detail)]
    assert [(content.width, content.height) for content in made] == contents


@given(st.builds(Size, lengths, lengths), st.builds(Size, lengths, lengths), st.sampled_from(sorted(PLANS)))
def test_photos_of_one_key_share_all_shapes(one: Size, other: Size, detail: str) -> None:
    if canvas_key(one, detail) != canvas_key(other, detail):
        return
    shapes = [
        [view.letterbox.canvas if n == 0 else tuple(t.box for t in view.tiles) for n, view in enumerate(made)]
        for made in (views(one, detail), views(other, detail))
    ]
    assert shapes[0] == shapes[1]


def finer_view() -> View:
    return views(Size(4000, 3000), "normal")[1]


def test_only_tiles_with_a_suspect_are_looked_at() -> None:
    view = finer_view()
    assert len(view.tiles) == 9
    assert wanted(view, np.empty((0, 2))) == ()
    (tile,) = wanted(view, np.array([[100.0, 100.0], [200.0, 90.0]]))
    assert tile.box == (0, 0, TILE, TILE)
    assert len(wanted(view, np.array([[100.0, 100.0], [3900.0, 2900.0]]))) == 2
    everywhere = views(Size(4000, 3000), "fine")[1]
    assert wanted(everywhere, np.empty((0, 2))) == everywhere.tiles


def test_suspects_are_small_faces_found_or_half_seen() -> None:
    coarse = views(Size(4000, 3000), "normal")[0]  # 0.16 network pixels per displayed one
    found = detections(
        [[0, 0, 100, 120], [1000, 1000, 1100, 1100], [0, 0, 400, 500], [0, 0, 50, 50]], [0.9, 0.1, 0.9, 0.05]
    )
    assert suspects(found, coarse).tolist() == [[50, 60], [1050, 1050]]
    assert suspects(detections([]), coarse).shape == (0, 2)


def test_a_tile_reports_in_displayed_pixels_what_it_answers_for() -> None:
    view = finer_view()
    tile = view.tiles[-1]
    left, top, right, bottom = tile.box
    assert (right, bottom) == (1280, 960)
    found = detections([[400, 400, 440, 448], [0, 0, 40, 40], [300, 300, 300 + OVERLAP + 1, 340]])
    reported = to_displayed(found, tile, view)  # the second is a neighbour's, the third too long
    factor = 4000 / 1280
    expected = np.array([left + 400, top + 400, left + 440, top + 448]) * factor
    assert np.allclose(reported.boxes, [expected])
    assert np.allclose(reported.points[0], (expected[:2] + expected[2:]) / 2)
    assert to_displayed(detections([]), tile, view).boxes.shape == (0, 4)


def test_merging_keeps_each_face_once_best_first_above_the_threshold() -> None:
    coarse = detections([[0, 0, 10, 10], [50, 50, 60, 60], [90, 90, 99, 99]], [0.6, 0.8, 0.3])
    fine = detections([[1, 1, 11, 11], [20, 0, 30, 10]], [0.9, 0.5])
    merged = merge([coarse, detections([]), fine], 0.5)
    assert merged.boxes[:, 0].tolist() == [1, 50, 20]
    assert merged.scores.tolist() == [0.9, 0.8, 0.5]
    assert merged.points.shape == (3, 5, 2)
    assert merge([detections([])], 0.5).boxes.shape == (0, 4)


coordinates = st.integers(0, 60)
boxes = st.lists(
    st.tuples(coordinates, coordinates, st.integers(1, 40), st.integers(1, 40)).map(
        lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
    ),
    max_size=30,
)


@given(boxes, st.randoms(use_true_random=False))
def test_suppression_keeps_the_best_and_drops_only_what_overlaps_it(made: list[list[float]], random) -> None:  # type: ignore[no-untyped-def]
    array = np.array(made, dtype=np.float64).reshape(-1, 4)
    scores = np.array([random.random() for _ in made])
    kept = suppress(array, scores, SAME_FACE).tolist()
    assert [scores[i] for i in kept] == sorted((scores[i] for i in kept), reverse=True)
    for number, i in enumerate(kept):
        assert all(iou(array[i], array[[j]])[0] <= SAME_FACE for j in kept[:number])
    for i in set(range(len(made))) - set(kept):
        assert any(iou(array[i], array[[j]])[0] > SAME_FACE and scores[j] >= scores[i] for j in kept)


def test_iou_by_hand() -> None:
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4], [3, 3, 3, 3]], float)
    assert np.allclose(iou(others[0], others), [1, 1 / 3, 0, 0.04, 0])
