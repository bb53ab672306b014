"""Landmark layouts: how many points, what each group of them is, and the head's pose.

Indexes are zero-based; the iBUG literature counts from one. "Left" and "right" are as seen in the upright
image, not the person's. Sources: iBUG 300-W for the 68 points, NVIDIA's FPENet model card for 80 and 104.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Layout:
    """An ordering of keypoints.

    `groups` name ranges of points; `points` names single points where the layout does so. `eyes`: for the
    roll, the image-left and image-right group of points whose means are joined. `middle`: the points whose
    mean is a face's centre.
    """

    name: str
    count: int
    groups: Mapping[str, range]
    eyes: tuple[tuple[int, ...], tuple[int, ...]]
    middle: tuple[int, ...]
    points: tuple[str, ...] = ()


_IBUG: dict[str, range] = {
    "chin": range(17),
    "eyebrows": range(17, 27),
    "nose": range(27, 36),
    "eyes": range(36, 48),
    "mouth": range(48, 61),
    "inner_lips": range(61, 68),
}
_FPENET_80 = {**_IBUG, "pupils": range(68, 76), "ears": range(76, 80)}
_FPENET_104 = {**_FPENET_80, "eye_extras": range(80, 104)}
_OUTER_CORNERS = ((36,), (45,))
_NOSE_ROOT = (27,)

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "centerface-5",
            5,
            {"eyes": range(2), "nose": range(2, 3), "mouth": range(3, 5)},
            ((0,), (1,)),
            (0, 1),
            ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth"),
        ),
        Layout("fpenet-68", 68, _IBUG, _OUTER_CORNERS, _NOSE_ROOT),
        Layout("fpenet-80", 80, _FPENET_80, _OUTER_CORNERS, _NOSE_ROOT),
        Layout("fpenet-104", 104, _FPENET_104, _OUTER_CORNERS, _NOSE_ROOT),
    )
}

Points = Sequence[tuple[float, float]]

# Where the points that keep their distances lie on a head that looks at the camera: x right, y down, z away,
# in distances of the outer eye corners. The mean of the heads that the landmark network was trained on.
_HEAD = {
    36: (-0.5, 0.056, 0.235), 39: (-0.216, 0.061, 0.173), 42: (0.216, 0.061, 0.173), 45: (0.5, 0.056, 0.235),
    27: (0.0, 0.0, 0.0), 28: (0.0, 0.119, -0.085), 29: (0.0, 0.238, -0.201), 30: (0.0, 0.368, -0.281),
    31: (-0.175, 0.488, -0.042), 33: (0.0, 0.525, -0.093), 35: (0.175, 0.488, -0.042),
    48: (-0.305, 0.763, 0.114), 54: (0.305, 0.763, 0.114),
}  # fmt: skip
_IBUG_COUNT = 68


def mean_point(points: Points, indexes: Sequence[int]) -> tuple[float, float]:
    """The mean of some points."""
    count = len(indexes)
    return sum(points[i][0] for i in indexes) / count, sum(points[i][1] for i in indexes) / count


def roll(layout: Layout, points: Points) -> float:
    """In-plane rotation in degrees, -180 < r <= 180: -atan2(dy, dx) from the left to the right eye.

    Positive is counter-clockwise as seen in an image whose y axis points down; the frame is the points'.
    """
    left, right = (mean_point(points, eye) for eye in layout.eyes)
    degrees = -math.degrees(math.atan2(right[1] - left[1], right[0] - left[0]))
    return 180.0 if degrees == -180.0 else degrees + 0.0


def center(layout: Layout, points: Points) -> tuple[float, float]:
    """The point between the eyes, in the points' frame."""
    return mean_point(points, layout.middle)


def head_pose(layout: Layout, points: Points) -> tuple[float, float, float] | None:
    """Yaw, pitch and roll in degrees, or None where a layout has too few points.

    Yaw is positive where the nose points to the image's right, pitch where it points up, roll as in `roll`.
    Scaled orthography: a linear fit of the rigid points, then the nearest rotation (DeMenthon and Davis,
    "Model-based object pose in 25 lines of code", 1995, its first step). Mirror images have no pose.
    """
    if layout.count < _IBUG_COUNT:
        return None
    head, seen = np.array(list(_HEAD.values())), np.array([points[i] for i in _HEAD])
    view = np.linalg.pinv(head - head.mean(axis=0)) @ (seen - seen.mean(axis=0))
    left, _, right = np.linalg.svd(view.T, full_matrices=False)
    x, y = left @ right
    depth = np.cross(x, y)
    yaw = math.degrees(math.asin(float(depth[0].clip(-1, 1))))
    pitch = math.degrees(math.atan2(-depth[1], depth[2]))
    return yaw, pitch, -math.degrees(math.atan2(y[0], x[0])) + 0.0
