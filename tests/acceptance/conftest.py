"""One library, indexed by the real program and scanned by a real digiKam; skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.acceptance import photos
from tests.acceptance.collection import Item, items
from tests.acceptance.digikam import PROGRAMS, DigiKam, screen
from tests.acceptance.photos import Region
from tests.cli.conftest import Cli, Tree

UNTOUCHED, INDEXED = "untouched", "indexed"


@dataclass(frozen=True, slots=True)
class Library:
    """Two copies of the photos, of which one is indexed, and what digiKam makes of both.

    `before`: the files of the indexed copy before they were. `regions`: those of its sidecars, by their name.
    `summary`: what `rescan` said.
    """

    root: Path
    before: Tree
    regions: dict[str, list[Region]]
    summary: dict[str, Any]
    items: dict[str, Item]

    def indexed(self, name: str) -> Item:
        return self.items[f"{INDEXED}/{name}"]

    def untouched(self, name: str) -> Item:
        return self.items[f"{UNTOUCHED}/{name}"]


@pytest.fixture(scope="session")
def desktop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which programs with windows run."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed (make acceptance installs what is missing)")
    with screen(tmp_path_factory.mktemp("desktop")) as environment:
        yield environment


@pytest.fixture(scope="session")
def library(
    desktop: dict[str, str], portrait: Image.Image, tmp_path_factory: pytest.TempPathFactory
) -> Library:
    folder = tmp_path_factory.mktemp("acceptance")
    root, cli = folder / "photos", Cli(folder / "state")
    for copy in (UNTOUCHED, INDEXED):
        photos.make(root / copy, portrait)
    before = Tree.of(root / INDEXED)
    summary = cli.json("rescan", root / INDEXED)
    digikam = DigiKam(folder / "digikam", root, desktop)
    with digikam.running():
        pass
    regions = photos.regions(root / INDEXED)
    return Library(root, before, regions, summary, items(digikam))
