"""What digiKam knows about its photos, read from its database (schema 15, digiKam 7.9)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tests.acceptance.digikam import DigiKam

UNKNOWN, CONFIRMED = "autodetectedFace", "tagRegion"

# What digiKam tells about a photo, a table each; the columns that are the same for two copies of one photo.
_FACTS = {
    "ImageInformation": "rating, creationDate, digitizationDate, orientation, width, height, format",
    "ImageMetadata": "make, model, lens, aperture, focalLength, exposureTime, sensitivity, subjectDistance",
    "ImagePositions": "latitudeNumber, longitudeNumber, altitude, orientation, tilt, roll, description",
    "ImageComments": "type, language, author, date, comment",
    "ImageCopyright": "property, value, extraValue",
    "ImageProperties": "property, value",
}


@dataclass(frozen=True, slots=True)
class Box:
    """x, y (top left), width, height in pixels of the upright photo."""

    x: float
    y: float
    w: float
    h: float

    def iou(self, other: Box) -> float:
        """Intersection over union, 0..1."""
        width = min(self.x + self.w, other.x + other.w) - max(self.x, other.x)
        height = min(self.y + self.h, other.y + other.h) - max(self.y, other.y)
        shared = max(0.0, width) * max(0.0, height)
        return shared / (self.w * self.h + other.w * other.h - shared)


@dataclass(frozen=True, slots=True)
class Item:
    """One photo.

    `people`: confirmed faces with their names. `unknown`: faces that digiKam shows under People > Unknown.
    `tags`: their paths, people and keywords, without those that digiKam keeps for itself.
    `facts`: everything else, as "table.column" -> values.
    """

    people: list[tuple[str, Box]]
    unknown: list[Box]
    tags: set[str]
    facts: dict[str, list[tuple[Any, ...]]]


def items(digikam: DigiKam) -> dict[str, Item]:
    """All photos by their path within the album root."""
    rows = digikam.ask(
        "SELECT Images.id, relativePath, name FROM Images JOIN Albums ON Albums.id = Images.album"
    )
    tags = _tag_paths(digikam)
    return {f"{album}/{name}".lstrip("/"): _item(digikam, number, tags) for number, album, name in rows}


def _tag_paths(digikam: DigiKam) -> dict[int, str]:
    rows = {number: (parent, name) for number, parent, name in digikam.ask("SELECT id, pid, name FROM Tags")}

    def path(number: int) -> str:
        parent, name = rows[number]
        return f"{path(parent)}/{name}" if parent in rows else str(name)

    return {number: path(number) for number in rows}


def _item(digikam: DigiKam, image: int, tags: dict[int, str]) -> Item:
    faces = digikam.ask("SELECT tagid, property, value FROM ImageTagProperties WHERE imageid = ?", image)
    own = digikam.ask("SELECT tagid FROM ImageTags WHERE imageid = ?", image)
    paths = {tags[tag] for (tag,) in own}
    return Item(
        people=[
            (tags[tag].rpartition("/")[2], _box(value)) for tag, kind, value in faces if kind == CONFIRMED
        ],
        unknown=[_box(value) for _, kind, value in faces if kind == UNKNOWN],
        tags={
            path for path in paths if not path.startswith("_Digikam_Internal_Tags_") and "Unknown" not in path
        },
        facts={
            table: sorted(digikam.ask(f"SELECT {columns} FROM {table} WHERE imageid = ?", image), key=repr)
            for table, columns in _FACTS.items()
        },
    )


def _box(value: str) -> Box:
    found = re.fullmatch(r'<rect x="([^"]+)" y="([^"]+)" width="([^"]+)" height="([^"]+)"/>', value)
    assert found is not None, value
    return Box(*map(float, found.groups()))
