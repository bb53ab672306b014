"""Coordinate frames: the eight orientations as Pillow turns them, round trips, areas, letterboxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from sidecar_faces.core.frames import (
    Area,
    DisplayedBox,
    DisplayedPoints,
    Letterbox,
    NetworkPoints,
    Size,
    StoredBox,
    StoredPoints,
    area_iou,
    clip,
    displayed_size,
    from_area,
    to_area,
    to_displayed,
    to_displayed_points,
    to_stored,
    to_stored_points,
)

orientations = st.integers(1, 8)
sizes = st.builds(Size, st.integers(1, 9000), st.integers(1, 9000))
fractions = st.floats(0, 1)
spans = st.floats(0.001, 1)


@st.composite
def boxes(draw: st.DrawFn, size: Size) -> StoredBox:
    w, h = draw(spans) * size.width, draw(spans) * size.height
    return StoredBox(draw(fractions) * (size.width - w), draw(fractions) * (size.height - h), w, h)


@pytest.mark.parametrize("orientation", range(1, 9))
@given(st.data())
def test_a_marked_rectangle_lies_where_pillow_turns_it(orientation: int, data: st.DataObject) -> None:
    size = Size(data.draw(st.integers(4, 40)), data.draw(st.integers(4, 40)))
    x, y = data.draw(st.integers(0, size.width - 2)), data.draw(st.integers(0, size.height - 2))
    w, h = data.draw(st.integers(1, size.width - x)), data.draw(st.integers(1, size.height - y))
    image = Image.new("L", (size.width, size.height))
    image.paste(255, (x, y, x + w, y + h))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    upright = ImageOps.exif_transpose(image)
    assert upright.size == (displayed_size(size, orientation).width, displayed_size(size, orientation).height)
    left, top, right, bottom = upright.getbbox() or (0, 0, 0, 0)
    displayed = DisplayedBox(left, top, right - left, bottom - top)
    assert to_displayed(StoredBox(x, y, w, h), size, orientation) == displayed
    assert to_stored(displayed, size, orientation) == StoredBox(x, y, w, h)


@given(st.data(), sizes, orientations)
def test_boxes_come_back(data: st.DataObject, size: Size, orientation: int) -> None:
    box = data.draw(boxes(size))
    back = to_stored(to_displayed(box, size, orientation), size, orientation)
    assert (back.x, back.y, back.w, back.h) == pytest.approx((box.x, box.y, box.w, box.h), abs=1e-6)


@given(st.lists(st.tuples(fractions, fractions), min_size=1), sizes, orientations)
def test_points_come_back_and_stay_within(
    points: list[tuple[float, float]], size: Size, orientation: int
) -> None:
    stored = StoredPoints(np.array(points) * (size.width, size.height))
    displayed = to_displayed_points(stored, size, orientation)
    upright = displayed_size(size, orientation)
    assert (displayed >= -1e-9).all()
    assert (displayed <= np.array([upright.width, upright.height]) + 1e-9).all()
    np.testing.assert_allclose(to_stored_points(displayed, size, orientation), stored, atol=1e-9)


@pytest.mark.parametrize("orientation", [0, 1, 9, -1, 65535])
def test_an_invalid_orientation_is_upright(orientation: int) -> None:
    size, points = Size(30, 20), DisplayedPoints(np.array([[3.0, 4.0]]))
    assert displayed_size(size, orientation) == size
    np.testing.assert_array_equal(to_stored_points(points, size, orientation), points)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, (0.2, 0.1)),
        (2, (0.8, 0.1)),
        (3, (0.8, 0.9)),
        (4, (0.2, 0.9)),
        (5, (0.1, 0.2)),
        (6, (0.1, 0.8)),
        (7, (0.9, 0.8)),
        (8, (0.9, 0.2)),
    ],
)
def test_the_table_that_photo_managers_agree_on(orientation: int, expected: tuple[float, float]) -> None:
    stored = Size(1000, 600)
    upright = displayed_size(stored, orientation)
    point = DisplayedPoints(np.array([0.2 * upright.width, 0.1 * upright.height]))
    x, y = to_stored_points(point, stored, orientation)
    assert (x / stored.width, y / stored.height) == pytest.approx(expected)


@given(st.data(), sizes)
def test_areas_come_back(data: st.DataObject, size: Size) -> None:
    box = data.draw(boxes(size))
    back = from_area(to_area(box, size), size)
    assert (back.x, back.y, back.w, back.h) == pytest.approx((box.x, box.y, box.w, box.h), abs=1e-6)


def test_an_area_is_centre_based() -> None:
    assert to_area(StoredBox(10, 20, 20, 40), Size(100, 200)) == Area(0.2, 0.2, 0.2, 0.2)


@given(st.data(), sizes)
def test_overlap_is_symmetric_and_one_with_itself(data: st.DataObject, size: Size) -> None:
    a, b = (to_area(data.draw(boxes(size)), size) for _ in "ab")
    assert area_iou(a, b) == pytest.approx(area_iou(b, a))
    assert 0 <= area_iou(a, b) <= 1 + 1e-9
    assert area_iou(a, a) == pytest.approx(1)


def test_overlap_of_strangers_is_nothing() -> None:
    assert area_iou(Area(0.1, 0.1, 0.1, 0.1), Area(0.9, 0.9, 0.1, 0.1)) == 0
    assert area_iou(Area(0.25, 0.5, 0.5, 1), Area(0.75, 0.5, 0.5, 1)) == 0
    assert area_iou(Area(0.5, 0.5, 1, 1), Area(0.25, 0.5, 0.5, 1)) == pytest.approx(0.5)


def test_clipping() -> None:
    size = Size(100, 50)
    assert clip(StoredBox(-10, -10, 30, 30), size) == StoredBox(0, 0, 20, 20)
    assert clip(StoredBox(90, 40, 30, 30), size) == StoredBox(90, 40, 10, 10)
    assert clip(StoredBox(10, 10, 5, 5), size) == StoredBox(10, 10, 5, 5)
    assert clip(StoredBox(100, 0, 5, 5), size) is None
    assert clip(StoredBox(-5, 0, 5, 5), size) is None


@given(sizes, st.integers(32, 2000), st.sampled_from([1, 16, 32]))
def test_a_letterbox_holds_the_photo_and_maps_its_corner_back(
    size: Size, long_side: int, multiple: int
) -> None:
    box = Letterbox.fit(size, long_side, multiple)
    assert box.canvas.width % multiple == box.canvas.height % multiple == 0
    assert box.content.width <= min(box.canvas.width, max(1, size.width))
    assert max(box.content.width, box.content.height) <= max(long_side, 1)
    corner = NetworkPoints(np.array([float(box.content.width), float(box.content.height)]))
    np.testing.assert_allclose(box.to_displayed(corner), [size.width, size.height])


def test_sizes() -> None:
    assert Size(3, 4).swapped() == Size(4, 3)
    assert Size(3, 4).pixels == 12
