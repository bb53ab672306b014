"""Merge what was found in a photo into its sidecar; may be killed at any point and run again.

A write is three commits: the landmark file says what is about to happen (faces `pending`), the sidecar is
exchanged, the landmark file says that it happened. Whatever is killed in between, the next run recognises
its own regions by the landmark file and goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from sidecar_faces.core.frames import Area, StoredBox
from sidecar_faces.core.merge import Decision, FaceState, MergePlan, merge, recognise
from sidecar_faces.core.regions import Region, face_area
from sidecar_faces.core.types import Face, FaceResult, FileSignature, Landmarks, Photo
from sidecar_faces.errors import SidecarConflictError, SidecarError
from sidecar_faces.log import printable
from sidecar_faces.sidecar.commit import ChangedError, Folder, Snapshot
from sidecar_faces.sidecar.document import EMPTY, Document, digest
from sidecar_faces.sidecar.exiftool import ExifTool
from sidecar_faces.sidecar.landmark_file import KnownFace, LandmarkFile, SidecarRecord, dump
from sidecar_faces.sidecar.layout import Place, SidecarLayout
from sidecar_faces.sidecar.read import read_document, read_landmarks, read_place
from sidecar_faces.sidecar.undo import is_untouched

MAX_CONFLICTS = 20
SWEEP_AGE_S = 3600.0
"""Temporary files of ours that are older belong to a run that was killed."""


@dataclass(frozen=True, slots=True)
class _Situation:
    """All that one attempt to write knows.

    `document` is the sidecar, or the seed of one where `snapshot` is None.
    """

    photo: Photo
    place: Place
    snapshot: Snapshot | None
    document: Document
    marks: Place
    marks_snapshot: Snapshot | None
    memory: LandmarkFile | None
    faces: tuple[tuple[Face, Area], ...]
    plan: MergePlan


@dataclass(slots=True)
class SidecarWriter:
    """Writes about the photos of one library; implements `pipeline.Writer`.

    `models`: fingerprint of what found the faces. `restore`: write regions again that somebody removed.
    `dry_run`: decide, and write nothing. `now`: seconds since the epoch, for the sweep of temporary files.
    """

    layout: SidecarLayout
    exiftool: ExifTool
    models: str
    restore: bool = False
    dry_run: bool = False
    now: Callable[[], float] = time.time
    _swept: set[str] = field(default_factory=set)

    def write(self, result: FaceResult) -> int:
        """Merge, and return how many of the faces have a region in the sidecar then, ours or another's.

        Raises SidecarError (left byte-identical), SidecarConflictError, DiskFullError, ToolFailedError.
        """
        for _ in range(MAX_CONFLICTS):
            with suppress(ChangedError):
                return self._attempt(result)
        place = self.layout.sidecar(result.photo.path)
        raise SidecarConflictError(f"{printable(place.path)}: kept changing while we merged; run again.")

    def stamp(self, path: str) -> str:
        """Changes when the sidecar, the landmark file or their folders' permissions do; reads none."""
        try:
            marks = self.layout.landmark_file(path)
            files = [
                self.layout.sidecar(path).path,
                *self.layout.others(path),
                marks.path,
            ]
        except SidecarError:
            return "outside"
        folders = sorted({os.path.dirname(name) for name in files})
        return ";".join([*map(_stamp, files), *map(_permissions, folders)])

    def recall(self, path: str, signature: FileSignature) -> int | None:
        """What an earlier run with the same models wrote about this version of the photo; None: not known."""
        with suppress(SidecarError):
            place = self.layout.landmark_file(path)
            memory = read_landmarks(place)[1]
            same = memory and (memory.models, memory.signature) == (self.models, signature)
            if memory and same and not memory.is_pending:
                return memory.count()
        return None

    def is_incomplete(self, path: str) -> bool:
        """Whether a region of ours was removed by somebody, or the files cannot be read to tell."""
        try:
            marks = self.layout.landmark_file(path)
            memory = read_landmarks(marks)[1]
            if memory is None:
                return False
            snapshot = read_place(place := self.layout.sidecar(path))
            regions = read_document(place.path, snapshot.data).regions if snapshot else ()
        except SidecarError:
            return True
        ours = set(recognise(regions, memory.known()).values())
        written = {i for i, face in enumerate(memory.known()) if face.state is FaceState.WRITTEN}
        return bool(written - ours) or any(face.state is FaceState.REJECTED for face in memory.faces)

    def _attempt(self, result: FaceResult) -> int:
        situation = self._situation(result)
        if situation is None:
            return 0
        plan = situation.plan
        if not self.dry_run:
            self._commit(situation)
        return plan.count(FaceState.WRITTEN) + plan.count(FaceState.KEPT)

    def _situation(self, result: FaceResult) -> _Situation | None:
        """Read what stands there and decide; None where there is nothing to say, now and before."""
        photo, layout = result.photo, self.layout
        marks = layout.landmark_file(photo.path)
        marks_snapshot, memory = read_landmarks(marks)
        areas = ((face, face_area(face.box, photo.stored)) for face in result.faces)
        faces = tuple((face, area) for face, area in areas if area is not None)
        if not faces and memory is None:
            return None
        place = layout.sidecar(photo.path)
        snapshot = read_place(place)
        others = [(path, _must_read(path)) for path in layout.others(photo.path)]
        source, data = (place.path, snapshot.data) if snapshot else self._seed(photo, others)
        document = read_document(source, data)
        regions = [*document.regions, *_foreign(others, len(document.regions))]
        known = memory.known() if memory else ()
        plan = merge(regions, known, [area for _, area in faces], restore=self.restore)
        return _Situation(photo, place, snapshot, document, marks, marks_snapshot, memory, faces, plan)

    def _seed(self, photo: Photo, others: Sequence[tuple[str, bytes]]) -> tuple[str, bytes]:
        """What a new sidecar must say from the start, since managers read it instead of what it hides."""
        if others:
            return others[0]
        return photo.path, self.exiftool.seed(photo.path, photo.format) or EMPTY

    def _commit(self, situation: _Situation) -> None:
        record = _settled(situation)
        marks_snapshot = situation.marks_snapshot
        if situation.plan.changes_sidecar:
            begun, data = _edit(situation, _origin(situation))
            _refuse_protected(situation)
            marks_snapshot = self._mark(situation, marks_snapshot, self._pending(situation, begun))
            self._put(situation.photo.path, situation.place, data, situation.snapshot)
            record = replace(begun, after=begun.pending, pending="")
        self._mark(situation, marks_snapshot, self._final(situation, record))

    def _final(self, situation: _Situation, record: SidecarRecord | None) -> LandmarkFile:
        """What the landmark file says once the plan is carried out."""
        photo = situation.photo
        return LandmarkFile(
            file_name=os.path.basename(photo.path),
            stored=photo.stored,
            orientation=photo.orientation,
            signature=photo.signature,
            models=self.models,
            sidecar=record,
            faces=_faces(situation),
        )

    def _pending(self, situation: _Situation, record: SidecarRecord) -> LandmarkFile:
        """What it says while the plan is carried out."""
        file, plan = self._final(situation, record), situation.plan
        known = situation.memory.known() if situation.memory else ()
        ours = recognise(situation.document.regions, known)
        faces = (f.in_state(FaceState.PENDING) if _is_added(f, plan) else f for f in file.faces)
        leaving = (known[ours[index]] for index in plan.remove)
        return replace(file, faces=tuple(faces), leaving=tuple(f for f in leaving if f.area not in plan.add))

    def _mark(self, situation: _Situation, expected: Snapshot | None, file: LandmarkFile) -> Snapshot | None:
        """Write the landmark file, unless it says so already."""
        data = dump(file)
        if expected is not None and expected.data == data:
            return expected
        return self._put(situation.photo.path, situation.marks, data, expected)

    def _put(self, photo: str, place: Place, data: bytes, expected: Snapshot | None) -> Snapshot:
        """Write beside the photo only where the photo is: a library may be unmounted at any moment."""
        folder, name = os.path.split(place.path)
        beside = folder == os.path.dirname(photo)
        with _opened(folder, place.within, create=not beside) as opened:
            if beside and not opened.holds(os.path.basename(photo)):
                raise SidecarError(f"{printable(photo)}: is gone; nothing is written about it.")
            if folder not in self._swept:
                self._swept.add(folder)
                opened.sweep(self.now() - SWEEP_AGE_S)
            written = opened.write(name, data, expected)
            opened.sync()
        return written


