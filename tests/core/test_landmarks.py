"""Layouts, head roll and centre."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar_faces.core.landmarks import _HEAD, LAYOUTS, center, head_pose, mean_point, roll


@pytest.mark.parametrize("name", LAYOUTS)
def test_groups_cover_every_point_once(name: str) -> None:
    layout = LAYOUTS[name]
    covered = sorted(index for group in layout.groups.values() for index in group)
    assert covered == list(range(layout.count))
    assert len(layout.points) in (0, layout.count)
    assert all(0 <= index < layout.count for eye in layout.eyes for index in (*eye, *layout.middle))
    assert layout.name == name


@given(st.floats(-179.9, 180), st.floats(1, 500), st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_roll_is_the_angle_of_the_eyes(degrees: float, distance: float, x: float, y: float) -> None:
    layout = LAYOUTS["centerface-5"]
    angle = math.radians(degrees)
    right = (x + distance * math.cos(angle), y - distance * math.sin(angle))
    points = [(x, y), right, (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)]
    difference = (roll(layout, points) - degrees + 180) % 360 - 180
    assert abs(difference) < 1e-6
    assert center(layout, points) == pytest.approx(((x + right[0]) / 2, (y + right[1]) / 2))


def test_level_eyes_have_roll_zero_and_upside_down_ones_180() -> None:
    layout = LAYOUTS["fpenet-80"]
    points = [(0.0, 0.0)] * 80
    points[45] = (10.0, 0.0)
    assert math.copysign(1, roll(layout, points)) == 1
    assert roll(layout, points) == 0
    points[45] = (-10.0, 0.0)
    assert roll(layout, points) == 180
    points[45] = (-10.0, -0.0)
    assert roll(layout, points) == 180


def test_the_nose_root_is_the_centre_of_dense_layouts() -> None:
    points = [(float(i), float(-i)) for i in range(68)]
    assert center(LAYOUTS["fpenet-68"], points) == (27.0, -27.0)
    assert mean_point(points, (0, 2)) == (1.0, -1.0)


def seen(yaw: float, pitch: float, rolled: float, size: float = 60.0) -> list[tuple[float, float]]:
    """The 68 points of the mean head in a pose, from far away; those that are not rigid lie anywhere."""
    a, b, c = (math.radians(v) for v in (yaw, pitch, -rolled))
    about_y = np.array([[math.cos(a), 0, -math.sin(a)], [0, 1, 0], [math.sin(a), 0, math.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), math.sin(b)], [0, -math.sin(b), math.cos(b)]])
    about_z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    points = np.full((68, 2), 7.0)
    for index, place in _HEAD.items():
        points[index] = (about_z @ about_y @ about_x @ np.array(place) * size + 300)[:2]
    return [(float(x), float(y)) for x, y in points]


@given(st.floats(-75, 75), st.floats(-60, 60), st.floats(-175, 175), st.floats(5, 500))
def test_the_pose_of_the_mean_head_is_found(yaw: float, pitch: float, rolled: float, size: float) -> None:
    found = head_pose(LAYOUTS["fpenet-68"], seen(yaw, pitch, rolled, size))
    assert found == pytest.approx((yaw, pitch, rolled), abs=0.01)


def test_the_nose_shows_where_the_head_turns() -> None:
    for yaw, pitch in ((30.0, 0.0), (0.0, 20.0)):
        points, straight = seen(yaw, pitch, 0), seen(0, 0, 0)
        to_tip = np.subtract(points[30], points[27]) - np.subtract(straight[30], straight[27])
        assert (to_tip[0] > 5) == (yaw > 0)
        assert (to_tip[1] < -2) == (pitch > 0)


def test_few_or_collapsed_points_do_not_break_the_pose() -> None:
    assert head_pose(LAYOUTS["centerface-5"], [(0.0, 0.0)] * 5) is None
    collapsed = head_pose(LAYOUTS["fpenet-104"], [(3.0, 4.0)] * 104)
    assert collapsed is not None
    assert all(math.isfinite(angle) for angle in collapsed)
