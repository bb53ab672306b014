"""Draw faces on a photo: boxes, landmarks in the colours of their groups, names and scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from sidecar_faces.core.frames import DisplayedBox, Floats
from sidecar_faces.core.landmarks import LAYOUTS

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Color = tuple[int, int, int]
OURS: Color = (0, 200, 255)
NAMED: Color = (90, 220, 90)
OTHERS: Color = (255, 190, 60)
REJECTED: Color = (150, 150, 150)
_GROUPS: dict[str, Color] = {
    "chin": (255, 255, 255),
    "eyebrows": (255, 170, 40),
    "nose": (90, 230, 120),
    "eyes": (70, 170, 255),
    "mouth": (255, 70, 90),
    "inner_lips": (255, 130, 200),
    "pupils": (255, 240, 60),
    "ears": (190, 120, 255),
    "eye_extras": (120, 240, 240),
}


@dataclass(frozen=True, slots=True)
class Mark:
    """One box to draw, in displayed pixels of the whole photo, with its (n, 2) points of a layout."""

    box: DisplayedBox
    text: str
    color: Color
    points: Floats | None = None
    layout: str = ""


def draw(image: Image.Image, scale: float, marks: Iterable[Mark]) -> Image.Image:
    """Draw on a copy of an upright image; `scale` is image pixels per photo pixel."""
    result = image.convert("RGB")
    canvas = ImageDraw.Draw(result)
    unit = max(1, round(max(result.size) / 640))
    font = ImageFont.load_default(size=max(11, 7 * unit))
    for mark in marks:
        box = [v * scale for v in (mark.box.x, mark.box.y, mark.box.x + mark.box.w, mark.box.y + mark.box.h)]
        canvas.rectangle(box, outline=mark.color, width=unit)
        if mark.points is not None:
            radius = max(0.8, min(unit * 3.0, (box[2] - box[0]) / (12 * math.sqrt(len(mark.points)))))
            _points(canvas, mark.points * scale, mark.layout, radius)
        if mark.text:
            _label(canvas, box, mark, font)
    return result


def _points(canvas: ImageDraw.ImageDraw, points: Floats, layout: str, radius: float) -> None:
    for group, indexes in LAYOUTS[layout].groups.items():
        for x, y in points[indexes.start : indexes.stop]:
            around = (x - radius, y - radius, x + radius, y + radius)
            canvas.ellipse(around, fill=_GROUPS[group])


def _label(canvas: ImageDraw.ImageDraw, box: list[float], mark: Mark, font: _Font) -> None:
    """Above the box, or inside it at the upper border of the photo."""
    left, top, right, bottom = canvas.textbbox((box[0], 0), mark.text, font=font)
    height = bottom - top + 4
    y = box[1] - height if box[1] >= height else box[1]
    canvas.rectangle((left - 2, y, right + 2, y + height), fill=mark.color)
    canvas.text((box[0], y - top + 2), mark.text, fill=(0, 0, 0), font=font)


def grid(images: Sequence[Image.Image], cell: int = 640, gap: int = 8) -> Image.Image:
    """Images side by side in rows, each shrunk to fit a square of `cell` pixels; one image stays as it is."""
    if len(images) == 1:
        return images[0]
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (cell + gap) - gap, rows * (cell + gap) - gap), (32, 32, 32))
    for number, image in enumerate(images):
        small = image.copy()
        small.thumbnail((cell, cell))
        left, top = (number % columns) * (cell + gap), (number // columns) * (cell + gap)
        sheet.paste(small, (left + (cell - small.width) // 2, top + (cell - small.height) // 2))
    return sheet
