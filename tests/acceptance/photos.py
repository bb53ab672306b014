"""Photos as people have them: rotated, told about in every way, with sidecars of either name."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from scripts.make_demo_library import group, save_oriented
from tests.acceptance.collection import Box

ODD_NAME = 'O}Neil & <Söhne> "x"'
ODD_FILE = 'it\'s "odd" & #1, 100%.jpg'
GROUPS = (
    *("group.JPG", "described.jpg", "picture.png", "old.jpg"),
    *("microsoft.jpg", "both.jpg", "person.jpg", ODD_FILE, "short.jpg"),
)
TAKEN = "2014:05:13 16:53:20"
"""For photos of which nothing else is told: digiKam takes one without a date for as old as its file."""

# The largest face of the group photo: where the face of the portrait (181, 59, 89, 118) lies there.
GROUP_W, GROUP_H = 1600, 1000
LARGEST = Box(1372, 498, 178, 236)

TITLE, CAPTION = "Sonnenuntergang über <Köln> & Bonn", 'Zwei & mehr, "zitiert"'
DESCRIBED: dict[str, Any] = {
    "XMP-dc:Title": TITLE,
    "XMP-dc:Description": CAPTION,
    "XMP-dc:Subject": ["holiday", "Müller & Co"],
    "XMP-lr:HierarchicalSubject": ["places|Köln"],
    "XMP-xmp:Rating": 4,
    "XMP-dc:Creator": ["Ada Lovelace"],
    "XMP-dc:Rights": "(c) A. Lovelace",
    "XMP-photoshop:City": "Köln",
    "EXIF:DateTimeOriginal": "2019:08:07 06:05:04",
    "EXIF:Make": "Kamera",
    "EXIF:Model": "M 1",
    "EXIF:GPSLatitude": 50.5,
    "EXIF:GPSLatitudeRef": "N",
    "EXIF:GPSLongitude": 7.25,
    "EXIF:GPSLongitudeRef": "E",
}
"""As a photo manager of today writes it."""
OLD: dict[str, Any] = {
    "IPTC:ObjectName": "Ein Titel",
    "IPTC:Caption-Abstract": "Eine Beschreibung",
    "IPTC:Keywords": ["urlaub", "köln"],
    "IPTC:By-line": "Grace Hopper",
    "IPTC:CopyrightNotice": "(c) G. Hopper",
    "IPTC:CodedCharacterSet": "UTF8",
    "EXIF:DateTimeOriginal": "2001:02:03 04:05:06",
    "EXIF:Artist": "Grace Hopper",
    "EXIF:Copyright": "(c) G. Hopper",
    "EXIF:Rating": 3,
    "EXIF:ISO": 200,
    "EXIF:FNumber": 2.8,
    "EXIF:FocalLength": 50,
    "EXIF:ExposureTime": 0.01,
}
"""As cameras and managers before XMP did."""


def named(name: str) -> dict[str, Any]:
    """The largest face of the group photo with a name, as a person's manager writes it."""
    x, y, w, h = LARGEST.x / GROUP_W, LARGEST.y / GROUP_H, LARGEST.w / GROUP_W, LARGEST.h / GROUP_H
    area = {"X": x + w / 2, "Y": y + h / 2, "W": w, "H": h}
    region = {"Name": name, "Type": "Face", "Area": {**area, "Unit": "normalized"}}
    size = {"W": GROUP_W, "H": GROUP_H, "Unit": "pixel"}
    return {"XMP-mwg-rs:RegionInfo": {"AppliedToDimensions": size, "RegionList": [region]}}


def tell(file: Path, tags: dict[str, Any]) -> None:
    """Write metadata into a photo, or into a sidecar that is made where there is none."""
    request = file.with_name(file.name + ".request")
    request.write_text(json.dumps([{"SourceFile": "*", **tags}]))
    exiftool("-struct", f"-json={request}", file)
    request.unlink()


def named_by_microsoft(name: str) -> dict[str, Any]:
    """The same in Microsoft's schema, which older programs write alone, and digiKam beside the other."""
    x, y, w, h = LARGEST.x / GROUP_W, LARGEST.y / GROUP_H, LARGEST.w / GROUP_W, LARGEST.h / GROUP_H
    region = {"PersonDisplayName": name, "Rectangle": f"{x:g}, {y:g}, {w:g}, {h:g}"}
    return {"XMP-MP:RegionInfoMP": {"Regions": [region]}}


@dataclass(frozen=True, slots=True)
class Region:
    """A region as it stands in a sidecar, in pixels of the photo as stored."""

    name: str | None
    box: Box


def regions(folder: Path) -> dict[str, list[Region]]:
    """The MWG regions of all sidecars of a folder, in order, as exiftool reads them."""
    command = ["exiftool", "-q", "-q", "-config", "", "-json", "-struct", "-RegionInfo", "-ext", "xmp"]
    answer = subprocess.run([*command, str(folder)], check=True, capture_output=True)
    sidecars = json.loads(answer.stdout)
    return {Path(sidecar["SourceFile"]).name: _regions(sidecar.get("RegionInfo")) for sidecar in sidecars}


def _regions(info: dict[str, Any] | None) -> list[Region]:
    if info is None:
        return []
    size = info["AppliedToDimensions"]
    return [
        Region(region.get("Name"), _box(region["Area"], size["W"], size["H"]))
        for region in info["RegionList"]
    ]


def _box(area: dict[str, Any], width: float, height: float) -> Box:
    left, top = area["X"] - area["W"] / 2, area["Y"] - area["H"] / 2
    return Box(left * width, top * height, area["W"] * width, area["H"] * height)


def exiftool(*words: object) -> None:
    """Run the program by itself, as anybody would."""
    command = ["exiftool", "-q", "-q", "-config", "", "-overwrite_original", *map(str, words)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def make(folder: Path, portrait: Image.Image) -> None:
    """All photos of the acceptance test, in one folder."""
    folder.mkdir(parents=True)
    wide = portrait.resize((640, 512))
    for orientation in range(1, 9):
        save(wide, folder / f"oriented-{orientation}.jpg", orientation)
    many = group(portrait)
    assert many.size == (GROUP_W, GROUP_H)
    for name in GROUPS:
        save(many, folder / name)
    save(Image.new("RGB", (400, 300), (120, 140, 160)), folder / "none.jpg")
    exiftool(f"-EXIF:DateTimeOriginal={TAKEN}", folder)
    for name in ("described.jpg", "picture.png"):
        tell(folder / name, {**DESCRIBED, **named("Ada Lovelace")})
    tell(folder / "old.jpg", OLD)
    tell(folder / "microsoft.jpg", named_by_microsoft("Mary Jackson"))
    tell(folder / "both.jpg", {**named("Annie Easley"), **named_by_microsoft("Annie Easley")})
    tell(folder / "person.jpg.xmp", named("Grace Hopper"))
    tell(folder / f"{ODD_FILE}.xmp", named(ODD_NAME))
    tell(folder / "short.xmp", {"XMP-dc:Title": TITLE, **named("Katherine Johnson")})


def save(image: Image.Image, path: Path, orientation: int = 1) -> None:
    """Save with its own name in a corner: to photos of the same content digiKam gives the same faces."""
    copy = image.copy()
    ImageDraw.Draw(copy).text((4, copy.height - 14), f"{path.parent.name}/{path.name}")
    save_oriented(copy, path, orientation)
