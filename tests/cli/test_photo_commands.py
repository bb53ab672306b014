"""`inspect`, `show`, `undo`, `status`, `retry`: what they say is what stands there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.make_demo_library import save_oriented
from tests.cli.conftest import Cli, Tree


@pytest.fixture
def indexed(cli: Cli, tmp_path: Path, portrait: Image.Image) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    save_oriented(portrait, root / "upright.jpg", 1)
    save_oriented(portrait, root / "turned.jpg", 6)
    Image.new("RGB", (300, 200), (90, 90, 90)).save(root / "none.jpg")
    cli("rescan", root)
    return root


def name_the_face(sidecar: Path, name: str) -> None:
    """As a photo manager does it: the region that stands there gets a name."""
    command = ["exiftool", "-q", "-overwrite_original", f"-RegionName={name}", str(sidecar)]
    subprocess.run(command, check=True)


def test_inspect_tells_ours_from_a_persons(cli: Cli, indexed: Path) -> None:
    photo = indexed / "upright.jpg"
    seen = cli.json("inspect", photo)
    assert (seen["width"], seen["height"], seen["orientation"]) == (512, 512, 1)
    (region,), (face,) = seen["regions"], seen["faces"]
    assert (region["owner"], region["name"], region["type"], region["schema"]) == (
        "ours",
        None,
        "Face",
        "mwg",
    )
    assert region["face_id"] == face["id"]
    assert region["displayed_bbox"] == pytest.approx(face["displayed_bbox"], abs=0.01)
    assert face["state"] == "written"
    assert face["score"] > 0.5
    x, y, w, h = face["bbox"]
    assert all(
        x - w / 2 <= px <= x + 1.5 * w and y - h / 2 <= py <= y + 1.5 * h for px, py, _ in face["keypoints"]
    )
    name_the_face(indexed / "upright.jpg.xmp", "Eileen")
    (region,) = cli.json("inspect", photo)["regions"]
    assert (region["owner"], region["name"]) == ("person", "Eileen")
    text = cli("inspect", photo).stdout
    assert "Eileen" in text
    assert "landmark file" in text


def test_inspect_without_anything(cli: Cli, indexed: Path) -> None:
    seen = cli.json("inspect", indexed / "none.jpg")
    assert (seen["sidecar"], seen["landmark_file"], seen["regions"], seen["faces"]) == (None, None, [], [])
    assert "sidecar: none" in cli("inspect", indexed / "none.jpg").stdout
    assert "is a folder" in cli("inspect", indexed, code=7).stderr


def test_show_draws_the_same_face_upright_whatever_the_orientation(
    cli: Cli, indexed: Path, tmp_path: Path, portrait: Image.Image
) -> None:
    pictures = []
    for name in ("upright", "turned"):
        target = tmp_path / f"{name}.png"
        assert cli("show", indexed / f"{name}.jpg", "-o", target).stdout.strip() == str(target)
        pictures.append(np.asarray(Image.open(target).convert("L"), np.float32))
        assert pictures[-1].shape == (512, 512)
        drawn = np.abs(pictures[-1] - np.asarray(portrait.convert("L"), np.float32)) > 60
        assert 200 < drawn.sum() < 20_000  # a frame, a label, some points
    assert np.abs(pictures[0] - pictures[1]).mean() < 4


def test_show_makes_a_grid_and_says_where_nothing_is_known(cli: Cli, indexed: Path, tmp_path: Path) -> None:
    target = tmp_path / "grid.png"
    photos = [indexed / "upright.jpg", indexed / "turned.jpg", indexed / "none.jpg"]
    assert "no faces are known" in cli("show", *photos, "-o", target).stderr
    assert Image.open(target).size == (2 * 640 + 8, 2 * 640 + 8)
    assert "cannot be written" in cli("show", photos[0], "-o", tmp_path / "x.nonsense", code=7).stderr
    written = cli("show", photos[0], DISPLAY="", WAYLAND_DISPLAY="").stdout.strip()
    assert Image.open(written).size == (512, 512)


def test_undo_leaves_what_a_person_did(cli: Cli, indexed: Path) -> None:
    name_the_face(indexed / "upright.jpg.xmp", "Eileen")
    named = (indexed / "upright.jpg.xmp").read_bytes()
    result = cli.json("undo", indexed)
    assert (result["photos"], result["sidecars_removed"], result["problems"]) == (2, 1, [])
    assert (indexed / "upright.jpg.xmp").read_bytes() == named
    assert not (indexed / "turned.jpg.xmp").exists()
    assert not list(indexed.glob("*.faces.json"))


def test_undo_names_what_it_cannot_undo_and_goes_on(cli: Cli, indexed: Path) -> None:
    (indexed / "upright.jpg.xmp").write_text("<not xml")
    before = Tree.of(indexed)
    result = cli.json("undo", indexed, code=1)
    assert result["photos"] == 1
    assert "upright.jpg.xmp" in result["problems"][0]["reason"]
    after = Tree.of(indexed)
    assert set(before.files) - set(after.files) == {"turned.jpg.xmp", "turned.jpg.faces.json"}


def test_status_counts_and_retry_takes_again(cli: Cli, indexed: Path, portrait_jpeg: bytes) -> None:
    (indexed / "torn.jpg").write_bytes(portrait_jpeg[: len(portrait_jpeg) // 2])
    (indexed / "text.jpg").write_text("no photo")
    cli("rescan", indexed, code=1)
    (report,) = cli.json("status", indexed)
    counts = {key: report[key] for key in ("done", "with_faces", "faces", "quarantined", "refused")}
    assert counts == {"done": 3, "with_faces": 2, "faces": 2, "quarantined": 1, "refused": 1}
    assert report["last_run"]["photos"] == 5
    assert {Path(p["path"]).name for p in report["problems"]} == {"torn.jpg", "text.jpg"}
    assert "torn.jpg" in cli("status").stdout
    assert len(cli.json("retry")["released"]) == 2
    assert cli.json("status", indexed)[0]["quarantined"] == 0
    (indexed / "torn.jpg").write_bytes(portrait_jpeg)
    assert cli.json("rescan", indexed)["faces"] == 1


def test_status_of_nothing(cli: Cli) -> None:
    assert "Nothing was indexed yet" in cli("status").stdout


def test_doctor_finds_all_well_and_names_what_is_not(cli: Cli, indexed: Path, tmp_path: Path) -> None:
    checks = {check["name"]: check for check in cli.json("doctor", indexed)}
    assert all(check["ok"] for check in checks.values())
    assert "RENAME_EXCHANGE" in checks[f"library {indexed}: file system"]["found"]
    assert not list(indexed.glob(".sidecar-faces*"))
    broken = cli("doctor", tmp_path / "absent", code=1, SIDECAR_FACES_MODELS_DIR=str(tmp_path)).stdout
    assert "models install" in broken
    assert "is not a folder" in broken
    no_tool = cli.json("doctor", code=1, PATH="/nonexistent")
    assert any(c["name"] == "exiftool" and "apt install" in c["advice"] for c in no_tool)
