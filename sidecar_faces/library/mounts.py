"""What a library lies on: file system type, free space, and what the file system can do."""

from __future__ import annotations

import os
from dataclasses import dataclass

NETWORK_TYPES = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "glusterfs", "ncpfs", "davfs"})
"""File systems on which other machines' changes raise no inotify event here."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of the mount table."""

    point: str
    type: str
    read_only: bool

    @property
    def has_inotify(self) -> bool:
        """Not for FUSE, which may change beneath us; but for FUSE on a disk of its own (NTFS, exFAT)."""
        return self.type == "fuseblk" or not (self.type in NETWORK_TYPES or self.type.startswith("fuse"))


def _unescape(field: str) -> str:
    """The mount table writes space, tab, newline and backslash as octal escapes."""
    for code in ("040", "011", "012", "134"):
        field = field.replace(f"\\{code}", chr(int(code, 8)))
    return field


TABLE = "/proc/self/mounts"


def mount_of(path: str, table: str = TABLE) -> Mount:
    """The mount that a path lies on."""
    return mount_at(os.path.realpath(path), table)


def mount_at(resolved: str, table: str = TABLE) -> Mount:
    """The same for a path without links; touches no file system, so it cannot hang.

    The last one of the longest matching point wins, as in the kernel.
    """
    target = os.path.join(resolved, "")
    best = Mount("/", "unknown", read_only=False)
    with open(table, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            _, point, kind, options, *_ = line.split(" ")
            point = _unescape(point)
            if target.startswith(os.path.join(point, "")) and len(point) >= len(best.point):
                best = Mount(point, kind, "ro" in options.split(","))
    return best


def free_bytes(path: str) -> int:
    """Space that this user can still fill."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
