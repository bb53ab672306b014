"""The mount table."""

from __future__ import annotations

from pathlib import Path

from sidecar_faces.library.mounts import Mount, free_bytes, mount_of


def test_the_longest_mount_point_wins(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    table.write_text(
        "/dev/sda1 / ext4 rw,relatime 0 0\n"
        "nas:/photos /photos nfs4 ro,vers=4.2 0 0\n"
        "x /photos/My\\040Album fuse.sshfs rw 0 0\n"
        "tmpfs /phot tmpfs rw 0 0\n"
    )
    assert mount_of("/photos/2020", str(table)).type == "nfs4"
    assert mount_of("/photos/2020", str(table)).read_only
    assert not mount_of("/photos/2020", str(table)).has_inotify
    assert mount_of("/photos/My Album/x", str(table)).type == "fuse.sshfs"
    assert mount_of("/photography", str(table)).type == "ext4"
    assert mount_of("/", str(table)).has_inotify
    assert Mount("/usb", "fuseblk", read_only=False).has_inotify
    assert not Mount("/win", "cifs", read_only=False).has_inotify


def test_the_real_table(tmp_path: Path) -> None:
    assert mount_of(str(tmp_path)).type != "unknown"
    assert free_bytes(str(tmp_path)) > 0
