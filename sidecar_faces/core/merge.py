"""What stands in a sidecar + what we wrote before + what was found now -> what to change, and why.

The rules (contract 3 of the design):

* Ours is a plain region at the place of a face that the landmark file lists as written or pending.
* A face that overlaps (IoU >= 0.5) a region of anybody else is theirs: `kept`, nothing is added.
* A face whose region vanished was rejected; faces overlapping it are not written until `restore`.
* Ours stand behind the named regions; what already stands there as wanted is not touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from sidecar_faces.core.frames import Area, area_iou
from sidecar_faces.core.regions import RECOGNITION_TOLERANCE, Region, overlaps, same_place


class FaceState(str, Enum):
    """Where a face stands; `pending` = a write was begun, the region may or may not be there."""

    WRITTEN = "written"
    KEPT = "kept"
    REJECTED = "rejected"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class Known:
    """A face that the landmark file remembers."""

    id: int
    area: Area
    state: FaceState


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one face.

    `found`: index among the faces found now, None where only memory knows the face (then `id` tells which).
    `state`: WRITTEN for a face that stands in the sidecar once the plan is carried out.
    """

    id: int
    found: int | None
    area: Area
    state: FaceState
    reason: str


@dataclass(frozen=True, slots=True)
class MergePlan:
    """`remove`: indexes of regions of ours to take out. `add`: areas to append, in this order.

    `ours`: indexes of all regions recognised as ours. `dropped`: remembered faces whose region is removed
    without another taking its place. `decisions` are sorted by face id.
    """

    remove: tuple[int, ...]
    add: tuple[Area, ...]
    decisions: tuple[Decision, ...]
    ours: tuple[int, ...]
    dropped: tuple[Known, ...] = ()

    @property
    def changes_sidecar(self) -> bool:
        return bool(self.remove or self.add)

    def count(self, state: FaceState) -> int:
        """How many faces end in this state."""
        return sum(decision.state is state for decision in self.decisions)


def recognise(regions: Iterable[Region], known: Sequence[Known]) -> dict[int, int]:
    """Regions of ours: region index -> index in `known`. Only plain regions can be ours."""
    ours: dict[int, int] = {}
    candidates = [i for i, face in enumerate(known) if face.state in (FaceState.WRITTEN, FaceState.PENDING)]
    for region in regions:
        if region.schema == "mwg" and region.plain and region.area is not None:
            places = (i for i in candidates if same_place(region.area, known[i].area))
            match = next(places, None)
            if match is not None:
                ours[region.index] = match
    return ours


def merge(
    regions: Sequence[Region], known: Sequence[Known], found: Sequence[Area], *, restore: bool = False
) -> MergePlan:
    """Decide about every face; pure and deterministic.

    Faces found twice (overlapping one found before) are left out.
    """
    ours = recognise(regions, known)
    foreign = [r.area for r in regions if r.index not in ours and r.area is not None]
    standing = _standing(ours, known)
    memory = [] if restore else _rejected(known, standing, foreign)
    faces = _decide(found, foreign, memory, [known[i].area for i in sorted(standing)])
    faces = _with_ids(faces, found, known)
    wanted = [d.area for d in faces if d.state is FaceState.WRITTEN]
    remove, add = _difference(regions, ours, known, wanted)
    remembered = _remembered(known, standing, foreign, wanted, restore=restore)
    taken = {d.id for d in remembered}
    decisions = sorted([*remembered, *(d for d in faces if d.id not in taken)], key=lambda d: d.id)
    kept_areas = {_key(area) for area in wanted}
    dropped = tuple(known[i] for i in sorted(standing) if _key(known[i].area) not in kept_areas)
    return MergePlan(tuple(remove), tuple(add), tuple(decisions), tuple(ours), dropped)


def _standing(ours: dict[int, int], known: Sequence[Known]) -> set[int]:
    """Indexes of all remembered faces whose region stands, of several at one place, too."""
    places, near = [known[i].area for i in set(ours.values())], 2 * RECOGNITION_TOLERANCE
    writable = (FaceState.WRITTEN, FaceState.PENDING)
    return {
        i
        for i, face in enumerate(known)
        if face.state in writable and any(same_place(face.area, place, near) for place in places)
    }