def _opened(folder: str, within: str, *, create: bool) -> Folder:
    try:
        return Folder(folder, within, create=create)
    except FileNotFoundError:
        raise SidecarError(f"{printable(folder)}: is gone; nothing is written there.") from None


def _refuse_protected(situation: _Situation) -> None:
    """Before anything is announced in the landmark file."""
    if situation.snapshot is not None:
        folder, name = os.path.split(situation.place.path)
        with _opened(folder, situation.place.within, create=False) as opened:
            opened.refuse_protected(name, situation.snapshot)


def _must_read(path: str) -> bytes:
    """Another sidecar of the photo, which must be readable: a failed read never means "no regions"."""
    snapshot = read_place(Place(path, os.path.dirname(path)))
    if snapshot is None:
        raise ChangedError(path)
    return snapshot.data


def _foreign(others: Sequence[tuple[str, bytes]], first: int) -> list[Region]:
    """The regions of other sidecars; none of them can be ours."""
    found = [region for path, data in others for region in read_document(path, data).regions]
    return [replace(r, index=first + i, schema="other", plain=False) for i, r in enumerate(found)]


def _origin(situation: _Situation) -> SidecarRecord:
    """What is ours of a sidecar that is about to be edited; what somebody else touched is theirs."""
    place, snapshot, memory = situation.place, situation.snapshot, situation.memory
    name, old = os.path.basename(place.path), memory.sidecar if memory else None
    if snapshot is None:
        return SidecarRecord(name, created=True, container="", before="", after="")
    if memory and old and is_untouched(memory, place, snapshot):
        return replace(old, after=digest(snapshot.data), pending="")
    if situation.plan.ours and old:
        return SidecarRecord(name, created=False, container=old.container, before="", after="")
    return SidecarRecord(name, created=False, container="", before=digest(snapshot.data), after="")


