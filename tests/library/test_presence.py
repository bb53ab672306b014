"""Whether a library is there: folders, mounts of a namespace of its own, and a mount that never answers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sidecar_faces.library.presence import Presence, Sentry, first_sights


def look(sentry: Sentry, seconds: float = 20) -> Presence:
    """Poll until a look that starts now is done."""
    now = time.monotonic()
    sentry.poll(now)
    while sentry._child is not None and time.monotonic() < now + seconds:
        sentry.poll(time.monotonic())
    return sentry.sight.presence


def table(tmp_path: Path, *lines: str) -> str:
    file = tmp_path / "table"
    file.write_text("".join(f"{line} 0 0\n" for line in ("/dev/sda / ext4 rw", *lines)))
    return str(file)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "new\nline 'photos'"
    folder.mkdir()
    return folder


def test_folders(root: Path, tmp_path: Path) -> None:
    sentry = Sentry(str(root), every=0)
    assert sentry.sight.presence is Presence.UNKNOWN
    assert not sentry.is_here()
    assert look(sentry) is Presence.EMPTY
    (root / "a.jpg").touch()
    assert look(sentry) is Presence.HERE
    assert sentry.is_here()
    assert sentry.sight.resolved == str(root)
    root.rename(tmp_path / "elsewhere")
    assert look(sentry) is Presence.MISSING
    root.touch()
    assert look(sentry) is Presence.MISSING
    sentry.close()


def test_a_link_is_seen_where_it_leads(root: Path, tmp_path: Path) -> None:
    (root / "a.jpg").touch()
    (tmp_path / "link").symlink_to(root)
    sentry = Sentry(str(tmp_path / "link"))
    assert look(sentry) is Presence.HERE
    assert sentry.sight.resolved == str(root)


def test_a_library_whose_mount_point_is_gone_is_unmounted(root: Path, tmp_path: Path) -> None:
    (root / "a.jpg").touch()  # something lies in the bare folder
    mounts = table(tmp_path, f"nas:/x {tmp_path} nfs4 rw")
    sentry = Sentry(str(root), home=str(tmp_path), every=0, table=mounts)
    assert look(sentry) is Presence.HERE
    table(tmp_path)
    assert not sentry.is_here()  # at once, without a look
    assert look(sentry) is Presence.UNMOUNTED
    table(
        tmp_path,
        f"nas:/x {tmp_path} nfs4 rw",
        f"y {root} ext4 rw".replace("\n", "\\012").replace(" '", "\\040'"),
    )
    assert look(sentry) is Presence.HERE  # mounted deeper than before is no loss


def test_read_only_matters_where_sidecars_lie_beside(root: Path, tmp_path: Path) -> None:
    (root / "a.jpg").touch()
    mounts = table(tmp_path, f"nas:/x {tmp_path} nfs4 ro")
    assert look(Sentry(str(root), table=mounts)) is Presence.READ_ONLY
    assert look(Sentry(str(root), table=mounts, needs_writing=False)) is Presence.HERE


def test_looks_are_as_rare_as_agreed(root: Path) -> None:
    sentry = Sentry(str(root), every=15)
    assert look(sentry) is Presence.EMPTY
    (root / "a.jpg").touch()
    now = time.monotonic()
    assert sentry.poll(now).presence is Presence.EMPTY
    assert sentry._child is None
    sentry.poll(now + 15)
    assert sentry._child is not None
    sentry.close()


def test_a_mount_that_does_not_answer_keeps_nobody(hung: Path) -> None:
    sentry = Sentry(str(hung), every=0, deadline=0.3)
    started = time.monotonic()
    assert look(sentry) is Presence.HUNG
    assert time.monotonic() - started < 5
    for _ in range(3):  # no pile of children waits there
        look(sentry)
    assert len(sentry._hung) <= 2
    assert not sentry.is_here()


def test_the_first_look_at_all_waits_for_no_hung_mount(hung: Path, root: Path) -> None:
    (root / "a.jpg").touch()
    started = time.monotonic()
    sights = first_sights([str(hung), str(root), str(root / "absent")], deadline=0.5)
    assert time.monotonic() - started < 5
    assert [sight.presence for sight in sights.values()] == [Presence.HUNG, Presence.HERE, Presence.MISSING]
    assert sights[str(root)].resolved == str(root)