def _key(area: Area) -> tuple[float, float, float, float]:
    return area.x, area.y, area.w, area.h


def _rejected(known: Sequence[Known], standing: set[int], foreign: Sequence[Area]) -> list[Known]:
    """Faces that a person does not want: rejected before, or gone from the sidecar since."""
    return [
        face
        for i, face in enumerate(known)
        if face.state is FaceState.REJECTED or _vanished(face, standing=i in standing, foreign=foreign)
    ]


def _vanished(face: Known, *, standing: bool, foreign: Sequence[Area]) -> bool:
    if face.state not in (FaceState.WRITTEN, FaceState.KEPT) or standing:
        return False
    return not any(overlaps(face.area, area) for area in foreign)


def _decide(
    found: Sequence[Area], foreign: Sequence[Area], memory: Sequence[Known], standing: Sequence[Area]
) -> list[Decision]:
    decisions: list[Decision] = []
    for i, area in enumerate(found):
        if any(overlaps(area, found[d.found]) for d in decisions if d.found is not None):
            continue
        place = next((own for own in standing if same_place(area, own)), area)
        rejected = _closest(area, memory)
        stands = max((area_iou(area, own) for own in standing), default=0.0)
        if any(overlaps(area, other) for other in foreign):
            decisions.append(Decision(-1, i, place, FaceState.KEPT, "another region stands there"))
        elif rejected is not None and area_iou(area, rejected.area) > stands:
            decisions.append(
                Decision(rejected.id, i, rejected.area, FaceState.REJECTED, "its region was removed")
            )
        else:
            decisions.append(Decision(-1, i, place, FaceState.WRITTEN, "no region stands there"))
    return decisions


def _closest(area: Area, memory: Sequence[Known]) -> Known | None:
    """The remembered face that an area overlaps most."""
    best = max(memory, key=lambda face: area_iou(area, face.area), default=None)
    return best if best is not None and overlaps(area, best.area) else None


def _with_ids(faces: list[Decision], found: Sequence[Area], known: Sequence[Known]) -> list[Decision]:
    """Give every face the id of the remembered face that it overlaps most, or a fresh one."""
    free = {face.id: face for face in known}
    for decision in faces:
        free.pop(decision.id, None)
    fresh = max((face.id for face in known), default=0) + 1
    numbered = []
    for decision in faces:
        number = decision.id
        if number < 0 and decision.found is not None:
            number, fresh = _id_for(found[decision.found], free, fresh)
        numbered.append(Decision(number, decision.found, decision.area, decision.state, decision.reason))
    return numbered


def _id_for(area: Area, free: dict[int, Known], fresh: int) -> tuple[int, int]:
    best = max(free.values(), key=lambda face: area_iou(area, face.area), default=None)
    if best is not None and overlaps(area, best.area):
        del free[best.id]
        return best.id, fresh
    return fresh, fresh + 1


def _difference(
    regions: Sequence[Region], ours: dict[int, int], known: Sequence[Known], wanted: Sequence[Area]
) -> tuple[list[int], list[Area]]:
    """Regions to take out and areas to append; a region that stands as wanted stays where it is."""
    missing = {_key(area): area for area in wanted}
    stays = []
    for index in sorted(ours):
        if missing.pop(_key(known[ours[index]].area), None) is not None:
            stays.append(index)
    last_named = max((r.index for r in regions if r.schema == "mwg" and r.is_named), default=-1)
    if any(index < last_named for index in stays):  # some managers stop reading at a nameless region
        return sorted(ours), list({_key(area): area for area in wanted}.values())
    return sorted(set(ours) - set(stays)), list(missing.values())


def _remembered(
    known: Sequence[Known],
    standing: set[int],
    foreign: Sequence[Area],
    wanted: Sequence[Area],
    *,
    restore: bool,
) -> list[Decision]:
    """The memory of rejected faces, kept as it is: a memory that follows new detections would drift."""
    return [
        Decision(face.id, None, face.area, FaceState.REJECTED, "its region was removed")
        for face in _rejected(known, standing, foreign)
        if not (restore and any(overlaps(face.area, area) for area in wanted))
    ]