def _settled(situation: _Situation) -> SidecarRecord | None:
    """What was recorded before; a write that was begun has either happened or is not going to."""
    old = situation.memory.sidecar if situation.memory else None
    if old is None or not old.pending:
        return old
    still_old = situation.snapshot is not None and digest(situation.snapshot.data) == old.after
    return replace(old, after=old.after if still_old else old.pending, pending="")


def _edit(situation: _Situation, record: SidecarRecord) -> tuple[SidecarRecord, bytes]:
    """The record of the edit as begun, and the sidecar to write. Raises SidecarError naming the sidecar."""
    plan, document = situation.plan, situation.document
    try:
        edited = document.edit(plan.remove, plan.add, situation.photo.stored, record.container, record.before)
    except SidecarError as error:
        raise SidecarError(f"{printable(situation.place.path)}: {error}; it was left as it is.") from error
    return replace(record, container=edited.container, pending=digest(edited.data)), edited.data


def _faces(situation: _Situation) -> tuple[KnownFace, ...]:
    """Faces for the landmark file: those found now, and those that only memory knows, as they were."""
    remembered = {face.id: face for face in situation.memory.faces} if situation.memory else {}
    return tuple(
        remembered[decision.id].in_state(decision.state)
        if decision.found is None
        else _known_face(decision, situation.faces[decision.found][0])
        for decision in situation.plan.decisions
    )


def _known_face(decision: Decision, face: Face) -> KnownFace:
    box = StoredBox(*(round(float(value), 2) for value in (face.box.x, face.box.y, face.box.w, face.box.h)))
    marks = face.landmarks and _rounded(face.landmarks)
    return KnownFace(decision.id, decision.state, round(float(face.score), 4), box, decision.area, marks)


def _rounded(marks: Landmarks) -> Landmarks:
    """To 1/100 pixel and degree: what is beyond is noise."""
    return Landmarks(
        layout=marks.layout,
        keypoints=tuple(
            (round(float(x), 2), round(float(y), 2), round(float(c), 4)) for x, y, c in marks.keypoints
        ),
        visibility=tuple(marks.visibility),
        rotation=round(float(marks.rotation), 2),
        center=(round(float(marks.center[0]), 2), round(float(marks.center[1]), 2)),
        pose=marks.pose and (round(marks.pose[0], 1), round(marks.pose[1], 1), round(marks.pose[2], 1)),
    )


def _is_added(face: KnownFace, plan: MergePlan) -> bool:
    return face.state is FaceState.WRITTEN and face.region in plan.add


def _stamp(path: str) -> str:
    try:
        status = os.lstat(path)
    except OSError as error:
        return f"{os.path.basename(path)}:{error.errno}"
    return f"{os.path.basename(path)}:{status.st_size}:{status.st_mtime_ns}:{status.st_mode}"


def _permissions(folder: str) -> str:
    try:
        return f"{os.stat(folder).st_mode:o}"
    except OSError as error:
        return str(error.errno)
