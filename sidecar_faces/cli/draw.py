"""Draw faces on a photo: boxes, landmarks, names and scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from sidecar_faces.core.frames import DisplayedBox, Floats

OURS, NAMED, OTHERS = (0, 200, 255), (90, 220, 90), (255, 190, 60)
_POINT = (255, 70, 70)


@dataclass(frozen=True, slots=True)
class Mark:
    """One box to draw, in displayed pixels of the full photo; `points` is (n, 2) or None."""

    box: DisplayedBox
    text: str
    color: tuple[int, int, int]
    points: Floats | None = None


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
            radius = max(1.0, min(unit * 1.5, (box[2] - box[0]) / 60))
            for x, y in mark.points * scale:
                canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_POINT)
        if mark.text:
            _label(canvas, box, mark, font)
    return result


def _label(canvas: ImageDraw.ImageDraw, box: list[float], mark: Mark, font: ImageFont.FreeTypeFont) -> None:
    """Above the box, or inside it at the upper border of the photo."""
    left, top, right, bottom = canvas.textbbox((box[0], 0), mark.text, font=font)
    height = bottom - top + 4
    y = box[1] - height if box[1] >= height else box[1]
    canvas.rectangle((left - 2, y, right + 2, y + height), fill=mark.color)
    canvas.text((box[0], y - top + 2), mark.text, fill=(0, 0, 0), font=font)
