"""Coordinate frames as distinct types, and the eight Exif orientations between two of them.

Frames
------
stored      pixels of the file as stored, before its Exif orientation is applied; origin top left
displayed   pixels of the photo as a viewer shows it (upright); origin top left
normalized  stored frame divided by the stored width and height; MWG areas are centre-based
network     pixels of the tensor that a model sees; `Letterbox` maps it to the displayed frame
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NewType

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

StoredPoints = NewType("StoredPoints", Floats)
"""(..., 2) x, y in stored pixels."""
DisplayedPoints = NewType("DisplayedPoints", Floats)
"""(..., 2) x, y in displayed pixels."""
NetworkPoints = NewType("NetworkPoints", Floats)
"""(..., 2) x, y in network pixels."""


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int

    def swapped(self) -> Size:
        return Size(self.height, self.width)

    @property
    def pixels(self) -> int:
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class StoredBox:
    """x, y (top left), width, height in stored pixels."""

    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True, slots=True)
class DisplayedBox:
    """x, y (top left), width, height in displayed pixels."""

    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True, slots=True)
class Area:
    """An MWG-RS area: centre x, y and width, height, normalized by the stored size."""

    x: float
    y: float
    w: float
    h: float


def displayed_size(stored: Size, orientation: int) -> Size:
    """Size of the photo once upright; orientations 5 to 8 swap width and height."""
    return stored.swapped() if orientation in (5, 6, 7, 8) else stored


def to_stored_points(points: DisplayedPoints, stored: Size, orientation: int) -> StoredPoints:
    """Map displayed points to the stored frame.

    The table is MWG 2.0's reading of Exif 2.32 tag 0x0112; any value outside 2..8 is upright.
    """
    size = displayed_size(stored, orientation)
    x, y = points[..., 0], points[..., 1]
    flipped_x, flipped_y = size.width - x, size.height - y
    columns = {
        2: (flipped_x, y),
        3: (flipped_x, flipped_y),
        4: (x, flipped_y),
        5: (y, x),
        6: (y, flipped_x),
        7: (flipped_y, flipped_x),
        8: (flipped_y, x),
    }.get(orientation, (x, y))
    return StoredPoints(np.stack(columns, axis=-1))


_INVERSE = {6: 8, 8: 6}


def to_displayed_points(points: StoredPoints, stored: Size, orientation: int) -> DisplayedPoints:
    """Inverse of `to_stored_points`: 6 and 8 undo each other, all others undo themselves."""
    upright = displayed_size(stored, orientation)
    inverse = _INVERSE.get(orientation, orientation)
    return DisplayedPoints(to_stored_points(DisplayedPoints(points), upright, inverse))


def _corners(box: StoredBox | DisplayedBox) -> Floats:
    return np.array([[box.x, box.y], [box.x + box.w, box.y + box.h]], dtype=np.float64)


def _span(corners: Floats) -> tuple[float, float, float, float]:
    low, high = corners.min(axis=0), corners.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])


def to_stored(box: DisplayedBox, stored: Size, orientation: int) -> StoredBox:
    """Map a displayed box to the stored frame."""
    corners = to_stored_points(DisplayedPoints(_corners(box)), stored, orientation)
    return StoredBox(*_span(corners))


def to_displayed(box: StoredBox, stored: Size, orientation: int) -> DisplayedBox:
    """Map a stored box to the displayed frame."""
    corners = to_displayed_points(StoredPoints(_corners(box)), stored, orientation)
    return DisplayedBox(*_span(corners))


def clip(box: StoredBox, size: Size) -> StoredBox | None:
    """The part of the box inside the photo; None where nothing is left."""
    x1, y1 = max(box.x, 0.0), max(box.y, 0.0)
    x2, y2 = min(box.x + box.w, float(size.width)), min(box.y + box.h, float(size.height))
    if x2 <= x1 or y2 <= y1:
        return None
    return StoredBox(x1, y1, x2 - x1, y2 - y1)


def to_area(box: StoredBox, size: Size) -> Area:
    """Stored pixels to a normalized, centre-based MWG area."""
    return Area(
        (box.x + box.w / 2) / size.width,
        (box.y + box.h / 2) / size.height,
        box.w / size.width,
        box.h / size.height,
    )


def from_area(area: Area, size: Size) -> StoredBox:
    """A normalized MWG area to stored pixels."""
    return StoredBox(
        (area.x - area.w / 2) * size.width,
        (area.y - area.h / 2) * size.height,
        area.w * size.width,
        area.h * size.height,
    )


def area_iou(a: Area, b: Area) -> float:
    """Intersection over union of two areas of the same photo, 0..1."""
    width = min(a.x + a.w / 2, b.x + b.w / 2) - max(a.x - a.w / 2, b.x - b.w / 2)
    height = min(a.y + a.h / 2, b.y + b.h / 2) - max(a.y - a.h / 2, b.y - b.h / 2)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a.w * a.h + b.w * b.h - shared)


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How a displayed photo lies on a network canvas: scaled about the top left, padded below/right.

    `canvas` is the network size, a multiple of the network's stride; `content` the part of it that
    the photo covers. Scales are network pixels per displayed pixel, one per axis because the content
    is rounded to whole pixels.
    """

    canvas: Size
    content: Size
    scale_x: float
    scale_y: float

    @classmethod
    def fit(cls, displayed: Size, long_side: int, multiple: int = 32, enlarge: float = 1.0) -> Letterbox:
        """Fit the photo's longer side to `long_side` (pixels), enlarging it at most `enlarge` times."""
        ratio = min(enlarge, long_side / max(displayed.width, displayed.height))
        content = Size(max(1, round(displayed.width * ratio)), max(1, round(displayed.height * ratio)))
        canvas = Size(-(-content.width // multiple) * multiple, -(-content.height // multiple) * multiple)
        return cls(canvas, content, content.width / displayed.width, content.height / displayed.height)

    def to_displayed(self, points: NetworkPoints) -> DisplayedPoints:
        """(..., 2) network points to displayed points."""
        return DisplayedPoints(points / np.array([self.scale_x, self.scale_y]))
