"""Writing about photos, end to end in one folder: seed, merge, landmark file, undo."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar_faces.core.frames import Area, StoredBox, to_area
from sidecar_faces.core.merge import FaceState
from sidecar_faces.errors import SidecarConflictError, SidecarError
from sidecar_faces.sidecar import writer as writer_module
from sidecar_faces.sidecar.exiftool import ExifTool
from sidecar_faces.sidecar.landmark_file import LandmarkFile, dump, load
from sidecar_faces.sidecar.layout import SidecarLayout
from sidecar_faces.sidecar.read import describe
from sidecar_faces.sidecar.undo import remembered, undo
from tests.sidecar.conftest import BOX, OTHER, SIZE, Library, jpeg
from tests.sidecar.packets import Foreign, Style, Writer

NEAR = (104.0, 100.0, 80.0, 90.0)


def person(*regions: Foreign) -> bytes:
    return Writer(Style(comments=True)).packet(list(regions), block=bool(regions))


def memory(library: Library, name: str = "a.jpg") -> LandmarkFile:
    return load((library.root / f"{name}.faces.json").read_bytes())


def states(library: Library, name: str = "a.jpg") -> list[FaceState]:
    return [face.state for face in memory(library, name).faces]


def names_and_owners(library: Library, name: str = "a.jpg") -> list[tuple[str | None, bool]]:
    seen = describe(library.path(name), library.layout)
    return [(region.name, region.is_ours) for region in seen.regions]


def test_write_then_nothing_then_undo(library: Library) -> None:
    library.add("a.jpg")
    before = library.tree()
    assert library.write("a.jpg", BOX, OTHER) == 2
    after = library.tree()
    assert set(after) == {"a.jpg", "a.jpg.xmp", "a.jpg.faces.json"}
    assert names_and_owners(library) == [(None, True), (None, True)]
    assert library.write("a.jpg", BOX, OTHER) == 2
    assert library.tree() == after
    undone = undo(library.path("a.jpg"), library.layout)
    assert undone is not None
    assert undone.sidecar_removed
    assert library.tree() == before
    assert undo(library.path("a.jpg"), library.layout) is None


def test_no_faces_and_no_memory_write_nothing(library: Library) -> None:
    library.add("a.jpg")
    before = library.tree()
    assert library.write("a.jpg") == 0
    assert library.tree() == before


def test_a_face_without_extent_is_no_face(library: Library) -> None:
    library.add("a.jpg")
    assert library.write("a.jpg", (700.0, 0.0, 10.0, 10.0), (10.0, 10.0, 0.0, 5.0)) == 0
    assert set(library.tree()) == {"a.jpg"}


def test_dry_run_counts_and_writes_nothing(library: Library) -> None:
    library.add("a.jpg")
    before = library.tree()
    assert library.writer(dry_run=True).write(library.result("a.jpg", BOX)) == 1
    assert library.tree() == before


@pytest.mark.parametrize("name", ["a.jpg.xmp", "a.xmp"])
def test_an_existing_sidecar_is_edited_in_place_and_undone_exactly(library: Library, name: str) -> None:
    library.add("a.jpg")
    library.add(name, person())
    (library.root / name).chmod(0o664)
    before = library.tree(times=False)
    library.write("a.jpg", BOX)
    assert set(library.tree()) == {"a.jpg", name, "a.jpg.faces.json"}
    library.write("a.jpg", NEAR, OTHER)
    library.write("a.jpg", OTHER)
    undone = undo(library.path("a.jpg"), library.layout)
    assert undone is not None
    assert (undone.sidecar_removed, undone.regions) == (False, 1)
    assert library.tree(times=False) == before


def test_named_regions_are_kept_and_come_first(library: Library) -> None:
    library.add("a.jpg")
    mine = Foreign(_area(BOX), "Zoë O}Neil <A/B>")
    library.add("a.xmp", person(mine))
    assert library.write("a.jpg", NEAR, OTHER) == 2
    assert names_and_owners(library) == [("Zoë O}Neil <A/B>", False), (None, True)]
    assert states(library) == [FaceState.KEPT, FaceState.WRITTEN]


def _area(box: tuple[float, float, float, float]) -> Area:
    return to_area(StoredBox(*box), SIZE)


def test_a_region_that_someone_named_is_theirs_and_survives_undo(library: Library) -> None:
    library.add("a.jpg")
    library.write("a.jpg", BOX, OTHER)
    sidecar = library.root / "a.jpg.xmp"
    named = sidecar.read_bytes().replace(
        b"<mwg-rs:Type>Face</mwg-rs:Type>",
        b"<mwg-rs:Type>Face</mwg-rs:Type><mwg-rs:Name>Ada</mwg-rs:Name>",
        1,
    )
    sidecar.write_bytes(named)
    library.write("a.jpg", BOX, OTHER)
    assert sorted(states(library)) == [FaceState.KEPT, FaceState.WRITTEN]
    assert names_and_owners(library) == [("Ada", False), (None, True)]
    undone = undo(library.path("a.jpg"), library.layout)
    assert undone is not None
    assert not undone.sidecar_removed
    assert names_and_owners(library) == [("Ada", False)]


def test_a_region_that_vanished_stays_away_until_restore(library: Library) -> None:
    library.add("a.jpg")
    library.add("a.xmp", person())
    library.write("a.jpg", BOX)
    (library.root / "a.xmp").write_bytes(person())
    writer = library.writer()
    assert writer.is_incomplete(library.path("a.jpg"))
    assert library.write("a.jpg", NEAR) == 0
    assert (library.root / "a.xmp").read_bytes() == person()
    assert states(library) == [FaceState.REJECTED]
    assert writer.is_incomplete(library.path("a.jpg"))
    assert library.writer(restore=True).write(library.result("a.jpg", NEAR)) == 1
    assert not writer.is_incomplete(library.path("a.jpg"))
    assert names_and_owners(library) == [(None, True)]


def test_a_sidecar_that_a_person_deleted_is_not_made_again(library: Library) -> None:
    library.add("a.jpg")
    library.write("a.jpg", BOX)
    (library.root / "a.jpg.xmp").unlink()
    assert library.write("a.jpg", BOX) == 0
    assert not (library.root / "a.jpg.xmp").exists()
    assert library.writer(restore=True).write(library.result("a.jpg", BOX)) == 1
    assert (library.root / "a.jpg.xmp").exists()


def test_undo_keeps_a_title_that_a_person_gave_a_sidecar_of_ours(library: Library) -> None:
    library.add("a.jpg")
    library.write("a.jpg", BOX)
    command = ["exiftool", "-q", "-overwrite_original", "-XMP-dc:Title=Summer", library.path("a.jpg.xmp")]
    subprocess.run(command, check=True)
    undone = undo(library.path("a.jpg"), library.layout)
    assert undone is not None
    assert (undone.sidecar_removed, undone.regions) == (False, 1)
    text = (library.root / "a.jpg.xmp").read_text()
    assert "Summer" in text
    assert "mwg-rs" not in text.replace("xmlns:mwg-rs", "")
    assert not (library.root / "a.jpg.faces.json").exists()


def test_a_person_s_sidecar_with_our_record_is_never_deleted(library: Library) -> None:
    """We made one, they replaced it; later runs of ours edit theirs; undo must leave theirs."""
    library.add("a.jpg")
    library.write("a.jpg", BOX)
    (library.root / "a.jpg.xmp").write_bytes(person())
    library.writer(restore=True).write(library.result("a.jpg", BOX))
    undone = undo(library.path("a.jpg"), library.layout)
    assert undone is not None
    assert not undone.sidecar_removed
    assert (library.root / "a.jpg.xmp").read_bytes() == person()


def test_dry_undo_says_the_same_and_does_nothing(library: Library) -> None:
    library.add("a.jpg")
    library.add("b.jpg")
    library.add("b.xmp", person())
    library.write("a.jpg", BOX)
    library.write("b.jpg", BOX)
    before = library.tree()
    dry = [undo(library.path(n), library.layout, dry_run=True) for n in ("a.jpg", "b.jpg")]
    assert library.tree() == before
    assert [undo(library.path(n), library.layout) for n in ("a.jpg", "b.jpg")] == dry


def test_remembered_photos_are_found_even_when_they_are_gone(library: Library) -> None:
    for name in ("a.jpg", "sub/b.jpg"):
        library.add(name)
        library.write(name, BOX)
    os.unlink(library.path("a.jpg"))
    everything = [library.path("a.jpg"), library.path("sub/b.jpg")]
    assert list(remembered(library.layout, str(library.root))) == everything
    assert list(remembered(library.layout, library.path("sub"))) == everything[1:]
    assert list(remembered(library.layout, library.path("sub/b.jpg"))) == everything[1:]
    assert list(remembered(library.layout, library.path("sub/absent.jpg"))) == []
    for path in everything:
        undo(path, library.layout)
    assert set(library.tree()) == {"sub/b.jpg"}


def test_the_landmark_file_says_what_was_found(library: Library) -> None:
    library.add("a.jpg")
    library.write("a.jpg", BOX)
    file = memory(library)
    (face,) = file.faces
    assert (file.file_name, file.models, file.orientation) == ("a.jpg", "models", 1)
    assert (file.stored.width, file.stored.height) == (640, 480)
    assert file.signature == library.photo("a.jpg").signature
    assert (face.id, face.state, face.score) == (1, FaceState.WRITTEN, 0.875)
    assert (face.box.x, face.box.y, face.box.w, face.box.h) == BOX
    assert face.landmarks is not None
    assert face.landmarks.keypoints[0] == (1.12, 2.0, 0.9877)
    assert (face.landmarks.rotation, face.landmarks.center) == (1.23, (3.0, 4.99))
    assert face.landmarks.visibility == (2, 2, 2, 2, 1)
    assert file.sidecar is not None
    assert (file.sidecar.file_name, file.sidecar.created) == ("a.jpg.xmp", True)


def test_a_face_that_an_undo_was_about_to_take_out_is_not_rejected(library: Library) -> None:
    library.add("a.jpg")
    library.write("a.jpg", BOX)
    marks = library.root / "a.jpg.faces.json"
    marks.write_bytes(marks.read_bytes().replace(b'"written"', b'"pending"'))  # as an undo leaves it, killed
    (library.root / "a.jpg.xmp").unlink()
    assert library.writer().recall(library.path("a.jpg"), library.photo("a.jpg").signature) is None
    assert library.write("a.jpg", BOX) == 1
    assert names_and_owners(library) == [(None, True)]


def test_recall_knows_photos_of_the_same_models_only(library: Library) -> None:
    library.add("a.jpg")
    library.write("a.jpg", BOX)
    path, signature = library.path("a.jpg"), library.photo("a.jpg").signature
    assert library.writer().recall(path, signature) == 1
    assert library.writer(models="newer").recall(path, signature) is None
    assert library.writer().recall(path, replace(signature, size=1)) is None
    assert library.writer().recall(library.path("b.jpg"), signature) is None
    (library.root / "a.jpg.faces.json").write_bytes(b"{}")
    assert library.writer().recall(path, signature) is None


def test_a_stamp_changes_with_what_may_mend_a_failure(library: Library) -> None:
    library.add("a.jpg")
    stamps = [library.writer().stamp(library.path("a.jpg"))]
    sidecar = library.add("a.jpg.xmp", b"broken")
    stamps.append(library.writer().stamp(library.path("a.jpg")))
    sidecar.chmod(0o444)
    stamps.append(library.writer().stamp(library.path("a.jpg")))
    sidecar.rename(library.root / "a.xmp")
    stamps.append(library.writer().stamp(library.path("a.jpg")))
    library.add("a.jpg.faces.json", b"{}")
    stamps.append(library.writer().stamp(library.path("a.jpg")))
    library.root.chmod(0o555)
    stamps.append(library.writer().stamp(library.path("a.jpg")))
    assert library.writer().stamp(library.path("a.jpg")) == stamps[-1]
    library.root.chmod(0o755)
    assert len(set(stamps)) == len(stamps)
    assert library.writer().stamp("/elsewhere/x.jpg") == "outside"


def test_a_bad_landmark_file_is_named_and_left_alone(library: Library) -> None:
    library.add("a.jpg")
    for bad in (b"", b"[]", b'{"schema": "sidecar-faces/2"}', b"\xff", b"[" * 100_000):
        library.add("a.jpg.faces.json", bad)
        before = library.tree()
        with pytest.raises(SidecarError, match=r"a\.jpg\.faces\.json"):
            library.write("a.jpg", BOX)
        with pytest.raises(SidecarError, match=r"a\.jpg\.faces\.json"):
            undo(library.path("a.jpg"), library.layout)
        assert library.writer().is_incomplete(library.path("a.jpg"))
        assert library.tree() == before


def test_folders_of_their_own_respect_the_sidecar_beside_the_photo(library: Library, tmp_path: Path) -> None:
    library.add("sub/a.jpg")
    library.add("sub/a.xmp", person(Foreign(_area(BOX), "Ada")))
    before = library.tree()
    library.layout = SidecarLayout(str(library.root), tmp_path / "xmp", str(tmp_path / "marks"))
    assert library.write("sub/a.jpg", NEAR, OTHER) == 2
    assert library.tree() == before
    made = (tmp_path / "xmp" / "sub" / "a.jpg.xmp").read_bytes()
    assert b"Ada" in made  # it starts as the other one stands, since managers read it instead
    assert names_and_owners(library, "sub/a.jpg") == [("Ada", False), (None, True)]
    library.add("sub/a.xmp", person(Foreign(_area(BOX), "Ada"), Foreign(_area(OTHER), "Bo")))
    library.write("sub/a.jpg", NEAR, OTHER)
    assert names_and_owners(library, "sub/a.jpg") == [("Ada", False)]
    undo(library.path("sub/a.jpg"), library.layout)
    assert [name for _, _, names in os.walk(tmp_path) for name in names if "a.jpg." in name] == []


def test_a_malformed_second_sidecar_never_means_no_regions(library: Library, tmp_path: Path) -> None:
    library.add("a.jpg")
    library.add("a.xmp", b"<broken")
    library.layout = SidecarLayout(str(library.root), tmp_path / "xmp")
    with pytest.raises(SidecarError, match=r"a\.xmp"):
        library.write("a.jpg", BOX)
    assert not (tmp_path / "xmp").exists()


def test_embedded_names_are_respected_without_any_sidecar(library: Library) -> None:
    library.add("a.jpg")
    area = _area(BOX)
    region = f"{{Area={{X={area.x},Y={area.y},W={area.w},H={area.h},Unit=normalized}},Name=Ada,Type=Face}}"
    _exiftool(
        library.path("a.jpg"),
        f"-RegionInfo={{AppliedToDimensions={{W=640,H=480,Unit=pixel}},RegionList=[{region}]}}",
    )
    assert library.write("a.jpg", NEAR) == 1
    assert not (library.root / "a.jpg.xmp").exists()
    after = library.tree()
    assert library.write("a.jpg", NEAR) == 1
    assert library.tree() == after
    library.write("a.jpg", NEAR, OTHER)
    assert names_and_owners(library) == [("Ada", False), (None, True)]


def _exiftool(path: str, *arguments: str) -> None:
    subprocess.run(["exiftool", "-q", "-overwrite_original", *arguments, path], check=True)


def test_a_photo_of_another_size_gets_regions_of_its_own(library: Library) -> None:
    library.add("a.jpg")
    library.write("a.jpg", BOX)
    result = library.result("a.jpg", (150.0, 50.0, 40.0, 45.0))
    smaller = replace(
        result, photo=replace(result.photo, stored=replace(result.photo.stored, width=320, height=240))
    )
    assert library.writer().write(smaller) == 1
    text = (library.root / "a.jpg.xmp").read_text()
    assert "<stDim:w>320</stDim:w>" in text
    assert "<stDim:h>240</stDim:h>" in text


def test_a_sidecar_that_keeps_changing_is_given_up_by_name(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.add("a.jpg")
    library.add("a.xmp", person())
    turn = iter(range(1000))

    def dump_while_they_save(file: LandmarkFile) -> bytes:
        library.add("a.xmp", person() + b"\n" * next(turn))
        return dump(file)

    monkeypatch.setattr(writer_module, "dump", dump_while_they_save)
    with pytest.raises(SidecarConflictError, match=r"a\.xmp"):
        library.write("a.jpg", BOX)
    assert (library.root / "a.xmp").read_bytes().startswith(person())
    monkeypatch.undo()
    assert library.write("a.jpg", BOX) == 1


def test_old_temporary_files_are_swept_once_a_folder_is_written_to(library: Library) -> None:
    library.add("a.jpg")
    library.add(f".sidecar-faces-{'0' * 16}.tmp", b"torn")
    library.write("a.jpg", BOX)
    assert (library.root / f".sidecar-faces-{'0' * 16}.tmp").exists()
    later = library.writer()
    later.now = lambda: time.time() + 7200
    later.write(library.result("a.jpg", OTHER))
    assert not list(library.root.glob(".sidecar-faces*"))


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_that_another_user_may_not_write(library: Library, as_root: None, mode: int) -> None:
    library.add("a.jpg")
    library.add("a.xmp", person())
    result = library.result("a.jpg", BOX)
    for folder in library.root.parents:
        if folder.owner() == "root" and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    before = library.tree()
    library.root.chmod(mode)
    os.seteuid(65534)
    try:
        with pytest.raises(SidecarError, match="--sidecar-dir"):
            library.writer().write(result)
    finally:
        os.seteuid(0)
    assert library.tree() == before


def test_a_name_that_leaves_no_room_is_named(library: Library) -> None:
    name = "n" * 251 + ".jpg"
    library.add(name)
    with pytest.raises(SidecarError, match="too long"):
        library.write(name, BOX)
    assert set(library.tree()) == {name}


def test_originals_are_never_touched(library: Library) -> None:
    names = [f"{n}.jpg" for n in range(20)]
    for number, name in enumerate(names):
        library.add(name, jpeg(orientation=number % 8 + 1))
    before = {name: os.stat(library.path(name)) for name in names}
    for name in names:
        library.write(name, BOX)
        library.write(name, OTHER)
        undo(library.path(name), library.layout)
    for name in names:
        after = os.stat(library.path(name))
        assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (
            before[name].st_ino,
            before[name].st_mtime_ns,
            before[name].st_mode,
        )
    assert set(library.tree()) == set(names)
    assert shutil.which("exiftool")


def test_nothing_is_written_about_a_photo_that_is_gone(library: Library) -> None:
    """A library that is unmounted in mid-write leaves an empty folder behind: nothing may appear in it."""
    library.add("deep/a.jpg")
    result = library.result("deep/a.jpg", BOX)
    writer = library.writer()
    writer._put(library.path("deep/a.jpg"), library.layout.sidecar(result.photo.path), b"x", None)
    (library.root / "deep/a.jpg.xmp").unlink()
    (library.root / "deep/a.jpg").unlink()
    with pytest.raises(SidecarError, match=r"a\.jpg: is gone"):
        writer._put(result.photo.path, library.layout.sidecar(result.photo.path), b"x", None)
    shutil.rmtree(library.root / "deep")
    with pytest.raises(SidecarError, match="deep: is gone"):
        writer._put(result.photo.path, library.layout.sidecar(result.photo.path), b"x", None)
    assert library.tree() == {}


def test_undo_makes_room_on_a_full_disk(small_disk: Path, exiftool: ExifTool) -> None:
    library = Library(small_disk, exiftool)
    library.add("a.jpg")
    before = library.tree()
    library.write("a.jpg", BOX)
    with pytest.raises(OSError, match="No space"), open(small_disk / "fill", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    undone = undo(library.path("a.jpg"), library.layout)
    assert undone is not None
    assert undone.sidecar_removed
    (small_disk / "fill").unlink()
    assert library.tree() == before
