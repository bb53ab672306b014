"""Make a small photo library from the NASA portrait that ships with scikit-image (public domain).

Sizes, all eight Exif orientations, a group, a photo without faces. Usage: make_demo_library.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import skimage.data
from PIL import Image, ImageOps

from sidecar_faces.library.probe import ORIENTATION_TAG

# How to turn an upright image so that a viewer that honours the orientation shows it upright again.
_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def save_oriented(image: Image.Image, path: Path, orientation: int) -> None:
    """Store an upright image so that it needs `orientation` (1..8) to be upright again."""
    stored = image.transpose(_UNDO[orientation]) if orientation in _UNDO else image
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    stored.save(path, quality=90, exif=exif)


def group(portrait: Image.Image) -> Image.Image:
    """Six faces of different sizes on one photo."""
    canvas = Image.new("RGB", (1600, 1000), (150, 160, 170))
    face = portrait.crop((140, 20, 320, 260))
    for column, scale in enumerate((0.4, 0.7, 1.0, 1.3, 1.6, 2.0)):
        tile = face.resize((round(180 * scale), round(240 * scale)))
        left, top = 40 + column * 250, (60, 420)[column % 2]
        canvas.paste(tile if column % 2 else ImageOps.mirror(tile), (left, top))
    return canvas


def main(folder: Path) -> None:
    """Write the library; files that exist are left as they are, so that a second run finds nothing new."""
    portrait = Image.fromarray(skimage.data.astronaut())
    photos: dict[str, tuple[Image.Image, int]] = {
        f"orientations/portrait-{orientation}.jpg": (portrait, orientation) for orientation in range(1, 9)
    }
    for width in (160, 640, 2000):
        photos[f"sizes/portrait-{width}.jpg"] = (portrait.resize((width, width)), 1)
    photos["group.jpg"] = (group(portrait), 1)
    photos["no-face.jpg"] = (Image.fromarray(skimage.data.coffee()), 1)
    for name, (image, orientation) in photos.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            save_oriented(image, path, orientation)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
