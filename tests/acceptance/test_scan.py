"""What a digiKam that knows nothing yet makes of a library that was indexed."""

from __future__ import annotations

import pytest

from tests.acceptance.collection import Box, Item
from tests.acceptance.conftest import INDEXED, Library
from tests.acceptance.photos import LARGEST, ODD_FILE, ODD_NAME, TITLE
from tests.cli.conftest import Tree

NAMED = {
    "described.jpg": "Ada Lovelace",
    "picture.png": "Ada Lovelace",
    "person.jpg": "Grace Hopper",
    ODD_FILE: ODD_NAME,
    "short.jpg": "Katherine Johnson",
    "microsoft.jpg": "Mary Jackson",
    "both.jpg": "Annie Easley",
}
ORIENTED = [f"oriented-{orientation}.jpg" for orientation in range(1, 9)]
OTHERS = ["group.JPG", "old.jpg", "none.jpg"]


def ours(library: Library, name: str) -> list[Box]:
    """The anonymous regions in the sidecar, in pixels of the photo as stored."""
    return [region.box for region in library.regions[f"{name}.xmp"] if region.name is None]


def test_digikam_has_seen_every_photo(library: Library) -> None:
    expected = {*NAMED, *ORIENTED, *OTHERS}
    assert {name.partition("/")[2] for name in library.items} == expected
    assert len(library.items) == 2 * len(expected)
    assert library.summary["indexed"] == len(expected)


@pytest.mark.parametrize("name", ORIENTED)
def test_the_face_is_where_it_is_in_all_orientations(library: Library, name: str) -> None:
    """All eight look the same; of the first, which is stored upright, our region is the place."""
    (face,) = library.indexed(name).unknown
    (upright,) = ours(library, ORIENTED[0])
    assert face.iou(upright) >= 0.9
    assert len(ours(library, name)) == 1


@pytest.mark.parametrize("name", [*ORIENTED, "group.JPG", "old.jpg"])
def test_anonymous_faces_are_unknown_people(library: Library, name: str) -> None:
    item = library.indexed(name)
    assert item.people == []
    assert not any(tag.startswith("People/") for tag in item.tags)
    assert len(item.unknown) == len(ours(library, name)) > 0
    assert library.untouched(name).unknown == []


def test_every_face_of_a_group_is_where_we_wrote_it(library: Library) -> None:
    regions = ours(library, "group.JPG")
    assert len(regions) == 6
    for face in library.indexed("group.JPG").unknown:
        assert max(face.iou(region) for region in regions) >= 0.9


@pytest.mark.parametrize(("name", "person"), NAMED.items())
def test_named_faces_keep_their_names_and_ours_come_after(library: Library, name: str, person: str) -> None:
    item = library.indexed(name)
    assert item.people == [(person, LARGEST)]
    assert f"People/{person}" in item.tags
    assert len(item.unknown) == 5
    assert max(face.iou(LARGEST) for face in item.unknown) == 0
    sidecar = "short.xmp" if name == "short.jpg" else f"{name}.xmp"
    names = [region.name for region in library.regions[sidecar]]
    assert names == ([] if name == "microsoft.jpg" else [person]) + [None] * 5


@pytest.mark.parametrize("name", [*NAMED, *ORIENTED, *OTHERS])
def test_digikam_knows_what_it_would_know_without_us(library: Library, name: str) -> None:
    with_us, without_us = library.indexed(name), library.untouched(name)
    assert with_us.people == without_us.people
    assert with_us.tags == without_us.tags
    assert with_us.facts == without_us.facts


def comments(item: Item) -> set[str]:
    return {str(row[-1]) for row in item.facts["ImageComments"]}


def test_what_the_photo_said_is_there(library: Library) -> None:
    """The test above is not vacuous: digiKam read titles, captions, keywords, dates, places, ratings."""
    for name in ("described.jpg", "picture.png"):
        item = library.indexed(name)
        assert TITLE in comments(item)
        assert item.tags == {"places/Köln", "People/Ada Lovelace"}
        assert item.facts["ImageInformation"][0][:2] == (4, "2019-08-07T06:05:04.000")
        assert item.facts["ImageMetadata"][0][:2] == ("Kamera", "M 1")
        assert item.facts["ImagePositions"] != []
    old = library.indexed("old.jpg")
    assert comments(old) == {"Ein Titel", "Eine Beschreibung"}
    assert old.tags == {"urlaub", "köln"}
    assert old.facts["ImageInformation"][0][:2] == (3, "2001-02-03T04:05:06.000")


def test_a_sidecar_of_the_short_name_is_edited_in_place(library: Library) -> None:
    """digiKam 7.9 reads IMG.xmp and ignores IMG.jpg.xmp beside it."""
    files = Tree.of(library.root / INDEXED).files
    assert "short.jpg.xmp" not in files
    assert files["short.xmp"] != library.before.files["short.xmp"]
    assert TITLE in comments(library.indexed("short.jpg"))


def test_digikam_and_we_left_the_photos_alone(library: Library) -> None:
    after = Tree.of(library.root / INDEXED)
    assert after.without(".xmp", ".faces.json") == library.before.without(".xmp")
