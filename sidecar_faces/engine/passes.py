"""Which looks a detector takes at a photo, their geometry, and how their findings become one list.

A detector like CenterFace finds faces of about 20 to 450 pixels. The first pass shows it the whole photo
at a size at which no face is too large; later passes show it finer tiles, for small faces only. Measured on
129 portraits scaled to exact sizes, a face of 8 pixels is never found outright but in 61 % of cases
*suspected* (score 0.1 or more), while few places without a face are: so a pass may look only where the one
before it suspects something, which makes looking twice as fine nearly free where nothing small is.

Passes are sized by area, not by long side, so that panoramas are not starved and cost stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sidecar_faces.core.frames import Floats, Letterbox, Size
from sidecar_faces.engine.base import Detections

TILE = 512
"""Side of a tile, pixels of its view."""
OVERLAP = 96
"""What neighbouring tiles share, and so the longer side of the largest face that a tile may report."""
SUSPECTED = 0.1
"""Score from which a finer pass looks again."""
SMALL = 32
"""Shorter side, in pixels of the view, below which a face is worth a finer look."""
SAME_FACE = 0.3
"""Overlap (IoU) from which two detections are one face."""
_MAX_ASPECT = 16
_ENLARGE = 2.0
"""How much a finer pass may enlarge a small photo; on photos of 1024 pixels that finds a tenth more faces."""
_WORTHWHILE = 1.1


@dataclass(frozen=True, slots=True)
class Pass:
    """The photo scaled to `pixels` (width times height), whole or by tiles.

    `everywhere`: whether all of it is looked at, or only where the pass before suspects a small face.
    """

    pixels: int
    everywhere: bool = True


_COARSE = Pass(640 * 480)
PLANS: dict[str, tuple[Pass, ...]] = {
    "fast": (Pass(416 * 312),),
    "normal": (_COARSE, Pass(1280 * 960, everywhere=False)),
    "fine": (_COARSE, Pass(1280 * 960), Pass(2560 * 1920, everywhere=False)),
}


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of a view, in its pixels: left, top, right, bottom.

    `core` is the part that this tile answers for: every point of the view lies in exactly one core, and
    a face no longer than `OVERLAP` whose centre lies in a core lies wholly in its tile, or at the border.
    """

    box: tuple[int, int, int, int]
    core: tuple[float, float, float, float]

    def holds(self, centers: Floats) -> NDArray[np.bool_]:
        """Which of the (n, 2) points lie in the core."""
        left, top, right, bottom = self.core
        x, y = centers[:, 0], centers[:, 1]
        return np.asarray((x >= left) & (x < right) & (y >= top) & (y < bottom))


@dataclass(frozen=True, slots=True)
class View:
    """A pass over photos of one size: scale, tiles, and the longest face to believe (pixels of the view)."""

    letterbox: Letterbox
    tiles: tuple[Tile, ...]
    longest: float
    everywhere: bool


def views(displayed: Size, detail: str) -> tuple[View, ...]:
    """The passes for photos of a displayed size, coarse to fine, without those that would add nothing."""
    made: list[View] = []
    for step in PLANS[detail]:
        enlarge = _ENLARGE if made else 1.0
        letterbox = Letterbox.fit(displayed, _long_side(displayed, step.pixels), enlarge=enlarge)
        if not made:
            made.append(View(letterbox, (_whole(letterbox.content),), math.inf, everywhere=True))
        elif letterbox.scale_x > made[-1].letterbox.scale_x * _WORTHWHILE:
            made.append(View(letterbox, tiles(letterbox.content), OVERLAP, step.everywhere))
    return tuple(made)


def canvas_key(displayed: Size, detail: str) -> Hashable:
    """Photos with the same key share the tensors' shapes in every pass."""
    first, *finer = views(displayed, detail)
    return (first.letterbox.canvas, *(view.letterbox.content for view in finer))


