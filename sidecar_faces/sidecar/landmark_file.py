"""The landmark file, `sidecar-faces/1`: what was found in a photo, and what of it was written where.

docs/landmark-file.schema.json describes it for other programs. It is read strictly: a file that is not as we
write it may be somebody's work, so it is reported and left alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sidecar_faces.core.frames import Area, Size, StoredBox
from sidecar_faces.core.merge import FaceState, Known
from sidecar_faces.core.types import FileSignature, Landmarks
from sidecar_faces.errors import SidecarError

SCHEMA = "sidecar-faces/1"
_MAX_FACES = 10_000
_FACE = (
    *("id", "state", "score", "bbox", "region"),
    *("rotation", "center", "layout", "keypoints", "visibility", "pose"),
)


@dataclass(frozen=True, slots=True)
class KnownFace:
    """A face of the landmark file.

    `region`: normalized, as written (or as it would have been); `box`: stored pixels; `score`: 0..1.
    """

    id: int
    state: FaceState
    score: float
    box: StoredBox
    region: Area
    landmarks: Landmarks | None

    def known(self) -> Known:
        return Known(self.id, self.region, self.state)

    def in_state(self, state: FaceState) -> KnownFace:
        return replace(self, state=state)


@dataclass(frozen=True, slots=True)
class SidecarRecord:
    """What we did to the sidecar.

    `created`: it did not exist before. `container`: see `splice.Spliced`. `before`: SHA-256 of the sidecar
    before our first edit, "" where it is not known. `after`: SHA-256 of what our last edit left; `pending`:
    of what an edit that was begun will leave, "" once it is done.
    """

    file_name: str
    created: bool
    container: str
    before: str
    after: str
    pending: str = ""


@dataclass(frozen=True, slots=True)
class LandmarkFile:
    """All of a landmark file.

    `leaving`: while a write is pending, regions of ours that it takes out.
    """

    file_name: str
    stored: Size
    orientation: int
    signature: FileSignature
    models: str
    sidecar: SidecarRecord | None
    faces: tuple[KnownFace, ...]
    leaving: tuple[Known, ...] = ()

    @property
    def is_pending(self) -> bool:
        """Whether a write was begun and not seen to end."""
        begun = self.sidecar is not None and bool(self.sidecar.pending)
        return begun or bool(self.leaving) or any(face.state is FaceState.PENDING for face in self.faces)

    def known(self) -> tuple[Known, ...]:
        """All that the merge must know of."""
        return (*(face.known() for face in self.faces), *self.leaving)

    def count(self) -> int:
        """Faces that have a region in the sidecar, ours or another's."""
        return sum(face.state in (FaceState.WRITTEN, FaceState.KEPT) for face in self.faces)


def dump(file: LandmarkFile) -> bytes:
    """As JSON, one line per face; the same bytes for the same content."""
    photo = {
        "file_name": file.file_name,
        "width": file.stored.width,
        "height": file.stored.height,
        "orientation": file.orientation,
        "size": file.signature.size,
        "mtime_ns": file.signature.mtime_ns,
    }
    fields: dict[str, object] = {"schema": SCHEMA, "photo": photo, "models": {"fingerprint": file.models}}
    if file.sidecar is not None:
        record = file.sidecar
        fields["sidecar"] = {key: getattr(record, key) for key in record.__dataclass_fields__}
    if file.leaving:
        fields["leaving"] = [{"id": face.id, "region": _numbers(face.area)} for face in file.leaving]
    head = "".join(f' "{key}": {json.dumps(value)},\n' for key, value in fields.items())
    faces = ",\n".join("  " + json.dumps(_face_out(face)) for face in file.faces)
    return f'{{\n{head} "faces": [{chr(10) if faces else ""}{faces}]\n}}\n'.encode("ascii")


def _numbers(value: Area | StoredBox) -> list[float]:
    return [value.x, value.y, value.w, value.h]


def _face_out(face: KnownFace) -> dict[str, object]:
    out: dict[str, object] = {"id": face.id, "state": face.state.value, "score": face.score}
    out |= {"bbox": _numbers(face.box), "region": _numbers(face.region)}
    marks = face.landmarks
    if marks is not None:
        out |= {"rotation": marks.rotation, "center": list(marks.center), "layout": marks.layout}
        out["keypoints"] = [list(point) for point in marks.keypoints]
        if marks.visibility:
            out["visibility"] = list(marks.visibility)
        if marks.pose is not None:
            out["pose"] = list(marks.pose)
    return out


