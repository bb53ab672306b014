"""Take back exactly what was written about a photo."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from sidecar_faces.core.merge import FaceState, recognise
from sidecar_faces.errors import DiskFullError, SidecarConflictError, SidecarError
from sidecar_faces.log import printable
from sidecar_faces.sidecar.commit import ChangedError, Folder, Snapshot
from sidecar_faces.sidecar.document import digest
from sidecar_faces.sidecar.landmark_file import LandmarkFile, dump
from sidecar_faces.sidecar.layout import LANDMARK_SUFFIX, Place, SidecarLayout
from sidecar_faces.sidecar.read import read_document, read_landmarks, read_place

_MAX_CONFLICTS = 10


@dataclass(frozen=True, slots=True)
class Undone:
    """What was (or with `dry_run` would be) taken back.

    `sidecar_removed`: we had made it, and nobody touched it since. `regions`: taken out of one that stays.
    """

    photo: str
    sidecar: str
    sidecar_removed: bool
    regions: int
    landmark_file: str


def undo(photo: str, layout: SidecarLayout, *, dry_run: bool = False) -> Undone | None:
    """Take out our regions, the landmark file, and a sidecar of ours that nobody touched.

    None where no landmark file tells that anything is ours. Modification times of edited sidecars are new:
    managers re-read by them. Raises SidecarError, DiskFullError; then the landmark file stays.
    """
    for _ in range(_MAX_CONFLICTS):
        with suppress(ChangedError):
            return _undo(photo, layout, dry_run=dry_run)
    raise SidecarConflictError(f"{printable(layout.sidecar(photo).path)}: kept changing; run again.")


def _undo(photo: str, layout: SidecarLayout, *, dry_run: bool) -> Undone | None:
    place, marks = layout.sidecar(photo), layout.landmark_file(photo)
    marks_snapshot, memory = read_landmarks(marks)
    if marks_snapshot is None or memory is None:
        return None
    snapshot = read_place(place)
    created = memory.sidecar is not None and memory.sidecar.created
    removed = snapshot is not None and created and is_untouched(memory, place, snapshot)
    regions, rest = (0, None) if snapshot is None or removed else _without_ours(place, snapshot, memory)
    if not dry_run:
        if snapshot is not None:
            marks_snapshot = _announce(marks, marks_snapshot, memory)
            if regions or removed:
                _replace(place, snapshot, rest)
        _replace(marks, marks_snapshot, None)
    return Undone(photo, place.path, removed, regions, marks.path)


def _announce(marks: Place, snapshot: Snapshot, memory: LandmarkFile) -> Snapshot:
    """Say that regions are about to go, so that a run after a kill does not take them for rejected."""
    begun = (
        face.in_state(FaceState.PENDING) if face.state is FaceState.WRITTEN else face for face in memory.faces
    )
    data = dump(replace(memory, faces=tuple(begun)))
    if data == snapshot.data:
        return snapshot
    try:
        return _replace(marks, snapshot, data) or snapshot
    except DiskFullError:  # undoing makes room; only a kill in this moment would look like a rejection
        return snapshot


def is_untouched(memory: LandmarkFile, place: Place, snapshot: Snapshot) -> bool:
    """Whether a sidecar is byte for byte what our last edit left."""
    record = memory.sidecar
    return (
        record is not None
        and record.file_name == os.path.basename(place.path)
        and digest(snapshot.data) in (record.after, record.pending)
    )


def _without_ours(place: Place, snapshot: Snapshot, memory: LandmarkFile) -> tuple[int, bytes | None]:
    """How many regions of ours stand in a sidecar, and its content without them."""
    document = read_document(place.path, snapshot.data)
    ours = sorted(recognise(document.regions, memory.known()))
    if not ours:
        return 0, None
    record = memory.sidecar
    container, before = (record.container, record.before) if record else ("", "")
    try:
        return len(ours), document.edit(ours, (), memory.stored, container, before).data
    except SidecarError as error:
        raise SidecarError(f"{printable(place.path)}: {error}; it was left as it is.") from error


def _replace(place: Place, snapshot: Snapshot, data: bytes | None) -> Snapshot | None:
    """Write a file anew, or with None remove it."""
    folder, name = os.path.split(place.path)
    with Folder(folder, place.within) as opened:
        written = None if data is None else opened.write(name, data, snapshot)
        if data is None:
            opened.remove(name, snapshot)
        opened.sync()
    return written


def remembered(layout: SidecarLayout, below: str) -> Iterator[str]:
    """Photos (absolute paths) that have a landmark file, at or below a path of the library; they may be gone.

    Links to folders are not followed.
    """
    base = os.path.dirname(layout.landmark_file(os.path.join(layout.root, "x")).path)
    relative = os.path.relpath(below, layout.root)
    if os.path.isfile(os.path.join(base, relative) + LANDMARK_SUFFIX):
        yield os.path.normpath(os.path.join(layout.root, relative))
        return
    for folder, folders, names in os.walk(os.path.join(base, relative)):
        folders.sort()
        for name in sorted(names):
            if name.endswith(LANDMARK_SUFFIX) and name != LANDMARK_SUFFIX:
                found = os.path.relpath(os.path.join(folder, name[: -len(LANDMARK_SUFFIX)]), base)
                yield os.path.normpath(os.path.join(layout.root, found))