def _long_side(displayed: Size, pixels: int) -> int:
    long, short = max(displayed.width, displayed.height), min(displayed.width, displayed.height)
    return max(1, round(math.sqrt(pixels * min(long / short, _MAX_ASPECT))))


def _whole(content: Size) -> Tile:
    return Tile((0, 0, content.width, content.height), (-math.inf, -math.inf, math.inf, math.inf))


def tiles(content: Size) -> tuple[Tile, ...]:
    """Cover a view by as few tiles as overlap enough, spread evenly."""
    columns, rows = _spans(content.width), _spans(content.height)
    return tuple(
        Tile((left, top, right, bottom), (core_left, core_top, core_right, core_bottom))
        for top, bottom, core_top, core_bottom in rows
        for left, right, core_left, core_right in columns
    )


def _spans(length: int) -> list[tuple[int, int, float, float]]:
    """(start, end, start of the core, end of the core) of each tile along one axis."""
    count = max(1, math.ceil((length - OVERLAP) / (TILE - OVERLAP)))
    starts = [round(i * (length - TILE) / (count - 1)) for i in range(count)] if count > 1 else [0]
    borders = [(start + TILE + following) / 2 for start, following in pairwise(starts)]
    cores = zip((-math.inf, *borders), (*borders, math.inf), strict=True)
    return [(start, min(start + TILE, length), *core) for start, core in zip(starts, cores, strict=True)]


def wanted(view: View, suspects: Floats) -> tuple[Tile, ...]:
    """The tiles to look at; `suspects` (n, 2) are centres in displayed pixels."""
    if view.everywhere:
        return view.tiles
    centers = suspects * np.array([view.letterbox.scale_x, view.letterbox.scale_y])
    return tuple(tile for tile in view.tiles if tile.holds(centers).any())


def to_displayed(found: Detections, tile: Tile, view: View) -> Detections:
    """What a tile reports, in displayed pixels: only faces it answers for, none too long for it."""
    left, top = tile.box[:2]
    boxes = found.boxes + np.array([left, top, left, top])
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    keep = tile.holds(centers) & (sides.max(axis=1, initial=0) <= view.longest)
    scale = np.array([view.letterbox.scale_x, view.letterbox.scale_y])
    points = (found.points[keep] + np.array([left, top])) / scale
    return Detections(boxes[keep] / np.tile(scale, 2), found.scores[keep], points)


def suspects(found: Detections, view: View) -> Floats:
    """(n, 2) centres, in displayed pixels, of what a finer pass should look at."""
    sides = (found.boxes[:, 2:] - found.boxes[:, :2]).min(axis=1, initial=math.inf)
    small = (sides * view.letterbox.scale_x < SMALL) & (found.scores >= SUSPECTED)
    return np.asarray((found.boxes[small, :2] + found.boxes[small, 2:]) / 2)


def merge(parts: Iterable[Detections], min_score: float) -> Detections:
    """One list, best first, each face once. All parts share one frame."""
    together = list(parts)
    boxes = np.concatenate([part.boxes for part in together])
    scores = np.concatenate([part.scores for part in together])
    points = np.concatenate([part.points for part in together])
    good = np.flatnonzero(scores >= min_score)
    keep = good[suppress(boxes[good], scores[good], SAME_FACE)]
    return Detections(boxes[keep], scores[keep], points[keep])


def iou(box: Floats, others: Floats) -> Floats:
    """Intersection over union of one box (4,) with others (n, 4), all x1, y1, x2, y2."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.asarray(shared / np.maximum(union, np.finfo(np.float64).tiny))


def suppress(boxes: Floats, scores: Floats, limit: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: indexes to keep, best first.

    A box is dropped where its IoU with a better one that is kept exceeds `limit`.
    """
    waiting, keep = np.argsort(-scores, kind="stable"), []
    while waiting.size:
        best, waiting = waiting[0], waiting[1:]
        keep.append(best)
        waiting = waiting[iou(boxes[best], boxes[waiting]) <= limit]
    return np.array(keep, dtype=np.intp)
