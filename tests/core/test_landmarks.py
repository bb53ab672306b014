"""Layouts, head roll and centre."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar_faces.core.landmarks import LAYOUTS, center, mean_point, roll


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
