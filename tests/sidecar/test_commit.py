"""Replacing files: whole or not at all, nobody's save lost, and only where we may."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults import exchange, kills, races
from sidecar_faces.errors import DiskFullError, SidecarError
from sidecar_faces.sidecar.commit import MAX_BYTES, ChangedError, Folder, can_exchange


@pytest.fixture(params=[True, False], ids=["exchange", "no-exchange"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    with exchange(enabled=request.param), Folder(str(tmp_path), str(tmp_path)) as opened:
        yield opened
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".sidecar-faces")]


def test_new_files_follow_the_umask(folder: Folder) -> None:
    before = os.umask(0o027)
    try:
        folder.write("a", b"one", None)
    finally:
        os.umask(before)
    snapshot = folder.read("a")
    assert snapshot is not None
    assert snapshot.data == b"one"
    assert stat.S_IMODE(snapshot.status.st_mode) == 0o640


def test_replacing_keeps_mode_and_owner(folder: Folder) -> None:
    path = os.path.join(folder.path, "a")
    Path(path).write_bytes(b"one")
    os.chmod(path, 0o664)
    if os.geteuid() == 0:
        os.chown(path, 1234, 1235)
    expected = folder.read("a")
    folder.write("a", b"two", expected)
    status = os.stat(path)
    assert Path(path).read_bytes() == b"two"
    assert stat.S_IMODE(status.st_mode) == 0o664
    if os.geteuid() == 0:
        assert (status.st_uid, status.st_gid) == (1234, 1235)


def test_what_write_returns_can_be_replaced_next(folder: Folder) -> None:
    first = folder.write("a", b"one", None)
    second = folder.write("a", b"two", first)
    folder.write("a", b"three", second)
    third = folder.read("a")
    assert third is not None
    assert third.data == b"three"
    folder.remove("a", third)
    assert folder.read("a") is None


def test_a_file_that_appeared_is_not_replaced(folder: Folder) -> None:
    (Path(folder.path) / "a").write_bytes(b"theirs")
    with pytest.raises(ChangedError):
        folder.write("a", b"ours", None)
    assert (Path(folder.path) / "a").read_bytes() == b"theirs"


@pytest.mark.parametrize("how", ["rename", "in place", "same size and time", "gone"])
@pytest.mark.parametrize("act", ["write", "remove"])
def test_a_file_that_changed_is_not_replaced(folder: Folder, how: str, act: str) -> None:
    path = Path(folder.path) / "a"
    path.write_bytes(b"first")
    expected = folder.read("a")
    assert expected is not None
    if how == "rename":
        (path.parent / "b").write_bytes(b"theirs")
        (path.parent / "b").rename(path)
    elif how == "in place":
        path.write_bytes(b"theirs")
    elif how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"THEIR")
        os.utime(path, ns=(expected.status.st_atime_ns, expected.status.st_mtime_ns))
    after = path.read_bytes() if path.exists() else None
    with pytest.raises(ChangedError):
        folder.write("a", b"ours", expected) if act == "write" else folder.remove("a", expected)
    assert (path.read_bytes() if path.exists() else None) == after


def test_a_file_that_somebody_is_writing_is_left_to_them(folder: Folder) -> None:
    path = Path(folder.path) / "a"
    path.write_bytes(b"first")
    expected = folder.read("a")
    with open(path, "r+b") as theirs:
        with pytest.raises(ChangedError):
            folder.write("a", b"ours", expected)
        theirs.write(b"FIRST")
    assert path.read_bytes() == b"FIRST"


def test_what_a_killed_run_put_aside_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"precious")
    with exchange(enabled=False), Folder(str(tmp_path), str(tmp_path)) as opened:
        expected = opened.read("a")
        assert expected is not None
        opened._put_aside("a", expected)
        assert not (tmp_path / "a").exists()
        assert opened.sweep(time.time() + 10) == 0
        found = opened.read("a")
        assert found is not None
        assert found.data == b"precious"
        opened._put_aside("a", found)
        (tmp_path / "a").write_bytes(b"newer")
        newer = opened.read("a")
        assert newer is not None
        assert newer.data == b"newer"
    assert os.listdir(tmp_path) == ["a"]


def test_only_old_files_of_ours_are_swept(tmp_path: Path) -> None:
    ours = [f".sidecar-faces-{number:016x}.tmp" for number in range(100)]
    foreign = [
        *(f".sidecar-faces-{number}.tmp" for number in range(30)),
        *(f"sidecar-faces-{number:016x}.tmp" for number in range(30)),
        *(f".sidecar-faces-{number:016x}.tmp.xmp" for number in range(30)),
        "a.xmp_exiftool_tmp",
    ]
    for name in (*ours, *foreign):
        (tmp_path / name).touch()
    (tmp_path / ".sidecar-faces-00000000000000ff.tmp").mkdir()
    (tmp_path / ".sidecar-faces-00000000000000fe.tmp").symlink_to("a.xmp_exiftool_tmp")
    with Folder(str(tmp_path), str(tmp_path)) as opened:
        assert opened.sweep(time.time() - 60) == 0
        assert opened.sweep(time.time() + 60) == 100
    left = os.listdir(tmp_path)
    assert set(foreign) <= set(left)
    assert len(left) == len(foreign) + 2


def test_links_folders_pipes_and_giants_are_no_sidecars(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "giant", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with Folder(str(tmp_path), str(tmp_path)) as opened:
        for name, why in [
            ("link", "is a link"),
            ("broken", "is a link"),
            ("folder", "not a regular file"),
            ("pipe", "not a regular file"),
            ("giant", "larger than"),
            ("n" * 300, "too long"),
        ]:
            with pytest.raises(SidecarError, match=why) as caught:
                opened.read(name)
            assert str(tmp_path / name)[:100] in str(caught.value)


def test_a_write_protected_file_is_respected_even_by_root(folder: Folder) -> None:
    path = Path(folder.path) / "a"
    path.write_bytes(b"first")
    path.chmod(0o444)
    expected = folder.read("a")
    assert expected is not None
    with pytest.raises(SidecarError, match="write-protected"):
        folder.write("a", b"ours", expected)
    with pytest.raises(SidecarError, match="write-protected"):
        folder.remove("a", expected)
    assert path.read_bytes() == b"first"


def test_a_folder_that_is_a_link_out_of_the_library(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (root / "sub").symlink_to(outside)
    with pytest.raises(SidecarError, match="link leads out"):
        Folder(str(root / "sub"), str(root))
    assert os.listdir(outside) == []


@pytest.mark.parametrize("planted", ["link", "folder"])
def test_planted_temporary_names_lead_nowhere(
    tmp_path: Path, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs")
    monkeypatch.setattr("secrets.token_hex", lambda _: "0" * 16)
    trap = tmp_path / f".sidecar-faces-{'0' * 16}.tmp"
    trap.symlink_to(outside) if planted == "link" else trap.mkdir()
    with Folder(str(tmp_path), str(tmp_path)) as opened, pytest.raises((SidecarError, ChangedError)):
        opened.write("a", b"ours", None)
    assert outside.read_bytes() == b"theirs"
    assert not (tmp_path / "a").exists()


def test_a_full_disk_tears_nothing(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    old, new = b"o" * 20_000, b"n" * 24_000
    for free in range(0, 132_000, 4_000):
        (small_disk / "a").write_bytes(old)
        statvfs = os.statvfs(small_disk)
        with open(ballast, "wb") as file:
            file.write(b"b" * max(0, statvfs.f_bavail * statvfs.f_frsize - free))
        with Folder(str(small_disk), str(small_disk)) as opened:
            expected = opened.read("a")
            try:
                opened.write("a", new, expected)
            except DiskFullError as error:
                assert "no space" in str(error)
                assert free < 28_000
            found = opened.read("a")
        assert found is not None
        assert found.data in (old, new)
        assert sorted(os.listdir(small_disk)) == ["a", "ballast"]
        ballast.unlink()
        (small_disk / "a").unlink()


def test_exchange_is_found_out_by_doing(tmp_path: Path) -> None:
    assert can_exchange(str(tmp_path))
    with exchange(enabled=False):
        assert not can_exchange(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_few_hundred_kills(tmp_path: Path) -> None:
    counts = kills(300, tmp_path)
    assert counts.is_clean(), counts


@pytest.mark.parametrize("with_exchange", [True, False], ids=["exchange", "no-exchange"])
def test_a_few_hundred_races(tmp_path: Path, with_exchange: bool) -> None:
    race = races(300, tmp_path / "race", with_exchange=with_exchange)
    assert race.counts.is_clean(), race
    assert race.saves > 20 and race.gave_up < 300
    assert race.unseen <= max(2, race.saves // 100)