def load(data: bytes) -> LandmarkFile:
    """Read strictly; raises SidecarError with a phrase that follows the file's name."""
    try:
        raw = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise SidecarError("is not JSON") from None
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise SidecarError(f'does not say "schema": "{SCHEMA}"')
    try:
        return _file_in(raw)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SidecarError(f"is not a landmark file of ours ({type(error).__name__}: {error})") from None


def _refuse_constant(text: str) -> float:
    raise ValueError(text)


def _only(raw: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Refuse what we would lose by writing the file again."""
    if not isinstance(raw, dict):
        raise TypeError("an object is expected")
    if unknown := set(raw) - set(names):
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    return raw


def _file_in(raw: Mapping[str, Any]) -> LandmarkFile:
    _only(raw, "schema", "photo", "models", "sidecar", "leaving", "faces")
    photo = _only(raw["photo"], "file_name", "width", "height", "orientation", "size", "mtime_ns")
    faces = tuple(_face_in(face) for face in _list(raw["faces"]))
    if len({face.id for face in faces}) != len(faces) or len(faces) > _MAX_FACES:
        raise ValueError("ids of faces")
    leaving = (
        Known(
            _integer(_only(face, "id", "region")["id"], 1),
            Area(*_floats(face["region"], 4)),
            FaceState.PENDING,
        )
        for face in _list(raw.get("leaving", []))
    )
    return LandmarkFile(
        file_name=_text(photo["file_name"]),
        stored=Size(_integer(photo["width"], 1), _integer(photo["height"], 1)),
        orientation=_integer(photo["orientation"], 1, 8),
        signature=FileSignature(_integer(photo["size"]), _integer(photo["mtime_ns"], None)),
        models=_text(_only(raw["models"], "fingerprint")["fingerprint"]),
        sidecar=_record_in(raw["sidecar"]) if "sidecar" in raw else None,
        faces=faces,
        leaving=tuple(leaving),
    )


def _record_in(raw: Mapping[str, Any]) -> SidecarRecord:
    _only(raw, "file_name", "created", "container", "before", "after", "pending")
    if not isinstance(raw["created"], bool) or raw["container"] not in ("", "list", "block"):
        raise ValueError("sidecar")
    texts = {key: _text(raw[key]) for key in ("file_name", "before", "after", "pending")}
    return SidecarRecord(created=raw["created"], container=raw["container"], **texts)


def _face_in(raw: Mapping[str, Any]) -> KnownFace:
    _only(raw, *(_FACE if "layout" in raw else _FACE[:5]))
    (score,) = _floats([raw["score"]], 1)
    return KnownFace(
        id=_integer(raw["id"], 1),
        state=FaceState(raw["state"]),
        score=score,
        box=StoredBox(*_floats(raw["bbox"], 4)),
        region=Area(*_floats(raw["region"], 4)),
        landmarks=_landmarks_in(raw) if "layout" in raw else None,
    )


def _landmarks_in(raw: Mapping[str, Any]) -> Landmarks:
    points = tuple(_floats(point, 3) for point in _list(raw["keypoints"]))
    (rotation,) = _floats([raw["rotation"]], 1)
    x, y = _floats(raw["center"], 2)
    yaw, pitch, roll = _floats(raw.get("pose", [0, 0, 0]), 3)
    return Landmarks(
        layout=_text(raw["layout"]),
        keypoints=tuple((px, py, confidence) for px, py, confidence in points),
        visibility=tuple(_integer(v) for v in _list(raw.get("visibility", []))),
        rotation=rotation,
        center=(x, y),
        pose=(yaw, pitch, roll) if "pose" in raw else None,
    )


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a list is expected")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is expected")
    return value


def _integer(value: object, least: int | None = 0, most: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("a whole number is expected")
    if (least is not None and value < least) or (most is not None and value > most):
        raise ValueError(f"{value} is out of range")
    return value


def _floats(values: object, count: int) -> Sequence[float]:
    numbers = _list(values)
    if len(numbers) != count or any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in numbers):
        raise TypeError(f"{count} numbers are expected")
    if not all(math.isfinite(n) for n in numbers):
        raise ValueError("a number is too large")
    return [float(n) for n in numbers]
