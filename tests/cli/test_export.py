"""`export coco` on a library that was really indexed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from faster_coco_eval import COCO
from PIL import Image

from scripts.make_demo_library import save_oriented
from tests.cli.conftest import Cli, Tree


@pytest.fixture
def library(cli: Cli, tmp_path: Path, portrait: Image.Image) -> Path:
    """Two folders: a face stored upright, the same turned, one photo without a face; indexed."""
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    portrait.save(root / "a.jpg")
    save_oriented(portrait, root / "sub" / "tür ned.jpg", 6)
    Image.new("RGB", (300, 200), "gray").save(root / "empty.jpg")
    cli("rescan", "--engine", "local", root)
    return root


def exported(cli: Cli, *words: object, code: int = 0) -> tuple[Any, Any]:
    """What the command reports, and the file."""
    output = words[words.index("-o") + 1]
    report = cli.json("export", "coco", *words, code=code)
    return report, json.loads(Path(str(output)).read_text("utf-8"))


def test_faces_with_all_that_the_landmark_files_say(cli: Cli, library: Path, tmp_path: Path) -> None:
    before = Tree.of(library)
    report, document = exported(cli, library, "-o", tmp_path / "faces.json")
    assert (report["images"], report["annotations"], report["problems"]) == (2, 2, [])
    names = {image["file_name"]: image for image in document["images"]}
    assert set(names) == {"a.jpg", os.path.join("sub", "tür ned.jpg")}
    assert names["a.jpg"]["width"] == 512 and names["a.jpg"]["orientation"] == 1
    (category,) = document["categories"]
    for annotation in document["annotations"]:
        assert annotation["category_id"] == category["id"]
        assert len(annotation["keypoints"]) == 3 * len(category["keypoints"]) == 240
        assert annotation["score"] >= 0.5 and len(annotation["center"]) == 2
        assert "segmentation" not in annotation
    upright, turned = sorted(document["annotations"], key=lambda a: abs(a["rotation"]))
    assert abs(upright["rotation"]) < 10 and 80 < abs(turned["rotation"]) < 100  # in the stored frame
    files = [json.loads((library / f"{name}.faces.json").read_text()) for name in names]
    assert {tuple(a["bbox"]) for a in document["annotations"]} == {
        tuple(face["bbox"]) for file in files for face in file["faces"]
    }
    assert Tree.of(library) == before
    assert len(COCO(str(tmp_path / "faces.json")).getAnnIds()) == 2


def test_switches(cli: Cli, library: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.json"
    output.write_text("old")
    report, document = exported(cli, library, "--segmentation", "--empty", "-o", output)
    assert report["images"] == 3 and {"empty.jpg"} < {image["file_name"] for image in document["images"]}
    assert all(len(annotation["segmentation"][0]) == 54 for annotation in document["annotations"])
    assert exported(cli, library, "--min-score", "0.999", "-o", output)[1]["annotations"] == []
    one, _ = exported(cli, library / "a.jpg", "-o", output)
    assert one["images"] == 1
    _, two = exported(cli, library / "a.jpg", library / "sub", "-o", output)
    assert {image["file_name"] for image in two["images"]} == {"a.jpg", os.path.join("sub", "tür ned.jpg")}
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_faces_that_somebody_removed_are_left_out(cli: Cli, library: Path, tmp_path: Path) -> None:
    file = library / "a.jpg.faces.json"
    file.write_text(file.read_text().replace('"state": "written"', '"state": "rejected"'))
    report, _ = exported(cli, library, "-o", tmp_path / "x.json")
    assert report["annotations"] == 1


def test_what_cannot_be_exported_is_named_and_costs_nothing_else(
    cli: Cli, library: Path, tmp_path: Path, portrait: Image.Image
) -> None:
    (library / "a.jpg.faces.json").write_text("{")
    odd = os.fsdecode(os.fsencode(library) + b"/caf\xe9.jpg")
    portrait.save(odd, "JPEG")
    cli("rescan", "--engine", "local", odd)
    report, document = exported(cli, library, "-o", tmp_path / "x.json", code=1)
    assert report["images"] == len(document["images"]) == 1
    reasons = {Path(problem["path"]).name: problem["reason"] for problem in report["problems"]}
    assert "not JSON" in reasons["a.jpg"] and "not UTF-8" in reasons["caf\\xe9.jpg"]


def test_without_landmark_files_or_a_place_to_write(cli: Cli, library: Path, tmp_path: Path) -> None:
    result = cli("export", "coco", library, "-o", tmp_path / "no" / "x.json", code=7)
    assert "cannot be written" in result.stderr
    result = cli("export", "coco", "--landmarks", "off", library, "-o", tmp_path / "x.json", code=3)
    assert "landmarks" in result.stderr and not (tmp_path / "x.json").exists()
