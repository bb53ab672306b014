"""The 104 point layout: groups, left/right permutation, and where each point lies on the Face Mesh.

Indices here are 0-based; the layout is numbered from 1 in words. "Left" and "right" are the image's.
The first 68 are iBUG's, the first 80 NVIDIA FPENet's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

POINTS, VERTICES = 104, 478

GROUPS: dict[str, list[int]] = {
    "chin": list(range(17)),
    "eyebrows": list(range(17, 27)),
    "nose": list(range(27, 36)),
    "eyes": list(range(36, 48)),
    "mouth": list(range(48, 61)),
    "inner_lips": list(range(61, 68)),
    "pupils": list(range(68, 76)),
    "ears": list(range(76, 80)),
    "eye_extras": list(range(80, 104)),
}

# One mesh vertex per iBUG point, the one it comes nearest to.
IBUG_VERTICES = [
    127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 6, 195, 4, 98, 97, 2, 326, 327,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 78, 81, 13, 311, 308, 402, 14, 178,
]  # fmt: skip
# Per iris: centre, then the ring's left, top, right, bottom as seen in the image.
IRIS_LEFT, IRIS_RIGHT = (468, 471, 470, 469, 472), (473, 476, 475, 474, 477)
LIDS = (159, 145, 386, 374)  # upper, lower of the left eye; of the right eye
CORNERS = ((33, 133), (362, 263))
# Ears: vertices beside the tragus, moved outwards and backwards in space (see `ear`).
EAR_LEFT, EAR_RIGHT, NOSE_TIP = (93, 127), (323, 356), 4
TRAGUS_LEFT, TRAGUS_RIGHT = 234, 454

Row = dict[int, float]


def _mirror() -> NDArray[np.int64]:
    """`points[MIRROR]` of a mirrored face are its points in the layout's order."""
    pairs = [(i, 16 - i) for i in range(8)] + [(17 + i, 26 - i) for i in range(5)]
    pairs += [(31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    pairs += [(48, 54), (49, 53), (50, 52), (59, 55), (58, 56), (60, 64), (61, 63), (67, 65)]
    pairs += [(68, 74), (69, 73), (70, 72), (71, 75), (76, 78), (77, 79), (80, 91), (81, 92)]
    pairs += [(82 + k, 93 + (4 - k) % 8) for k in range(8)] + [(90, 101), (102, 103)]
    order = np.arange(POINTS)
    for a, b in pairs:
        order[a], order[b] = b, a
    return order


MIRROR = _mirror()


def iris_rows(ring: tuple[int, int, int, int, int]) -> tuple[list[Row], list[Row], Row]:
    """(4 pupil points, 8 ring points, centre) of one iris as affine combinations of its five vertices.

    The ring runs left, top left, top, ... round the image's clock.
    """
    centre, left, top, right, bottom = ring
    cardinal = [{v: 1.0} for v in (left, top, right, bottom)]
    ring_rows: list[Row] = []
    for k in range(4):
        a, b = (left, top, right, bottom)[k], (top, right, bottom, left)[k]
        h = float(np.sqrt(0.5))
        ring_rows += [{a: 1.0}, {a: h, b: h, centre: 1 - 2 * h}]
    return cardinal, ring_rows, {centre: 1.0}


def ear(base: int, near: int, far: int, out: float, back: float) -> Row:
    """`base` moved by `out` away from the other ear and by `back` from the nose tip to the ear axis.

    An affine combination of vertices, so it follows the head in space under weak perspective.
    """
    row: Row = {base: 1.0}
    for v, w in ((near, out + back / 2), (far, -out + back / 2), (NOSE_TIP, -back)):
        row[v] = row.get(v, 0.0) + w
    return row


def extra_rows(out: float, back_top: float, back_bottom: float) -> list[Row]:
    """Rows of points 69 to 104."""
    pupil_l, ring_l, centre_l = iris_rows(IRIS_LEFT)
    pupil_r, ring_r, centre_r = iris_rows(IRIS_RIGHT)
    ears = [
        ear(base, near, far, out, back)
        for pair, near, far in (
            (EAR_LEFT, TRAGUS_LEFT, TRAGUS_RIGHT),
            (EAR_RIGHT, TRAGUS_RIGHT, TRAGUS_LEFT),
        )
        for base, back in zip(pair, (back_bottom, back_top), strict=True)
    ]
    lids: list[Row] = [{v: 1.0} for v in LIDS]
    middle: list[Row] = [{a: 0.5, b: 0.5} for a, b in CORNERS]
    return [*pupil_l, *pupil_r, *ears, *lids[:2], *ring_l, centre_l, *lids[2:], *ring_r, centre_r, *middle]


def dense(rows: list[Row]) -> NDArray[np.float64]:
    """(len(rows), 478) matrix."""
    m = np.zeros((len(rows), VERTICES))
    for i, row in enumerate(rows):
        for v, w in row.items():
            m[i, v] = w
    return m
