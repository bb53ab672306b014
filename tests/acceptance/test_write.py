"""A digiKam that knows the photos already: it hears of our faces, gives a name, writes, and drops ours.

digiKam 7.9 writes confirmed faces only. What it dropped must not come back on its own; the rest is its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scripts.make_demo_library import group
from tests.acceptance import photos
from tests.acceptance.collection import CONFIRMED, UNKNOWN, Box, Item, items
from tests.acceptance.digikam import DigiKam
from tests.cli.conftest import Cli, Tree

ADA, GRACE = 'Ada "the first" O}Lovelace & Söhne', "Grace Hopper"
FACES = {"anonymous.jpg": 6, "named.jpg": 1, "person.jpg": 5}
"""Photos, and how many of their faces have no name at first."""


@dataclass(frozen=True, slots=True)
class Story:
    """What stood there in turn.

    `known`: digiKam's photos before there were sidecars of ours; `heard`: after. `indexed`: the files then;
    `written`: as digiKam left them; `forced`: after `rescan --force`.
    """

    root: Path
    cli: Cli
    known: dict[str, Item]
    heard: dict[str, Item]
    indexed: Tree
    written: Tree
    forced: Tree

    def names(self) -> dict[str, list[str | None]]:
        """Of the regions in the sidecars, as they are now."""
        found = photos.regions(self.root)
        return {photo: [region.name for region in found[f"{photo}.xmp"]] for photo in FACES}

    def faces(self, photo: str) -> Any:
        """What our own program says of the faces."""
        return self.cli.json("inspect", self.root / photo)["faces"]


def make(root: Path, portrait: Image.Image) -> None:
    root.mkdir(parents=True)
    photos.save(group(portrait), root / "anonymous.jpg")
    photos.save(portrait.resize((640, 512)), root / "named.jpg", orientation=6)
    photos.save(group(portrait), root / "person.jpg")
    photos.tell(root / "person.jpg.xmp", photos.named(GRACE))


def seen(digikam: DigiKam) -> dict[str, Item]:
    return {path.removeprefix("album/"): item for path, item in items(digikam).items()}


def give_name(digikam: DigiKam, photo: str, name: str) -> None:
    """What digiKam's window does when a person types a name below an unknown face."""
    ((image,),) = digikam.ask("SELECT id FROM Images WHERE name = ?", photo)
    ((people,),) = digikam.ask("SELECT id FROM Tags WHERE name = 'People' AND pid = 0")
    digikam.change("INSERT INTO Tags (pid, name) VALUES (?, ?)", people, name)
    ((tag,),) = digikam.ask("SELECT id FROM Tags WHERE name = ?", name)
    digikam.change("INSERT INTO TagProperties VALUES (?, 'person', ?)", tag, name)
    digikam.change("INSERT INTO ImageTags (imageid, tagid) VALUES (?, ?)", image, tag)
    confirm = "UPDATE ImageTagProperties SET tagid = ?, property = ? WHERE imageid = ? AND property = ?"
    digikam.change(confirm, tag, CONFIRMED, image, UNKNOWN)


@pytest.fixture(scope="module")
def story(desktop: dict[str, str], portrait: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("writes")
    root, cli = folder / "photos/album", Cli(folder / "state")
    make(root, portrait)
    digikam = DigiKam(folder / "digikam", root.parent, desktop)
    with digikam.running():
        known = seen(digikam)
    cli("rescan", root)
    indexed = Tree.of(root)
    with digikam.running() as session:
        session.until(
            lambda: all(item.unknown for item in seen(digikam).values()), "it has heard of the faces"
        )
        heard = seen(digikam)
    give_name(digikam, "named.jpg", ADA)
    with digikam.running() as session:
        session.act("album_write_metadata")
        session.until(lambda: session.has_said("List of Pending Jobs is empty"), "the metadata is written")
    written = Tree.of(root)
    cli("rescan", "--force", root)
    return Story(root, cli, known, heard, indexed, written, Tree.of(root))


def test_digikam_hears_of_faces_in_photos_that_it_knew(story: Story) -> None:
    assert {name: len(item.unknown) for name, item in story.known.items()} == dict.fromkeys(FACES, 0)
    assert {name: len(item.unknown) for name, item in story.heard.items()} == FACES
    assert story.heard["person.jpg"].people == [(GRACE, photos.LARGEST)]


def test_digikam_wrote_the_sidecars_under_the_same_names(story: Story) -> None:
    assert set(story.written.files) == set(story.indexed.files)
    changed = {name for name, file in story.written.files.items() if file != story.indexed.files[name]}
    assert changed == {f"{name}.xmp" for name in FACES}


def test_what_digikam_dropped_does_not_come_back(story: Story) -> None:
    """All three sidecars are as digiKam left them, byte for byte; only our memory of the faces changed."""
    assert story.forced.without(".faces.json") == story.written.without(".faces.json")
    assert [face["state"] for face in story.faces("anonymous.jpg")] == ["rejected"] * 6


def test_the_name_that_digikam_gave_stands_at_our_face(story: Story) -> None:
    (region,) = photos.regions(story.root)["named.jpg.xmp"]
    (face,) = story.faces("named.jpg")
    assert region.name == ADA
    assert region.box.iou(Box(*face["bbox"])) >= 0.9
    assert face["state"] == "kept"


def test_another_run_changes_nothing_and_restore_only_adds(story: Story) -> None:
    story.cli("rescan", story.root)
    assert Tree.of(story.root) == story.forced
    assert story.names() == {"anonymous.jpg": [], "named.jpg": [ADA], "person.jpg": [GRACE]}
    story.cli("rescan", "--restore", story.root)
    assert story.names() == {
        "anonymous.jpg": [None] * 6,
        "named.jpg": [ADA],
        "person.jpg": [GRACE, *[None] * 5],
    }
