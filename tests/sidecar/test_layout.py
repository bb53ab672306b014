"""Which file is the sidecar of a photo."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar_faces.errors import SidecarError
from sidecar_faces.sidecar.layout import SidecarLayout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "IMG.JPG").touch()
    return tmp_path


def sidecar(root: Path, name: str = "sub/IMG.JPG") -> str:
    return os.path.relpath(SidecarLayout(str(root)).sidecar(str(root / name)).path, root)


def test_a_new_one_keeps_the_spelling_of_the_photo(root: Path) -> None:
    assert sidecar(root) == "sub/IMG.JPG.xmp"


@pytest.mark.parametrize("name", ["IMG.xmp", "IMG.JPG.xmp", "IMG.XMP", "IMG.JPG.XMP"])
def test_an_existing_one_is_used_whichever_name_it_has(root: Path, name: str) -> None:
    (root / "sub" / name).touch()
    assert sidecar(root) == f"sub/{name}"


def test_of_both_the_full_name_is_edited_and_the_other_respected(root: Path) -> None:
    for name in ("IMG.xmp", "IMG.JPG.xmp"):
        (root / "sub" / name).touch()
    assert sidecar(root) == "sub/IMG.JPG.xmp"
    assert SidecarLayout(str(root)).others(str(root / "sub/IMG.JPG")) == (str(root / "sub/IMG.xmp"),)


@pytest.mark.parametrize("sharer", ["IMG.CR2", "IMG.nef", "IMG.Dng", "IMG.png", "IMG.jpeg", "IMG.jpg"])
def test_the_short_name_may_belong_to_a_raw_or_another_picture(root: Path, sharer: str) -> None:
    (root / "sub" / "IMG.xmp").touch()
    (root / "sub" / sharer).touch()
    assert sidecar(root) == "sub/IMG.JPG.xmp"
    assert SidecarLayout(str(root)).others(str(root / "sub/IMG.JPG")) == ()


def test_a_broken_link_of_the_name_is_the_sidecar(root: Path) -> None:
    (root / "sub" / "IMG.JPG.xmp").symlink_to("nowhere")
    assert sidecar(root) == "sub/IMG.JPG.xmp"


def test_folders_of_their_own_mirror_the_library(root: Path, tmp_path: Path) -> None:
    photo = str(root / "sub" / "IMG.JPG")
    layout = SidecarLayout(str(root), tmp_path / "xmp", str(tmp_path / "marks"))
    assert layout.sidecar(photo).path == str(tmp_path / "xmp/sub/IMG.JPG.xmp")
    assert layout.sidecar(photo).within == str(tmp_path / "xmp")
    marks = layout.landmark_file(photo)
    assert marks.path == str(tmp_path / "marks/sub/IMG.JPG.faces.json")
    (root / "sub" / "IMG.xmp").touch()
    assert layout.sidecar(photo).path == str(tmp_path / "xmp/sub/IMG.JPG.xmp")
    assert layout.others(photo) == (str(root / "sub" / "IMG.xmp"),)


def test_landmark_files_lie_beside_the_sidecar(root: Path, tmp_path: Path) -> None:
    photo = str(root / "sub" / "IMG.JPG")
    beside = SidecarLayout(str(root)).landmark_file(photo)
    mirrored = SidecarLayout(str(root), tmp_path / "xmp").landmark_file(photo)
    assert beside.path == f"{photo}.faces.json"
    assert mirrored.path == str(tmp_path / "xmp/sub/IMG.JPG.faces.json")


def test_names_of_any_bytes(root: Path) -> None:
    name = os.fsdecode(b"sub/\xe9\n-'\".jpg")
    assert sidecar(root, name) == f"{name}.xmp"


def test_the_root_of_the_file_system_can_be_a_library() -> None:
    assert SidecarLayout("/").sidecar("/no-such-photo.jpg").path == "/no-such-photo.jpg.xmp"


def test_a_photo_outside_is_refused(root: Path) -> None:
    with pytest.raises(SidecarError, match="outside of the library"):
        SidecarLayout(str(root / "sub")).sidecar(str(root / "x.jpg"))
