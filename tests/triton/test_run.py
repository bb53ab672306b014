"""The real program on a real library, with a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sidecar_faces.engine.triton_settings import TritonSettings
from tests.cli.conftest import Cli, Tree


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "state")


@pytest.fixture
def library(tmp_path: Path, portrait: Image.Image, portrait_jpeg: bytes) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(10):
        portrait.resize((512 + number, 512)).save(root / f"{number}.jpg")
    portrait.save(root / "x.png")
    (root / "cut.jpg").write_bytes(portrait_jpeg[: len(portrait_jpeg) // 2])
    return root


@pytest.mark.parametrize("way", ["client", "server"])
def test_indexes_as_the_embedded_engine_does(
    cli: Cli, library: Path, triton: TritonSettings, way: str
) -> None:
    """The same counts, and nothing is left to do for the embedded engine, which has the same weights."""
    flags = ("--triton-url", *triton.urls, "--triton-decode", way)
    run = cli("rescan", "--engine", "auto", *flags, "--json", library, code=1)
    assert f"Triton at {triton.urls[0]}" in run.stderr
    report = cli.json("rescan", "--engine", "triton", *flags, library, code=1)
    assert (report["unchanged"], report["quarantined"]) == (11, 1)
    before = Tree.of(library)
    report = cli.json("rescan", "--engine", "local", library, code=1)
    assert (report["unchanged"], report["indexed"], report["quarantined"]) == (11, 0, 1)
    assert Tree.of(library) == before
    assert sum(name.endswith(".xmp") for name in before.files) == 11


def test_a_server_that_is_asked_for_and_is_not_there_ends_the_run(cli: Cli, library: Path) -> None:
    result = cli("rescan", "--engine", "triton", "--triton-url", "localhost:1", library, code=10)
    assert "does not answer" in result.stderr
    assert not list(library.glob("*.xmp"))


def test_auto_says_which_engine_it_took(cli: Cli, library: Path) -> None:
    result = cli("rescan", "--engine", "auto", "--triton-url", "localhost:1", library / "0.jpg")
    assert "local (no Triton at localhost:1)" in result.stderr
