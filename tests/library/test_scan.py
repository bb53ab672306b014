"""Walking a library: what is found, what is left out, what is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar_faces.library.scan import DEFAULT_EXCLUDES, ScanProblem, is_photo_name, leaves_out, scan

HOSTILE = [
    "with space.jpg",
    "quote'\".jpg",
    "new\nline.jpg",
    "-dash.jpg",
    "#hash.jpg",
    "$(touch canary).jpg",
    "@file.jpg",
    os.fsdecode(b"latin-\xe9.jpg"),
    "x" * 251 + ".jpg",
]


def names(root: Path, **options: object) -> list[str]:
    return [os.path.relpath(c.path, root) for c in scan(str(root), **options)]  # type: ignore[arg-type]


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def test_finds_photos_by_suffix_in_order(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "a.jpeg", "b/1.png", "c.txt", "a.jpg.xmp", "z.tiff"):
        touch(tmp_path / name)
    assert names(tmp_path) == ["a.jpeg", "z.tiff", "b/1.png", "b/2.JPG"]


def test_hostile_names_are_found(tmp_path: Path) -> None:
    for name in HOSTILE:
        touch(tmp_path / name)
    assert sorted(names(tmp_path)) == sorted(HOSTILE)


def test_folders_of_managers_and_nomedia_are_left_out(tmp_path: Path) -> None:
    for folder in (
        "@eaDir",
        ".thumbnails",
        ".photoprism",
        "lost+found",
        ".Trash-1000",
        "#recycle",
        "deep/@eaDir",
    ):
        touch(tmp_path / folder / "x.jpg")
    touch(tmp_path / "private" / "x.jpg")
    touch(tmp_path / "private" / ".nomedia")
    touch(tmp_path / "._x.jpg")
    touch(tmp_path / "kept.jpg")
    assert names(tmp_path) == ["kept.jpg"]
    assert "lost+found/x.jpg" in names(tmp_path, excludes=())


def test_globs_match_names_and_paths(tmp_path: Path) -> None:
    for name in ("2020/a.jpg", "2020/b_edit.jpg", "2021/a.jpg"):
        touch(tmp_path / name)
    assert names(tmp_path, excludes=("*_edit.jpg", "2021/*")) == ["2020/a.jpg"]


def test_a_part_of_a_library_is_scanned_as_the_whole_would_be(tmp_path: Path) -> None:
    for name in ("2020/a.jpg", "2020/skip/b.jpg", "2020/deep/c.jpg"):
        touch(tmp_path / name)
    patterns = (*DEFAULT_EXCLUDES, "2020/skip")
    part = scan(str(tmp_path / "2020"), patterns, root=str(tmp_path))
    assert [c.path for c in part] == [str(tmp_path / "2020/a.jpg"), str(tmp_path / "2020/deep/c.jpg")]
    flat = scan(str(tmp_path / "2020"), patterns, root=str(tmp_path), recursive=False)
    assert [c.path for c in flat] == [str(tmp_path / "2020/a.jpg")]


def test_single_paths_are_left_out_as_a_scan_leaves_them_out(tmp_path: Path) -> None:
    for name in ("2020/a.jpg", "2020/@eaDir/b.jpg", "hidden/.nomedia", "hidden/deep/c.jpg", "x_edit.jpg"):
        touch(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "2020")
    patterns = (*DEFAULT_EXCLUDES, "*_edit.jpg", "2020/z*")
    found = {c.path for c in scan(str(tmp_path), patterns)}
    for name in (
        "2020/a.jpg",
        "2020/@eaDir/b.jpg",
        "hidden/deep/c.jpg",
        "x_edit.jpg",
        "link/a.jpg",
        "2020/z.jpg",
    ):
        path = str(tmp_path / name)
        assert leaves_out(str(tmp_path), path, patterns) is (path not in found), name
    assert not leaves_out(str(tmp_path), str(tmp_path), patterns)


def test_links_to_folders_are_not_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "x.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert names(tmp_path) == ["loop.jpg", "a/x.jpg"]


def test_an_unreadable_folder_is_said_and_the_rest_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "kept.jpg")
    (tmp_path / "locked").mkdir()
    real = os.scandir

    def refuse(path: str) -> object:  # root may read everything, so the refusal is made
        if path.endswith("locked"):
            raise PermissionError(13, "denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    problems: list[ScanProblem] = []
    assert [c.path for c in scan(str(tmp_path), DEFAULT_EXCLUDES, problems.append)] == [
        str(tmp_path / "kept.jpg")
    ]
    assert problems == [ScanProblem(str(tmp_path / "locked"), "Permission denied")]


def test_one_photo(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    (candidate,) = scan(str(tmp_path / "a.jpg"))
    assert candidate.signature is not None
    assert candidate.signature.size == 1


def test_names() -> None:
    assert is_photo_name("A.JPG")
    assert not is_photo_name("a.jpg.xmp")
    assert not is_photo_name("._a.jpg")
