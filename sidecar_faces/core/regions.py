"""Faces as MWG-RS regions: areas that round-trip as text, and regions as a sidecar lists them.

Frame: normalized (stored frame, centre-based). An area of ours is rounded to `DECIMALS` decimals when it is
made, so that what is compared later is exactly what was written.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar_faces.core.frames import Area, Size, StoredBox, area_iou, clip, to_area

DECIMALS = 8
"""Enough for 1/1000 pixel of a photo that is 100,000 pixels wide."""
RECOGNITION_TOLERANCE = 1e-4
"""How far another program may have rounded a rectangle of ours: 0.6 pixels of a 6,000-pixel photo."""


@dataclass(frozen=True, slots=True)
class Region:
    """A region of a sidecar, whoever wrote it.

    `index`: position among all regions read (MWG regions first, in list order, then MP regions).
    `schema`: "mwg" or "mp". `area`: None where the numbers cannot be read. `plain`: it holds a normalized
    area and `Type` Face and nothing else, as the regions do that we write.
    """

    index: int
    schema: str
    area: Area | None
    name: str | None
    kind: str | None
    plain: bool

    @property
    def is_named(self) -> bool:
        return bool(self.name and self.name.strip())


def face_area(box: StoredBox, size: Size) -> Area | None:
    """The area to write for a face: clipped to the photo, rounded; None where nothing would be left of it.

    Managers stop reading a list at a nameless region without width or height.
    """
    inside = clip(box, size)
    if inside is None:
        return None
    exact = to_area(inside, size)
    area = Area(*(round(value, DECIMALS) for value in (exact.x, exact.y, exact.w, exact.h)))
    return area if area.w > 0 and area.h > 0 else None


def number(value: float) -> str:
    """A normalized number as text that reads back as the same number; never in exponent form."""
    text = f"{value:.{DECIMALS}f}"
    return text.rstrip("0").rstrip(".") or "0"


def same_place(a: Area, b: Area, tolerance: float = RECOGNITION_TOLERANCE) -> bool:
    """Whether two areas are one rectangle, up to another program's rounding."""
    return (
        abs(a.x - b.x) <= tolerance
        and abs(a.y - b.y) <= tolerance
        and abs(a.w - b.w) <= tolerance
        and abs(a.h - b.h) <= tolerance
    )


def overlaps(a: Area, b: Area, threshold: float = 0.5) -> bool:
    """Whether two areas are about the same face."""
    return area_iou(a, b) >= threshold
