"""Walk a library for photos: no link is followed into a folder, no excluded folder is entered."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

from sidecar_faces.core.types import FileSignature

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff"})

DEFAULT_EXCLUDES = (
    "@eaDir",
    "@Recycle",
    "#recycle",
    "#snapshot",
    ".*",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "*.lrdata",
    "*.photoslibrary",
)
"""Folders of managers, NAS systems and trash; `.*` covers .thumbnails, .photoprism, .dtrash, .Trash-1000."""

_MARKERS = frozenset({".nomedia"})
"""A folder that holds one of these is not for indexers."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file whose name says photo; `signature` is None where it could not be looked at."""

    path: str
    signature: FileSignature | None


@dataclass(frozen=True, slots=True)
class ScanProblem:
    """A folder that could not be read; what lies in it is unknown, not gone."""

    path: str
    reason: str


def is_photo_name(name: str) -> bool:
    """Whether a file name ends as a photo's does; our own temporary files and AppleDouble are not."""
    return os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES and not name.startswith("._")


def matches(name: str, relative: str, patterns: tuple[str, ...]) -> bool:
    """Whether a glob matches the name, or the path relative to the library where it holds a slash."""
    return any(fnmatch(relative if "/" in glob else name, glob) for glob in patterns)


def leaves_out(root: str, path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a scan of `root` would not come to a file or folder below it (for hints about single paths)."""
    folder, relative = root, os.path.relpath(path, root)
    names = [] if relative == os.curdir else relative.split(os.sep)
    for depth, name in enumerate(names, 1):
        if any(os.path.lexists(os.path.join(folder, marker)) for marker in _MARKERS):
            return True
        if matches(name, os.sep.join(names[:depth]), patterns):
            return True
        folder = os.path.join(folder, name)
        if depth < len(names) and os.path.islink(folder):
            return True
    return False


def scan(
    path: str,
    excludes: tuple[str, ...] = DEFAULT_EXCLUDES,
    on_problem: Callable[[ScanProblem], None] = lambda _: None,
    *,
    root: str | None = None,
    recursive: bool = True,
) -> Iterator[Candidate]:
    """Every photo below a folder, folder by folder in the order of their names; or the one photo given.

    `excludes` are globs for names of folders and files; those with a slash are relative to `root`, by
    default the folder itself. Memory is that of one folder and the stack of folders still to visit.
    """
    if not os.path.isdir(path):
        yield Candidate(path, signature_of(path))
        return
    stack = [path]
    while stack:
        folder = stack.pop()
        try:
            with os.scandir(folder) as entries:
                listing = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            on_problem(ScanProblem(folder, os.strerror(error.errno or 0)))
            continue
        if any(entry.name in _MARKERS for entry in listing):
            continue
        listing = [e for e in listing if not matches(e.name, os.path.relpath(e.path, root or path), excludes)]
        if recursive:
            stack.extend(e.path for e in reversed(listing) if e.is_dir(follow_symlinks=False))
        yield from _photos(listing)


def _photos(listing: list[os.DirEntry[str]]) -> Iterator[Candidate]:
    for entry in listing:
        if is_photo_name(entry.name) and not _is_folder(entry):
            yield Candidate(entry.path, signature_of(entry.path))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links: named as a photo that cannot be opened
        return False


def signature_of(path: str) -> FileSignature | None:
    """The signature of a file as it is now; None where it cannot be looked at, or is no regular file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return FileSignature(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None
