"""The map from the teacher's mesh to the layout: complete, symmetric, and faithful to a head that turns."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest

from sidecar_faces.core.landmarks import LAYOUTS

pytest.importorskip("scipy")
layout: Any = import_module("training.fpenet.layout")
# loaded by name: what training needs is typed loosely and checked by running it
mapping: Any = import_module("training.fpenet.mapping")


def face(turned: float = 0.0, roll: float = 0.0) -> Any:
    """(1, 478, 3): a random, symmetric-enough head whose eyes and ears lie as the mesh has them."""
    mesh = np.random.default_rng(3).normal(0, 20, (478, 3))
    places = {33: (-30, 0, 0), 263: (30, 0, 0), 234: (-45, 5, 40), 454: (45, 5, 40), 4: (0, 25, -30)}
    for vertex, place in places.items():
        mesh[vertex] = place
    c, s = np.cos(turned), np.sin(turned)
    mesh = mesh @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    c, s = np.cos(roll), np.sin(roll)
    return (mesh @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + 100)[None]


def test_training_and_product_have_the_same_groups() -> None:
    product = {name: list(members) for name, members in LAYOUTS["fpenet-104"].groups.items()}
    assert product == layout.GROUPS


def test_mirroring_twice_changes_nothing_and_keeps_groups() -> None:
    assert (layout.MIRROR[layout.MIRROR] == np.arange(104)).all()
    groups = dict(layout.GROUPS)
    groups["mouth"] = groups["mouth"] + groups.pop("inner_lips")  # the card counts a corner of these to those
    for name, members in groups.items():
        assert set(layout.MIRROR[members]) == set(members), name
    middle = [i for i in range(104) if layout.MIRROR[i] == i]
    assert middle == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]


def test_every_row_is_a_mean_of_vertices() -> None:
    rows, shifts = mapping.read_map()
    assert rows.shape == (104, 478)
    assert shifts.shape == (2, 68, 2)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-3)
    assert (np.count_nonzero(rows, axis=1) <= 11).all()


def test_the_shift_follows_the_yaw_and_is_symmetric() -> None:
    _, shifts = mapping.read_map()
    assert np.abs(mapping.yaw_shift(mapping.heads(face()), shifts)).max() < 1e-6
    flipped = shifts[0][layout.MIRROR[:68]] * [-1, 1]
    np.testing.assert_allclose(flipped, shifts[1], atol=1e-3)
    right = mapping.heads(face(turned=0.4))
    assert abs(right.yaw[0]) == pytest.approx(0.4, abs=0.01)
    assert np.abs(mapping.yaw_shift(right, shifts)).max() > 1


def test_points_turn_with_the_image() -> None:
    rows, shifts = mapping.read_map()
    upright = mapping.to_points(face(turned=0.5), rows, shifts)[0] - 100
    rolled = mapping.to_points(face(turned=0.5, roll=0.7), rows, shifts)[0] - 100
    c, s = np.cos(0.7), np.sin(0.7)
    np.testing.assert_allclose(rolled, upright @ np.array([[c, s], [-s, c]]), atol=0.01)


def test_the_fit_finds_the_shifts_that_made_its_data() -> None:
    rows, shifts = mapping.read_map()
    mesh = np.concatenate([face(turned=t) for t in np.linspace(-0.7, 0.7, 15)])
    truth = mapping.to_points(mesh, rows, shifts)[:, :68]
    found = mapping.fit_shifts(mesh, truth, rows[:68], 1e-9)
    np.testing.assert_allclose(found, shifts, atol=2e-3)


def test_pupils_and_rings_run_as_the_layout_says() -> None:
    rows, _ = mapping.read_map()
    mesh = np.zeros((478, 2))
    for centre, left, top, right, bottom in (layout.IRIS_LEFT, layout.IRIS_RIGHT):
        x = 0 if centre == layout.IRIS_LEFT[0] else 50
        for vertex, place in (
            (centre, (0, 0)),
            (left, (-5, 0)),
            (top, (0, -5)),
            (right, (5, 0)),
            (bottom, (0, 5)),
        ):
            mesh[vertex] = np.add(place, (x, 0))
    points = rows @ mesh
    np.testing.assert_allclose(points[68:72], [(-5, 0), (0, -5), (5, 0), (0, 5)], atol=1e-3)
    np.testing.assert_allclose(points[72:76], [(45, 0), (50, -5), (55, 0), (50, 5)], atol=1e-3)
    for ring, x in ((points[82:90], 0), (points[93:101], 50)):
        np.testing.assert_allclose(np.hypot(ring[:, 0] - x, ring[:, 1]), 5, atol=1e-3)
        steps = np.unwrap(np.arctan2(ring[:, 1], ring[:, 0] - x))
        np.testing.assert_allclose(np.diff(steps), np.pi / 4, atol=1e-3)
    np.testing.assert_allclose(points[[90, 101]], [(0, 0), (50, 0)], atol=1e-3)
