"""Faces as COCO: images, annotations with keypoints, and the categories that name them.

Frame: stored pixels, the origin at the top left, as COCO counts them: readers that turn photos upright by
their Exif orientation must not, or turn the boxes too (each image carries its `orientation`). Source: the
COCO data format, "Keypoint Detection".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from sidecar_faces.core.frames import Size, StoredBox
from sidecar_faces.core.landmarks import LAYOUTS, Layout
from sidecar_faces.core.types import Landmarks

Record = dict[str, Any]

_CATEGORY_IDS = {"": 1, **{name: number for number, name in enumerate(LAYOUTS, 2)}}
"""The same in every export, so that files can be joined."""

_CHAINS: tuple[tuple[range, bool], ...] = (
    # points of the iBUG and FPENet layouts that follow each other, and whether the last meets the first
    (range(17), False),
    (range(17, 22), False),
    (range(22, 27), False),
    (range(27, 31), False),
    (range(31, 36), False),
    (range(36, 42), True),
    (range(42, 48), True),
    (range(48, 60), True),
    (range(60, 68), True),
    (range(68, 72), True),
    (range(72, 76), True),
    (range(76, 78), False),
    (range(78, 80), False),
    (range(82, 90), True),
    (range(93, 101), True),
)
_FIVE_POINTS = ((0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4))
_OUTLINE = (*range(17), *reversed(range(17, 27)))
"""Along the jaw from the image's left, then back over the eyebrows."""
_FIVE_OUTLINE = (0, 1, 4, 3)


def skeleton(layout: Layout) -> list[list[int]]:
    """Pairs of points that are joined, counted from 1 as COCO does."""
    if layout.count == 5:
        return [[a + 1, b + 1] for a, b in _FIVE_POINTS]
    pairs: list[list[int]] = []
    for chain, closed in _CHAINS:
        if chain.stop <= layout.count:
            pairs += [[a + 1, a + 2] for a in chain[:-1]]
            pairs += [[chain.stop, chain.start + 1]] if closed else []
    return pairs


def keypoint_names(layout: Layout) -> list[str]:
    """A name for each point: the layout's own, else its group and the point's number, from 1."""
    if layout.points:
        return list(layout.points)
    groups = [name for name, members in layout.groups.items() for _ in members]
    return [f"{group}_{number}" for number, group in enumerate(groups, 1)]


def category(layout: str) -> Record:
    """The category of faces with this landmark layout, or ("") without landmarks."""
    made: Record = {"id": _CATEGORY_IDS[layout], "name": "face", "supercategory": "person"}
    if layout:
        made |= {"layout": layout, "keypoints": keypoint_names(LAYOUTS[layout])}
        made["skeleton"] = skeleton(LAYOUTS[layout])
    return made


def image(number: int, file_name: str, stored: Size, orientation: int) -> Record:
    """An entry of `images`."""
    return {
        "id": number,
        "file_name": file_name,
        "width": stored.width,
        "height": stored.height,
        "orientation": orientation,
    }


def annotation(
    number: int,
    image_id: int,
    box: StoredBox,
    score: float,
    landmarks: Landmarks | None,
    *,
    outline: bool = False,
) -> Record:
    """An entry of `annotations`; `outline` adds the polygon round the landmarks as its `segmentation`."""
    layout = landmarks.layout if landmarks is not None else ""
    made: Record = {
        "id": number,
        "image_id": image_id,
        "category_id": _CATEGORY_IDS[layout],
        "bbox": [box.x, box.y, box.w, box.h],
        "area": box.w * box.h,
        "iscrowd": 0,
        "score": score,
    }
    if landmarks is not None:
        made["keypoints"] = _keypoints(landmarks)
        made["num_keypoints"] = len(landmarks.keypoints)
        made |= {"rotation": landmarks.rotation, "center": list(landmarks.center)}
        made |= {"pose": list(landmarks.pose)} if landmarks.pose is not None else {}
    if outline:
        made["segmentation"] = [_outline(box, landmarks)]
    return made


def _keypoints(landmarks: Landmarks) -> list[float]:
    """x, y, v of each point in a row; v is 1 for an occluded point, else 2."""
    visibility = landmarks.visibility or (2,) * len(landmarks.keypoints)
    points = zip(landmarks.keypoints, visibility, strict=True)
    return [value for (x, y, _), v in points for value in (x, y, v)]


def _outline(box: StoredBox, landmarks: Landmarks | None) -> list[float]:
    if landmarks is None:
        right, bottom = box.x + box.w, box.y + box.h
        return [box.x, box.y, right, box.y, right, bottom, box.x, bottom]
    indexes = _FIVE_OUTLINE if len(landmarks.keypoints) == 5 else _OUTLINE
    return [value for index in indexes for value in landmarks.keypoints[index][:2]]


class CocoWriter:
    """Writes a COCO file piece by piece, in constant memory.

    Images go straight to `out`; annotations, which must follow them, wait in `spool` (a temporary file, open
    for reading and writing). `add` photos, then `close` once.
    """

    def __init__(self, out: TextIO, spool: TextIO, info: Record, *, outline: bool = False) -> None:
        self._out, self._spool, self._outline = out, spool, outline
        self.images = self.annotations = 0
        self._layouts: set[str] = set()
        out.write(f'{{\n"info": {json.dumps(info)},\n"licenses": [],\n"images": [')

    def add(
        self,
        file_name: str,
        stored: Size,
        orientation: int,
        faces: Sequence[tuple[StoredBox, float, Landmarks | None]],
    ) -> None:
        """Add a photo and its faces: box and landmarks in stored pixels, score 0..1."""
        self.images += 1
        self._item(self._out, image(self.images, file_name, stored, orientation), first=self.images == 1)
        for box, score, landmarks in faces:
            self.annotations += 1
            made = annotation(self.annotations, self.images, box, score, landmarks, outline=self._outline)
            self._item(self._spool, made, first=self.annotations == 1)
            self._layouts.add(landmarks.layout if landmarks is not None else "")

    @staticmethod
    def _item(file: TextIO, item: Record, *, first: bool) -> None:
        file.write(f"{'' if first else ','}\n{json.dumps(item, separators=(',', ':'))}")

    def close(self) -> None:
        """Write what waits; the caller closes the files."""
        self._out.write('\n],\n"annotations": [')
        self._spool.seek(0)
        for block in _blocks(self._spool):
            self._out.write(block)
        layouts = sorted(self._layouts or {""}, key=_CATEGORY_IDS.__getitem__)
        categories = ",\n".join(json.dumps(category(layout)) for layout in layouts)
        self._out.write(f'\n],\n"categories": [\n{categories}\n]\n}}\n')


def _blocks(file: TextIO) -> Iterator[str]:
    while block := file.read(1 << 20):
        yield block
