"""What other programs make of our sidecars, and we of theirs: exiftool, and exiv2 where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sidecar_faces.core.frames import Area, DisplayedBox, displayed_size, from_area, to_displayed, to_stored
from sidecar_faces.core.types import Face, FaceResult
from sidecar_faces.sidecar.document import Document
from sidecar_faces.sidecar.read import describe
from sidecar_faces.sidecar.undo import undo
from tests.sidecar.conftest import BOX, OTHER, SIZE, Library, jpeg
from tests.sidecar.packets import Foreign, Style, Writer


def read(path: str) -> dict[str, Any]:
    """All that exiftool reads."""
    command = ["exiftool", "-struct", "-json", "-n", "-G1", "-XMP:all", path]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[0]
    return {
        key: value for key, value in found.items() if key.startswith("XMP-") and key != "XMP-x:XMPToolkit"
    }


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exiftool_reads_regions_in_the_stored_frame(library: Library, orientation: int) -> None:
    library.add("a.jpg", jpeg(orientation=orientation))
    upright = displayed_size(SIZE, orientation)
    face = DisplayedBox(upright.width * 0.1, upright.height * 0.2, upright.width * 0.3, upright.height * 0.15)
    stored = to_stored(face, SIZE, orientation)
    library.writer().write(FaceResult(library.photo("a.jpg", orientation), (Face(stored, 0.9, None),)))
    info = read(library.path("a.jpg.xmp"))["XMP-mwg-rs:RegionInfo"]
    assert info["AppliedToDimensions"] == {"W": 640, "H": 480, "Unit": "pixel"}
    (region,) = info["RegionList"]
    assert region["Type"] == "Face"
    assert "Name" not in region
    area = region["Area"]
    assert area["Unit"] == "normalized"
    back = from_area(Area(area["X"], area["Y"], area["W"], area["H"]), SIZE)
    seen = to_displayed(back, SIZE, orientation)
    assert (seen.x, seen.y, seen.w, seen.h) == pytest.approx((face.x, face.y, face.w, face.h), abs=0.01)
    assert "XMP-tiff:Orientation" not in read(library.path("a.jpg.xmp"))


NAMES = [
    *("O'Neil", "O}Neil", "a{b", "{x}", "[x]", "a|b", "a,b", "A/B", "A\\B", "<b>", "&amp;", "&", '"q"', "#1"),
    *("$HOME", "@x", "%s", "-name", "--", "=", "a=b", "Zoë", "Łukasz", "Ørsted", "李小龍", "محمد", "עברית"),
    *("Ελένη", "Иван", "नमस्ते", "👩\u200d👩\u200d👧", "e\u0301", "\u200bzero", "a\u00a0b", "Dr. Who, PhD"),
    *("x" * 300, "null", "true", "0", "1e5", "NaN", "]]>", "<!--", "-->", "<?x?>", "a;b", "a:b", "a*b?", "~"),
    *("`x`", "\u202eabc", "\ufb00", "İ", "ß", "\U0001d504", "|>"),
]


def sidecar_by_exiftool(library: Library, name: str, people: list[str]) -> None:
    """A sidecar as exiftool makes it of JSON, one named region per person."""
    regions = [
        {
            "Name": person,
            "Type": "Face",
            "Area": {"X": 0.9, "Y": 0.9, "W": 0.01, "H": 0.01, "Unit": "normalized"},
        }
        for person in people
    ]
    info = {"AppliedToDimensions": {"W": 640, "H": 480, "Unit": "pixel"}, "RegionList": regions}
    source = library.root.parent / "in.json"
    source.write_text(json.dumps([{"SourceFile": "*", "RegionInfo": info}], ensure_ascii=False))
    subprocess.run(["exiftool", "-q", f"-json={source}", library.path(name)], check=True)


def test_two_hundred_odd_names_come_through(library: Library) -> None:
    names = [*NAMES, *(f"{a}{b}" for a, b in zip(NAMES, reversed(NAMES), strict=True))]
    names += [f"{name}{n}" for n, name in enumerate(names)]
    assert len(set(names)) >= 200
    library.add("a.jpg")
    sidecar_by_exiftool(library, "a.jpg.xmp", names)
    before, raw = read(library.path("a.jpg.xmp")), (library.root / "a.jpg.xmp").read_bytes()
    library.write("a.jpg", BOX)
    seen = describe(library.path("a.jpg"), library.layout)
    assert [region.name for region in seen.regions] == [*names, None]
    after = read(library.path("a.jpg.xmp"))
    after["XMP-mwg-rs:RegionInfo"]["RegionList"].pop()
    assert after == before
    undo(library.path("a.jpg"), library.layout)
    assert (library.root / "a.jpg.xmp").read_bytes() == raw


STYLES = {
    "exiv2, digiKam": Style(struct="attributes", about=' rdf:about=""'),
    "Lightroom": Style(struct="description", array="Bag", indent=" "),
    "Picasa": Style(struct="resource", packet=False, newline="", meta=True),
    "Windows": Style(struct="resource", newline="\r\n", encoding="utf-8-sig", meta=True),
    "darktable": Style(struct="attributes", comments=True, array="Seq"),
    "UTF-16": Style(encoding="utf-16-le"),
}


@pytest.mark.parametrize("style", STYLES)
def test_other_programs_sidecars_keep_every_value(library: Library, style: str) -> None:
    people = [
        Foreign(Area(0.9, 0.9, 0.05, 0.05), "Ada", extra=True),
        Foreign(Area(0.7, 0.9, 0.05, 0.05), None),
    ]
    data = Writer(STYLES[style]).packet(people, block=True)
    library.add("a.jpg")
    library.add("a.xmp", data)
    before = read(library.path("a.xmp"))
    assert library.write("a.jpg", BOX, OTHER) == 2
    after = read(library.path("a.xmp"))
    added = after["XMP-mwg-rs:RegionInfo"]["RegionList"][2:]
    del after["XMP-mwg-rs:RegionInfo"]["RegionList"][2:]
    assert after == before
    assert [set(region) for region in added] == [{"Area", "Type"}] * 2
    undo(library.path("a.jpg"), library.layout)
    assert (library.root / "a.xmp").read_bytes() == data


def test_ours_are_recognised_after_exiftool_wrote_the_sidecar_anew(library: Library) -> None:
    library.add("a.jpg")
    library.write("a.jpg", BOX, OTHER)
    command = ["exiftool", "-q", "-overwrite_original", "-XMP-dc:Title=x", library.path("a.jpg.xmp")]
    subprocess.run(command, check=True)
    assert [region.is_ours for region in describe(library.path("a.jpg"), library.layout).regions] == [
        True,
        True,
    ]
    before = library.tree()
    assert library.write("a.jpg", BOX, OTHER) == 2
    assert library.tree() == before


def test_ours_are_recognised_after_exiv2_wrote_the_sidecar_anew(library: Library) -> None:
    if shutil.which("exiv2") is None:
        pytest.skip("exiv2 is not installed")
    library.add("a.jpg")
    library.write("a.jpg", BOX, OTHER)
    path = library.path("a.jpg.xmp")
    subprocess.run(["exiv2", "-M", "set Xmp.dc.source by exiv2", "mo", path], check=True, capture_output=True)
    assert b"by exiv2" in Path(path).read_bytes()
    assert [region.is_ours for region in describe(library.path("a.jpg"), library.layout).regions] == [
        True,
        True,
    ]
    before = library.tree()
    assert library.write("a.jpg", BOX, OTHER) == 2
    assert library.tree() == before
    undo(library.path("a.jpg"), library.layout)
    assert not Document.read(Path(path).read_bytes()).regions
    assert b"by exiv2" in Path(path).read_bytes()


def test_microsoft_regions_keep_ours_away(library: Library) -> None:
    library.add("a.jpg")
    x, y, w, h = (BOX[0] / 640, BOX[1] / 480, BOX[2] / 640, BOX[3] / 480)
    subprocess.run(
        [
            "exiftool",
            "-q",
            f"-RegionInfoMP={{Regions=[{{PersonDisplayName=Ada,Rectangle={x}|, {y}|, {w}|, {h}}}]}}",
            library.path("a.xmp"),
        ],
        check=True,
    )
    before = (library.root / "a.xmp").read_bytes()
    assert library.write("a.jpg", BOX) == 1
    assert (library.root / "a.xmp").read_bytes() == before
    (seen,) = describe(library.path("a.jpg"), library.layout).regions
    assert (seen.schema, seen.name, seen.is_ours) == ("mp", "Ada", False)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("X=320,Y=240,W=64,H=48,Unit=pixel", Area(0.5, 0.5, 0.1, 0.1)),
        ("X=0.5,Y=0.5,D=0.1,Unit=normalized", Area(0.5, 0.5, 0.1, 0.1)),
        ("X=0.5,Y=0.5,W=0.1,Unit=normalized", None),
    ],
)
def test_other_units_and_shapes_are_understood(library: Library, fields: str, expected: Area | None) -> None:
    region = f"{{Area={{{fields}}},Name=Ada,Type=Face}}"
    info = f"-RegionInfo={{AppliedToDimensions={{W=640,H=480,Unit=pixel}},RegionList=[{region}]}}"
    library.add("a.jpg")
    subprocess.run(["exiftool", "-q", info, library.path("a.xmp")], check=True)
    (seen,) = describe(library.path("a.jpg"), library.layout).regions
    assert seen.area == expected
    assert seen.name == "Ada"
