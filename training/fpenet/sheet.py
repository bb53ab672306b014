"""Contact sheets: crops with their points, to look at. Photos of others: never into the repository."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.fpenet.layout import GROUPS

COLOURS = {
    "chin": "#ffd24a", "eyebrows": "#ff8a3c", "nose": "#6ee36e", "eyes": "#4ad0ff", "mouth": "#ff5a7a",
    "inner_lips": "#ff9ad0", "pupils": "#ffffff", "ears": "#c08aff", "eye_extras": "#3c78ff",
}  # fmt: skip
SIDE = 240


def tile(
    crop: NDArray[np.uint8], points: NDArray[np.float32], hidden: NDArray[np.float32], text: str = ""
) -> Image.Image:
    """One square crop (h, h) gray with points (k, 2) in its pixels; hidden (k,) of more than 0.5 are drawn
    hollow.
    """
    image = Image.fromarray(crop).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    draw, scale = ImageDraw.Draw(image), SIDE / crop.shape[0]
    for name, members in GROUPS.items():
        for i in (i for i in members if i < len(points)):
            x, y = points[i] * scale
            area = (x - 1.7, y - 1.7, x + 1.7, y + 1.7)
            draw.ellipse(area, outline=COLOURS[name], fill=None if hidden[i] > 0.5 else COLOURS[name])
    draw.text((4, SIDE - 14), text, fill="white", stroke_width=1, stroke_fill="black")
    return image


def save(tiles: Iterable[Image.Image], path: Path, columns: int = 8) -> None:
    """Lay tiles out in rows and write one PNG."""
    all_tiles = list(tiles)
    rows = -(-len(all_tiles) // columns)
    sheet = Image.new("RGB", (columns * SIDE, rows * SIDE))
    for i, t in enumerate(all_tiles):
        sheet.paste(t, (i % columns * SIDE, i // columns * SIDE))
    sheet.save(path)
